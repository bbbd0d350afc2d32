"""A whole Headgate as its users run it: the installed command, its own processes, a config file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import msgspec
import psutil
from mcp import Client

from headgate.app import App
from headgate.config import load
from headgate.errors import HeadgateError
from headgate.failpoints import VARIABLE
from headgate.stack import Postgres
from headgate.stores.base import Query, Reader

T = TypeVar("T")
PROGRAM = Path(sys.executable).parent / "headgate"
PATIENCE_S = 120.0
_tick = threading.Event()
"""Never set: what another process does can only be asked for again."""


class Process:
    """One `headgate` process. Its output goes to a file, which a failure shows."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._words = words
        self._folder = folder
        self.output = folder / f"{words[0]}-{time.monotonic_ns()}.txt"
        self.start()

    def start(self, failpoints: str = "") -> None:
        """Starts it, or starts it again, with these failpoints armed."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [PROGRAM, *self._words], cwd=self._folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env={**os.environ, VARIABLE: failpoints or os.environ.get(VARIABLE, "")},
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """kill -9, and no more."""
        self._process.kill()
        self._process.wait()

    def crash(self) -> None:
        """kill -9 of a process that must still be there: one that ended by itself fails the test."""
        self._alive()
        self.kill()

    def stop(self) -> int:
        """Asks it to end, and answers its exit code. It is killed, and the test fails, if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # a test that failed may have left it frozen
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._words} did not end:\n{self.text()}") from None

    def ended(self) -> int:
        """Waits until it has ended by itself, and answers its exit code: -9 after SIGKILL."""
        return self._process.wait(PATIENCE_S)

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def url(self) -> str:
        """Where it serves, once it says so."""
        found = until(lambda: re.findall(r"serving MCP at (\S+)", self.text()), self._alive)
        return str(found[-1])

    def _alive(self) -> None:
        assert self._process.poll() is None, f"{self._words} ended:\n{self.text()}"


@contextlib.contextmanager
def headgate(folder: Path, *words: str) -> Iterator[Process]:
    """A `headgate` command for the length of a block. It must end well when it is asked to."""
    process = Process(folder, *words)
    try:
        yield process
    except BaseException:
        process.kill()
        sys.stderr.write(process.text()[-4_000:])
        raise
    code = process.stop()
    assert code == 0, f"exit {code}:\n{process.text()}"


def until(ask: Callable[[], T], check: Callable[[], object] = lambda: None, patience_s: float = PATIENCE_S) -> T:
    """Asks until the answer is true, with a deadline."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = ask()
        if answer:
            return answer
        check()
        assert time.monotonic() < deadline, f"waited {patience_s} s in vain; last answer: {answer!r}"
        _tick.wait(0.05)


async def until_async(ask: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The same for a coroutine function."""
    last: Any = None
    async with asyncio.timeout(patience_s):
        while True:
            try:
                last = await ask()
                if last:
                    return last
            except HeadgateError as error:
                last = error
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def frozen_walsender(postgres: Postgres) -> Iterator[None]:
    """For the length of a block the one stream of changes that there is stands still, as a hung server's would."""
    until(lambda: len(postgres.walsenders()) == 1)
    (walsender,) = postgres.walsenders()
    walsender.signal(signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(walsender.pid).status() == psutil.STATUS_STOPPED)
        yield
    finally:
        walsender.signal(signal.SIGCONT)


def ready(url: str) -> bool:
    """Whether the server says that it can answer."""
    try:
        return httpx.get(url.replace("/mcp", "/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Client]:
    """The official client."""
    async with Client(url, **options) as connected:
        yield connected


def reader_of(config: Path) -> tuple[Reader, App]:
    """A reader on the config's store, beside the running processes."""
    app = App(load(config, os.environ))
    return app.reader, app


async def all_rows(reader: Reader, entity: str) -> list[dict[str, Any]]:
    """Every visible row, decoded, page by page."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await reader.find(entity, Query(limit=1_000, max_bytes=1 << 24, after=cursor))
        rows.extend(msgspec.json.decode(row.json) for row in page.rows)
        cursor = page.cursor
        if cursor is None:
            return rows


BASICS = """\
data: data
server: {port: 0}
access: {local: true}
"""
"""What every config of these tests begins with."""


class Broker(Protocol):
    """Whatever a Kafka client may connect to."""

    @property
    def bootstrap_servers(self) -> str: ...


def connections(kafka: Broker, redis_url: str) -> str:
    """A config's connections: `main` is Kafka, `cache` is Redis."""
    return f"""\
connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka.bootstrap_servers}"}}
  cache: {{kind: redis, url: "{redis_url}"}}
"""


def write_config(folder: Path, text: str) -> Path:
    """A config file in a folder of its own."""
    path = folder / "headgate.yaml"
    path.write_text(text)
    return path


def write_at_once(file: Path, text: str) -> None:
    """Writes a file anew: who reads it meanwhile gets the one before or the one after."""
    draft = file.with_name(f"{file.name}.draft")
    draft.write_text(text)
    draft.replace(file)


async def caught_up(reader: Reader, entity: str, since_ms: int, patience_s: float = PATIENCE_S) -> None:
    """Waits until the store says that it holds everything that its source held at that time."""

    async def asks() -> bool:
        return (await reader.watermark(entity)).as_of_ms >= since_ms

    await until_async(asks, patience_s)
