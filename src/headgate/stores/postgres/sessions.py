"""A bounded set of connections to read by. Each answer is one pipeline: one round trip, one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg.errors import UndefinedTable

from headgate.connections.postgres import Config, describe, session_of, translated
from headgate.errors import Unavailable
from headgate.stores.postgres.tables import PLANNING, guard

Session: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
Question: TypeAlias = tuple[str, Mapping[str, Any]]
Found: TypeAlias = list[tuple[Any, ...]]

_MOST = 8
_ANSWER_S = 10.0
_BEGIN = "begin isolation level repeatable read read only"
_SILENT = "PostgreSQL does not answer in time: try again"


class Sessions:
    """Connections of one event loop, opened as they are needed. Who comes when all are in use waits for one."""

    def __init__(self, target: Config, most: int = _MOST, answer_s: float = _ANSWER_S) -> None:
        self._target = target
        self._answer_s = answer_s
        self._idle: list[Session] = []
        self._free = asyncio.Semaphore(most)
        self._leaving: dict[Session, asyncio.Task[None]] = {}

    async def ask(self, questions: Sequence[Question]) -> list[Found] | None:
        """What each of these finds, all in one snapshot; None while there are no tables. Unavailable or StoreError.

        When the caller is cancelled, or no answer comes in time, the server is told to stop too.
        """
        with guard(self._target):
            await self._wait_for_place()
            session: Session | None = None
            try:
                while True:
                    is_used, session = bool(self._idle), await self._next()
                    try:
                        return await self._answer(session, questions)
                    except UndefinedTable:
                        return None
                    except psycopg.OperationalError:
                        if not is_used or not session.closed:
                            raise
                        await self._drop_idle()  # they went with the server, which may be back
            finally:
                if session not in self._leaving:
                    self._free.release()

    async def close(self) -> None:
        """Closes all connections, also those that are being given up. Never raises."""
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await self._drop_idle()

    async def _wait_for_place(self) -> None:
        try:
            async with asyncio.timeout(self._answer_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable(_SILENT, retry_after_s=1.0) from error

    async def _next(self) -> Session:
        return self._idle.pop() if self._idle else await self._open()

    async def _open(self) -> Session:
        dsn = self._target.conninfo()
        settings = {
            **PLANNING,
            "search_path": self._target.store_schema,
            "statement_timeout": str(round(self._answer_s * 1_000)),
        }
        with translated(describe(dsn)):
            return await psycopg.AsyncConnection.connect(dsn, autocommit=True, **session_of(dsn, settings))

    async def _answer(self, session: Session, questions: Sequence[Question]) -> list[Found]:
        exchange = asyncio.ensure_future(_exchange(session, questions))
        try:
            await asyncio.wait({exchange}, timeout=self._answer_s)
        except asyncio.CancelledError:
            self._give_up(session, exchange)
            raise
        if not exchange.done():
            self._give_up(session, exchange)
            raise Unavailable(_SILENT, retry_after_s=1.0)
        if exchange.exception() is not None:
            await session.close()
        found = exchange.result()
        self._idle.append(session)
        return found

    def _give_up(self, session: Session, exchange: asyncio.Future[list[Found]]) -> None:
        """Leaves a connection to itself, with its place, until the server has stopped what it was asked."""
        self._leaving[session] = asyncio.ensure_future(self._leave(session, exchange))

    async def _leave(self, session: Session, exchange: asyncio.Future[list[Found]]) -> None:
        exchange.cancel()  # psycopg then asks the server to stop, and closes a connection that does not
        await asyncio.gather(exchange, return_exceptions=True)
        await session.close()
        del self._leaving[session]
        self._free.release()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


async def _exchange(session: Session, questions: Sequence[Question]) -> list[Found]:
    async with session.pipeline():
        await session.execute(_BEGIN)
        cursors = [await session.execute(text, given, binary=True) for text, given in questions]
        await session.execute("commit")
    return [await cursor.fetchall() for cursor in cursors]
