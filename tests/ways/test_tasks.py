"""Tasks across real processes: made by one replica, asked for at another, finished by whichever is alive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.ways.asking import VERSION
from tests.ways.deployment import ready, until
from tests.ways.replicas import ISSUERS, Replicas, Said, token

EXTENSION = "io.modelcontextprotocol/tasks"
SCAN = {"entity": "customer", "where": {}}
ROWS = 19
ENDED = ("completed", "failed", "cancelled")


class OnPostgres(Replicas):
    """Replicas that read PostgreSQL, and share their state on Valkey: rows can be locked, and tasks go on."""

    def __init__(self, folder: Path, redis_url: str, dsn: str) -> None:
        super().__init__(folder, redis_url, f"{ISSUERS}, budgets: {{read: {{calls: 10000}}}}")
        self._dsn = dsn

    def config(self, name: str) -> Path:
        path = super().config(name)
        text = path.read_text()
        text = text.replace("connections:\n", f'connections:\n  rows: {{kind: postgres, dsn: "{self._dsn}"}}\n')
        path.write_text(text.replace("store: cache", "store: rows") + "state: cache\ntasks: {after_ms: 200}\n")
        return path


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        yield opened


@pytest.fixture
def replicas(tmp_path: Path, redis_url: str, database: str) -> OnPostgres:
    return OnPostgres(tmp_path, redis_url, database)


@contextlib.contextmanager
def locked_rows(dsn: str) -> Iterator[psycopg.Connection]:
    """Whoever reads a row waits, for the length of a block."""
    with psycopg.connect(dsn) as owner:
        owner.execute("lock table headgate.rows in access exclusive mode")
        yield owner
        owner.rollback()


def readers_waiting(owner: psycopg.Connection) -> int:
    """How many statements wait for a lock."""
    waiting = owner.execute("select count(*) from pg_locks where not granted").fetchone()
    assert waiting is not None
    return int(waiting[0])


def send(
    client: httpx.Client, url: str, method: str, name: str, params: Mapping[str, Any], subject: str = "ada"
) -> Said:
    """One request of a client that takes tasks."""
    capabilities: dict[str, Any] = {"extensions": {EXTENSION: {}}}
    meta = {"io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": capabilities}  # fmt: skip
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION, "Mcp-Method": method,
               "Mcp-Name": name, "Authorization": f"Bearer {token(subject)}"}  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    return Said(client.post(url, json=body, headers=headers))


def make(client: httpx.Client, url: str) -> str:
    """The id of a task that reads all rows."""
    made = send(client, url, "tools/call", "scan", {"name": "scan", "arguments": SCAN}).result
    assert (made.get("resultType"), made.get("status")) == ("task", "working"), made
    return str(made["taskId"])


def reads(client: httpx.Client, url: str) -> bool:
    """Whether the rows are there."""
    result = send(client, url, "tools/call", "scan", {"name": "scan", "arguments": SCAN}).result
    return result.get("isError") is False and result["structuredContent"]["scanned"] == ROWS


def get(client: httpx.Client, url: str, id_: str, subject: str = "ada") -> Said:
    return send(client, url, "tasks/get", id_, {"taskId": id_}, subject)


def test_a_task_whose_replica_is_killed_is_finished_by_another(
    replicas: OnPostgres, client: httpx.Client, database: str
) -> None:
    with replicas.syncing(), replicas.serving(2) as urls:
        until(lambda: reads(client, urls[0]))
        doomed = replicas.start("doomed")
        until(lambda: ready(doomed.url()))
        with locked_rows(database) as owner:
            id_ = make(client, doomed.url())
            assert [get(client, url, id_).result["status"] for url in urls] == ["working"] * 2
            assert get(client, urls[0], id_, "eve").code == "unknown_task"
            until(lambda: readers_waiting(owner) == 1)
            doomed.crash()
            assert get(client, urls[1], id_).result["status"] == "working"
        found = until(lambda: _ended(client, urls[0], id_))
        assert get(client, urls[1], id_).result["result"] == found["result"]
    assert found["status"] == "completed"
    assert found["result"]["structuredContent"]["scanned"] == ROWS
    assert found["result"]["isError"] is False


def test_a_cancelled_task_stops_at_the_engine_whichever_replica_is_told(
    replicas: OnPostgres, client: httpx.Client, database: str
) -> None:
    with replicas.syncing(), replicas.serving(2) as urls:
        until(lambda: reads(client, urls[0]))
        with locked_rows(database) as owner:
            ids = [make(client, urls[0]) for _ in range(2)]
            until(lambda: readers_waiting(owner) == 2)
            for url, id_ in zip(urls, ids, strict=True):
                assert send(client, url, "tasks/cancel", id_, {"taskId": id_}).result["resultType"] == "complete"
                assert get(client, urls[0], id_).result["status"] == "cancelled"
            until(lambda: readers_waiting(owner) == 0)


def test_a_replica_that_is_asked_to_end_leaves_its_tasks_to_the_others_at_once(
    replicas: OnPostgres, client: httpx.Client, database: str
) -> None:
    with replicas.syncing(), replicas.serving(1) as [url]:
        until(lambda: reads(client, url))
        leaving = replicas.start("leaving")
        until(lambda: ready(leaving.url()))
        with locked_rows(database):
            id_ = make(client, leaving.url())
            assert leaving.stop() == 0
        assert until(lambda: _ended(client, url, id_))["status"] == "completed"


def _ended(client: httpx.Client, url: str, id_: str) -> dict[str, Any]:
    found = get(client, url, id_).result
    return found if found["status"] in ENDED else {}
