"""The calls of governance.py: what a server answers with everything on, with the record alone, and without it.

python bench/governance_calls.py MODE FOLDER     (one mode's server, as governance.py starts it)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
from measure import cpu_seconds, line, milliseconds

from headgate.app import App
from headgate.audit.outbox import Outbox
from headgate.config import load
from headgate.errors import HeadgateError, OutboxError

CONNECTIONS = 16
CALLERS = 1_000
ROWS = 10_000
SECRET = "a bench's secret, no other one's, 32+"
ISSUER = "https://bench.example"
ROUNDS = 5
MODES = ("all", "record only", "off")
FILL_S = 120.0

# Nothing captures while calls are measured: answers must not be late for that.
BASICS = """
data: data
server: {{port: 0}}
pipelines:
  shop: {{source: {{kind: sqlite, path: "{shop}"}}, freshness_bound_s: 86400{store}}}
entities:
  customer:
    from: shop.main.customers
    fields: {{email: {{class: personal.email}}}}
"""
ON_VALKEY = """
connections:
  cache: {{kind: redis, url: "{url}"}}
"""
LOCAL = "access: {local: true}\n"
TOKENS = f"""
access:
  issuers: [{{issuer: "{ISSUER}", algorithms: [HS256], secret: "{SECRET}"}}]
"""
FREE = TOKENS + "  budgets: {costs: {lookup_customer: 0}}\n"
GOVERNED = f"""{TOKENS}\
  policy: policy.yaml
  policy_key: "{"k" * 32}"
  budgets: {{read: 10000}}
"""


class Forgetful(Outbox):
    """An outbox that keeps nothing: the server without its record. An heir, so that whatever calls post to is here."""

    def __init__(self, kept: Outbox) -> None:
        self.writer = kept.writer
        self.unrecorded = 0

    def post(
        self,
        event: bytes,
        event_id: str,
        told: Callable[[OutboxError | None], None],
        *,
        required: bool = False,
        alone: bool = False,
    ) -> None:
        """Told at once; `append` and `put` go through here too."""
        told(None)


def serve(folder: Path, mode: str) -> None:
    """The server's process: prints its port."""
    config = "governed.yaml" if mode == "all" else "plain.yaml"
    with App(load(folder / config)) as app:
        if mode == "off":
            object.__setattr__(app.rooms, "outbox", Forgetful(app.outbox))
        asyncio.run(app.serve_http(lambda port: print(port, flush=True), asyncio.Event()))


def make_shop(folder: Path, url: str | None) -> None:
    """A shop whose rows are in the store already, and the configs. The store is the Valkey at `url`, else embedded."""
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
        shop.execute("create table customers (id integer primary key, email text unique, plan text)")
        rows = ((number, f"c{number}@shop.example", "free") for number in range(1, ROWS + 1))
        shop.executemany("insert into customers values (?, ?, ?)", rows)
        shop.commit()
    basics = BASICS.format(shop=folder / "shop.db", store="" if url is None else ", store: cache, partitions: 1")
    if url is not None:
        basics += ON_VALKEY.format(url=url)
    # Only who has a token goes the straight way, which only such a store has.
    (folder / "plain.yaml").write_text(basics + (LOCAL if url is None else FREE))
    (folder / "governed.yaml").write_text(basics + GOVERNED)
    rules = [
        {"name": f"rule {number}", "to": {"claims": {"team": f"t{number}"}}, "tools": ["lookup*", "find"],
         "entities": {"customer": {"fields": {"email": "mask"}}}}
        for number in range(20)
    ]  # fmt: skip
    (folder / "policy.yaml").write_text(json.dumps({"rules": rules}))
    with App(load(folder / "plain.yaml")) as app:
        app.start_flow()
        asyncio.run(_filled(app))


async def _filled(app: App) -> None:
    """Once all rows are there, and a heartbeat has covered them."""
    deadline = time.monotonic() + FILL_S
    while True:
        with contextlib.suppress(HeadgateError):  # until the snapshot is whole
            whole = (await app.reader.count("customer")).rows == ROWS
            if whole and (await app.reader.watermark("customer")).as_of_ms:
                break
        if time.monotonic() > deadline:
            raise SystemExit("the store was never filled")
        await asyncio.sleep(0.1)
    await app.reader.close()


def token(number: int) -> str:
    """One caller's."""
    claims = {"iss": ISSUER, "aud": "headgate", "sub": f"agent-{number}", "scope": "data:read",
              "team": f"t{number % 20}", "exp": int(time.time()) + 3_600}  # fmt: skip
    return jwt.encode(claims, SECRET, algorithm="HS256")


def requests(port: int, *, with_tokens: bool) -> list[bytes]:
    """As a client of 2026-07-28 sends them."""
    bearers = [f"Authorization: Bearer {token(number)}\r\n" for number in range(CALLERS)] if with_tokens else [""]
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    made = []
    for number in range(CALLERS):
        params = {"name": "lookup_customer", "arguments": {"customer_id": 1 + number * 9}, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        made.append((
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n"
            f"Mcp-Method: tools/call\r\nMcp-Name: lookup_customer\r\n{bearers[number % len(bearers)]}"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode())  # fmt: skip
    return made


async def ask(port: int, asked: Iterator[bytes], until: float, took: list[float]) -> None:
    """One connection, call after call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(next(asked))
        head = await reader.readuntil(b"\r\n\r\n")
        body = await _body(head.lower(), reader)
        assert head.startswith(b"HTTP/1.1 200"), body
        assert b'"isError":false' in body.replace(b" ", b""), body
        took.append(time.perf_counter() - began)
    writer.close()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"content-length:" in head:
        return await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


class Served:
    """One mode's server, and what was measured of it so far."""

    def __init__(self, folder: Path, mode: str, store: str) -> None:
        command = [sys.executable, __file__, mode, str(folder)]
        self.mode = mode
        self._store = store
        self.took: list[float] = []
        self.cpu_s = self.seconds = 0.0
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self._port = int(self.process.stdout.readline())
        self._asked = itertools.cycle(requests(self._port, with_tokens=mode == "all" or store == "valkey"))

    def load(self, seconds: float) -> list[float]:
        """How long each call took, of as many as were answered in that time."""

        async def run() -> list[float]:
            took: list[float] = []
            until = time.perf_counter() + seconds
            await asyncio.gather(*(ask(self._port, self._asked, until, took) for _ in range(CONNECTIONS)))
            return took

        return asyncio.run(run())

    def measure(self, seconds: float) -> None:
        """One round."""
        before = cpu_seconds(self.process.pid)
        self.took += self.load(seconds)
        self.cpu_s += cpu_seconds(self.process.pid) - before
        self.seconds += seconds

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def said(self) -> dict[str, Any]:
        """Its line."""
        return line(
            self.mode,
            what="calls",
            store=self._store,
            connections=CONNECTIONS,
            calls_per_s=round(len(self.took) / self.seconds),
            cpu_us=round(self.cpu_s / len(self.took) * 1e6),
            **milliseconds(self.took),
        )


def call_rates(folder: Path, seconds: float, url: str | None = None) -> dict[str, float]:
    """The modes in turns, so that what else the machine does falls on all of them."""
    store = "embedded" if url is None else "valkey"
    shop = folder / f"shop-{store}"
    make_shop(shop, url)
    servers = [Served(shop, mode, store) for mode in MODES]
    try:
        for server in servers:
            server.load(min(2.0, seconds))
        for _ in range(ROUNDS):
            for server in servers:
                server.measure(seconds / ROUNDS)
    finally:
        for server in servers:
            server.stop()
    said = {server.mode: server.said() for server in servers}
    off = said["off"]
    return {
        f"{store}_{name}_{what}": 1 - value
        for name, mode in (("all_costs", "all"), ("record_costs", "record only"))
        for what, value in (
            ("of_calls_per_s", said[mode]["calls_per_s"] / off["calls_per_s"]),
            ("of_calls_per_core", off["cpu_us"] / said[mode]["cpu_us"]),
        )
    }


if __name__ == "__main__":
    serve(Path(sys.argv[2]), sys.argv[1])
