"""A client that reads slowly slows the reading of the store, and the server keeps little for it."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.ways.asking import VERSION
from tests.ways.deployment import Process, ready, until
from tests.ways.replicas import ISSUERS, Replicas, token

ROWS = 60_000
ROW_BYTES = 1_000
GROWTH_KIB = 48 * 1024
"""Less than the rows take: what a server may grow by, whatever one client leaves unread."""
_STILL = 20


class Large(Replicas):
    """Replicas of a shop with a large table."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url, ISSUERS)
        with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
            shop.execute("create table notes (id integer primary key, note text)")
            shop.execute(
                "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)"
                " insert into notes select i, hex(randomblob(?)) from n",
                (ROWS, ROW_BYTES // 2),
            )
            shop.commit()


def test_memory_is_bounded_and_the_store_is_read_no_faster_than_the_client_reads(
    tmp_path: Path, redis_url: str
) -> None:
    replicas = Large(tmp_path, redis_url)
    with replicas.syncing():
        _until_whole(replicas)
    process = replicas.start("slow")
    try:
        until(lambda: ready(process.url()))
        with redis.Redis.from_url(redis_url) as store, _asked(process.url(), store) as answer:
            before_kib = _resident_kib(process)
            asked = _stands_still(store)
            stalled_kib = _resident_kib(process)
            told = []
            result: dict[str, Any] = {}
            for message in _messages(answer):
                if message.get("method") == "notifications/message":
                    told += [row["values"]["id"] for row in message["params"]["data"]["items"]]
                elif "result" in message:
                    result = message["result"]
            after_kib = _resident_kib(process)
            in_all = _scripts_run(store)
            assert 2 * asked < in_all, "most of it was read only once the client read"
    finally:
        assert process.stop() == 0
    assert sorted(told) == list(range(1, ROWS + 1)), "each row once"
    assert result["structuredContent"]["told"]["rows"] == ROWS
    assert result["structuredContent"]["truncated"]["returned"] < ROWS
    assert GROWTH_KIB * 1024 < ROWS * ROW_BYTES
    assert stalled_kib - before_kib < GROWTH_KIB
    assert after_kib - before_kib < GROWTH_KIB


def _until_whole(replicas: Replicas) -> None:
    with replicas.serving(1) as [url], httpx.Client(timeout=60) as client:
        until(lambda: _counted(client, url) == ROWS)


def _counted(client: httpx.Client, url: str) -> int:
    """How many rows there are to read."""
    last = {"entity": "note", "where": {}, "limit": ROWS}
    with client.stream("POST", url, **_request("scan", {**last, "tell": True})) as answer:
        for message in _messages(answer):
            if "result" in message:
                told = message["result"].get("structuredContent", {}).get("told", {"rows": 0})
                return int(told["rows"])
    return 0


@contextlib.contextmanager
def _asked(url: str, store: redis.Redis) -> Iterator[httpx.Response]:
    """An answer whose head has come; its client has room for little, and reads nothing of it yet."""
    transport = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)])
    arguments = {"entity": "note", "limit": ROWS, "tell": True}
    store.config_resetstat()
    with (
        httpx.Client(timeout=60, transport=transport) as client,
        client.stream("POST", url, **_request("scan", arguments)) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer


def _request(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    meta = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/logLevel": "info"}  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": meta}}  # fmt: skip
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION,
               "Mcp-Method": "tools/call", "Mcp-Name": tool, "Authorization": f"Bearer {token()}"}  # fmt: skip
    return {"json": body, "headers": headers}


def _messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        yield json.loads(answer.read())
        return
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _stands_still(store: redis.Redis) -> int:
    """How many scripts were run once the store has not been asked for a while."""
    seen: list[int] = []

    def is_still() -> bool:
        seen.append(_scripts_run(store))
        return len(seen) >= _STILL and len(set(seen[-_STILL:])) == 1

    until(is_still)
    return seen[-1]


def _scripts_run(store: redis.Redis) -> int:
    """How many there were since the server's statistics were last looked at anew."""
    stats: dict[str, dict[str, int]] = store.info("commandstats")
    return sum(stats.get(name, {}).get("calls", 0) for name in ("cmdstat_eval", "cmdstat_evalsha"))


def _resident_kib(process: Process) -> int:
    """VmRSS, see proc_pid_status(5)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
