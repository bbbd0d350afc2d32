"""A small embedded shop behind `headgate serve`, for tests of the serving processes themselves."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from headgate.audit.trail import log_trail, outbox_trail
from headgate.audit.verify import Entry
from tests.ways.deployment import PROGRAM, Process, headgate, reader_of, ready, until

ROWS = 19


class Shop:
    """A shop whose store is filled by `headgate sync`; its config may be written anew at any time."""

    def __init__(
        self, folder: Path, server: str = "port: 0", access: str = "local: true", more: str = "", pipeline: str = ""
    ) -> None:
        self.folder = folder
        self.config = folder / "headgate.yaml"
        with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
            shop.execute("create table customers (id integer primary key, email text unique)")
            rows = [(number, f"c{number}@shop.example") for number in range(1, ROWS + 1)]
            shop.executemany("insert into customers values (?, ?)", rows)
            shop.commit()
        self._pipeline = f", {pipeline}" if pipeline else ""
        self.write(server, access, more)

    def write(self, server: str = "port: 0", access: str = "local: true", more: str = "") -> None:
        """The config, whole and at once."""
        draft = self.folder / "draft.yaml"
        draft.write_text(f"""\
data: data
server: {{{server}}}
access: {{{access}}}
pipelines:
  shop: {{source: {{kind: sqlite, path: "{self.folder}/shop.db"}}{self._pipeline}}}
{more}""")
        draft.replace(self.config)

    @contextlib.contextmanager
    def serving(self, *words: str) -> Iterator[Process]:
        """`headgate serve` with these words, once it answers."""
        with headgate(self.folder, "sync"), headgate(self.folder, "serve", *words) as process:
            url = process.url()
            until(lambda: ready(url))
            yield process

    def events(self, type_: str) -> list[dict[str, Any]]:
        """The data of every event of a type."""
        return list(self.each_event(type_))

    def each_event(self, type_: str) -> Iterator[dict[str, Any]]:
        """The same one by one: from the log, and from outboxes that are not published yet."""
        _, app = reader_of(self.config)
        seen: set[str] = set()
        with app:
            logged = log_trail(app.log(None))
            for each in itertools.chain(logged, outbox_trail(self.folder / "data" / "outbox", unpublished=True)):
                assert isinstance(each, Entry)
                whole = json.loads(each.body)
                if whole["type"] == f"dev.headgate.{type_}.v1" and each.id not in seen:
                    seen.add(each.id)
                    yield whole["data"]

    def verify(self) -> None:
        """`headgate audit verify` must find the record in order."""
        done = subprocess.run([PROGRAM, "audit", "verify"], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def workers_of(process: Process) -> list[psutil.Process]:
    """The worker processes that live now."""
    return [each for each in psutil.Process(process.pid).children() if lives(each)]


def lives(worker: psutil.Process) -> bool:
    """Whether it has not ended. Who has ended may not be buried yet."""
    try:
        return worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def clients_of(worker: psutil.Process, url: str) -> int:
    """How many clients' connections a worker holds, those included whose clients have left and which it still has."""
    port = httpx.URL(url).port
    return sum(each.laddr.port == port for each in worker.net_connections("tcp"))


def await_replaced(process: Process, url: str, gone: psutil.Process, workers: int) -> None:
    """Returns once another worker serves in the place of one that ends."""

    def is_replaced() -> bool:
        living = workers_of(process)
        return gone not in living and len(living) == workers and ready_workers(url) == workers

    until(is_replaced)


def ready_workers(url: str) -> int:
    """How many workers say that they serve; none where the one that was asked ended before it said so."""
    try:
        count: int = page(url, "/readyz").json()["workers"]["ready"]
    except httpx.TransportError:
        return 0
    return count


def page(url: str, name: str) -> httpx.Response:
    """One of the plain pages."""
    return httpx.get(url.replace("/mcp", name), timeout=60)
