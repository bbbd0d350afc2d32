"""The TLS that the servers of pip's packages were built without: an end of it, before a real server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASKS_FOR_TLS = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""A PostgreSQL client's first message (SSLRequest)."""


class Encrypted:
    """Takes TLS alone, and passes on what is inside to a port of this machine. `url` and `dsn` of it name `localhost`.

    Of a PostgreSQL it takes the question for TLS first, as its clients put it.
    """

    def __init__(self, port: int, identity: Path, *, is_postgres: bool) -> None:
        self.taken = 0
        """How many connections have said something inside: who does not trust us shakes hands at the most."""
        self.port = 0
        self._behind = port
        self._is_postgres = is_postgres
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Until `stop` is set, in this loop."""
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # whoever verifies us may leave
                await self._shake_hands(reader, writer)
                await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # it ends
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_postgres:
            if await reader.readexactly(len(ASKS_FOR_TLS)) != ASKS_FOR_TLS:
                raise ConnectionError("it asks for no TLS")
            writer.write(b"S")
        await writer.start_tls(self._tls)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65_536)
        if not first:
            return
        self.taken += 1
        back, forth = await asyncio.open_connection("127.0.0.1", self._behind)
        forth.write(first)
        ways = [asyncio.ensure_future(_copy(reader, forth)), asyncio.ensure_future(_copy(back, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            forth.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@contextmanager
def encrypted(port: int, identity: Path, *, is_postgres: bool = False) -> Iterator[Encrypted]:
    """TLS before the server on that port, by the certificate in that folder, for the length of a block."""
    end, ready, loop, stop = Encrypted(port, identity, is_postgres=is_postgres), threading.Event(), None, None

    async def serve() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        await end.serve(ready, stop)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="tls", daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield end
    finally:
        assert loop is not None and stop is not None
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
