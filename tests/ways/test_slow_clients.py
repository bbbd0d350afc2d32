"""Thousands of slow or silent clients leave a server answering others; and what a stop does to calls under way."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.ways.asking import Asking
from tests.ways.deployment import until
from tests.ways.serving import ROWS, Shop

SHORT, LONG = 1_000, 10_000


@pytest.fixture
def files() -> Iterator[None]:
    """As many open files as the system lets this process have, for its own ends of the connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= LONG + 3_000, f"this test needs {LONG + 3_000} open files a process: raise  ulimit -Hn"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many connections: a third silent, a third in the middle of a header, a third in the middle of a body."""
    beginnings = (
        b"",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n"
        b"accept: application/json, text/event-stream\r\n\r\n{",
    )
    room = asyncio.Semaphore(200)  # what a listening socket's queue holds

    async def one(number: int) -> asyncio.StreamWriter:
        async with room:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(beginnings[number % 3])
            return writer

    writers = await asyncio.gather(*(one(number) for number in range(count)))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


def files_of(process: psutil.Process) -> int:
    """How many files and sockets a process holds."""
    return process.num_fds()


@pytest.mark.parametrize(
    ("count", "room", "wait_s"),
    [
        pytest.param(SHORT, SHORT * 4, 10, id="with room"),
        pytest.param(SHORT, SHORT // 4, 10, id="more than there is room for"),
        pytest.param(LONG, LONG + 2_000, 60, id="long, with room", marks=pytest.mark.soak),
        pytest.param(LONG, LONG // 4, 60, id="long, more than there is room for", marks=pytest.mark.soak),
    ],
)
def test_slow_and_silent_clients_leave_it_answering_others(
    tmp_path: Path, files: None, count: int, room: int, wait_s: int
) -> None:
    limits = f"header_timeout_s: {wait_s}, body_timeout_s: {wait_s}, connections: {room}"
    shop = Shop(tmp_path, server=f"port: 0, limits: {{{limits}}}")
    with shop.serving() as process:
        url = process.url()
        port = httpx.URL(url).port
        assert port is not None
        server = psutil.Process(process.pid)
        before = files_of(server)

        async def besieged() -> None:
            async with crowd(port, count) as writers:
                if room > count:
                    await asyncio.to_thread(until, lambda: files_of(server) >= before + count)
                else:
                    assert files_of(server) <= before + room + 10
                answered = len(asking.answers)
                await asyncio.to_thread(until, lambda: len(asking.answers) > answered + 50)
                for writer in writers[1::3]:  # another byte of the header wins no time
                    if not writer.is_closing():
                        writer.write(b"a")
                await asyncio.to_thread(until, lambda: files_of(server) <= before + 10, patience_s=180.0)

        with Asking(url, "lookup_customer", lambda number: {"customer_id": 1 + number % ROWS}) as asking:
            asyncio.run(besieged())
        assert all(answer.result is not None for answer in asking.answers)
        assert "Traceback" not in process.text()
    assert len(shop.events("call")) >= len(asking.answers)
