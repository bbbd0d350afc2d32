"""A proxy that sends each request to the next of several servers, whoever asks, and keeps nobody anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from types import TracebackType

import httpx

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)


class RoundRobin:
    """Runs in a thread of its own for the length of a block. One request a connection; answers are streamed."""

    def __init__(self, urls: list[str]) -> None:
        self.served: Counter[str] = Counter()
        """How many requests went to each server."""
        self._urls = urls
        self._next = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="round-robin", daemon=True)
        self.url = ""

    def __enter__(self) -> RoundRobin:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(await _request(reader), reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _pass_on(self, request: bytes, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the next server that is there, and its answer back as it comes, until either leaves."""
        for _ in self._urls:
            url = self._urls[self._next % len(self._urls)]
            self._next += 1
            with contextlib.suppress(OSError):
                back, forth = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
                break
        else:
            return
        self.served[url] += 1
        forth.write(request)
        try:
            left = asyncio.ensure_future(client.read())
            answer = asyncio.ensure_future(_copy(back, writer))
            await asyncio.wait({left, answer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (left, answer):
                each.cancel()
            await asyncio.gather(left, answer, return_exceptions=True)
            forth.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """One whole request, as one that is its connection's last."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return _CONNECTION.sub(b"", head)[:-4] + b"\r\nconnection: close\r\n\r\n" + body


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
