"""Several `headgate serve` on one Valkey, as behind a load balancer, and calls to each of them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt

from headgate.telemetry import wall_clock_ms
from tests.ways.asking import VERSION, message_of
from tests.ways.deployment import Process, headgate, ready, until

ISSUER = "https://login.example"
SECRET = "the replicas' common secret, 32+ bytes"
ISSUERS = f'issuers: [{{issuer: "{ISSUER}", algorithms: [HS256], secret: "{SECRET}"}}]'
ALL = "data:read pipelines:read pipelines:write"


class Replicas:
    """The replicas of one shop; each has a data folder and a config of its own, and all share store and state."""

    def __init__(self, folder: Path, redis_url: str, access: str) -> None:
        self.folder = folder
        self._redis_url = redis_url
        self._access = access
        with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
            shop.execute("create table customers (id integer primary key, email text unique)")
            shop.executemany("insert into customers values (?, ?)", [(n, f"c{n}@shop.example") for n in range(1, 20)])
            shop.commit()

    def config(self, name: str) -> Path:
        """The config of one of them."""
        path = self.folder / name / "headgate.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"""\
data: data
server: {{port: 0}}
access: {{{self._access}}}
connections:
  cache: {{kind: redis, url: "{self._redis_url}"}}
pipelines:
  shop: {{source: {{kind: sqlite, path: "{self.folder}/shop.db"}}, store: cache}}
""")
        return path

    def start(self, name: str) -> Process:
        """One more replica, not awaited."""
        return Process(self.config(name).parent, "serve")

    @contextlib.contextmanager
    def syncing(self) -> Iterator[None]:
        """Captures and materializes for the length of a block."""
        with headgate(self.config("sync").parent, "sync"):
            yield

    @contextlib.contextmanager
    def serving(self, count: int) -> Iterator[list[str]]:
        """So many replicas, each ready: their URLs."""
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(headgate(self.config(f"r{number}").parent, "serve")) for number in range(count)
            ]
            urls = [process.url() for process in running]
            for url in urls:
                until(lambda: ready(url))  # noqa: B023 - asked at once
            yield urls


def token(subject: str = "ada", scope: str = ALL, **claims: Any) -> str:
    """A token of the replicas' issuer, good for an hour."""
    now_s = wall_clock_ms() // 1000
    whole = {"iss": ISSUER, "aud": "headgate", "sub": subject, "exp": now_s + 3_600, "scope": scope, **claims}
    return jwt.encode(whole, SECRET, algorithm="HS256")


class Said:
    """What a server said to one call."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        message = message_of(response)
        self.result: dict[str, Any] = message.get("result", {})
        self.error: dict[str, Any] = message.get("error", {})

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = self.result.get("_meta", {})
        return found

    @property
    def code(self) -> str:
        """The error's; empty for an answer."""
        error = self.error.get("data") or self.meta.get("headgate/error", {})
        return str(error.get("code", ""))


def call(
    client: httpx.Client, url: str, bearer: str | None, tool: str, arguments: Mapping[str, Any], key: str = ""
) -> Said:
    """One call as a client of 2026-07-28 makes it."""
    meta = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
    if key:
        meta["headgate/idempotency-key"] = key
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": meta}}  # fmt: skip
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION,
               "Mcp-Method": "tools/call", "Mcp-Name": tool}  # fmt: skip
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    return Said(client.post(url, json=body, headers=headers))
