"""Hints by LISTEN and NOTIFY of PostgreSQL (https://www.postgresql.org/docs/current/sql-notify.html).

The channel has the name of the schema that the store keeps its tables in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from headgate.connections.postgres import Config, Connection, connect, describe, session_of, translated
from headgate.errors import Unavailable
from headgate.subscriptions.base import Hearer, Sender, Touch, decode

_ASK_EVERY_S = 5.0
"""After so long the server is asked whether it is still there, and has as long to say so."""


def open_sender(target: Config) -> Sender:
    """Notifies by a connection of its own."""
    return PostgresSender(target)


def open_hearer(target: Config) -> Hearer:
    """Listens by a connection of its own, as long as it hears."""
    return PostgresHearer(target)


class PostgresSender:
    """One round trip a message."""

    most_bytes = 7_900
    """The server takes payloads below 8,000 bytes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection: Connection | None = None

    def send(self, message: bytes) -> None:
        """See `Sender.send`."""
        dsn = self._config.conninfo()
        with translated(describe(dsn)):
            if self._connection is None or self._connection.closed:
                self._connection = connect(dsn)
            try:
                self._connection.execute("select pg_notify(%s, %s)", [self._config.store_schema, message.decode()])
            except psycopg.Error:
                self._connection.close()
                raise

    def close(self) -> None:
        """See `Sender.close`."""
        if self._connection is not None:
            self._connection.close()


class PostgresHearer:
    """A connection for as long as it hears."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def hear(self, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
        """See `Hearer.hear`."""
        dsn = self._config.conninfo()
        with translated(describe(dsn)):
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **session_of(dsn))
            try:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._config.store_schema)))
                listening()
                while True:
                    async for notice in connection.notifies(timeout=_ASK_EVERY_S):
                        told(decode(notice.payload))
                    await _ask(connection)  # what comes meanwhile is kept for the next round
            finally:
                await connection.close()


async def _ask(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    try:
        async with asyncio.timeout(_ASK_EVERY_S):
            await connection.execute("select 1")
    except TimeoutError as error:
        raise Unavailable("PostgreSQL does not answer in time: try again") from error
