"""How old an answer says that it is: a quiet source is fresh, a silent pipeline is not (DESIGN §6).

Every figure here is one that an answer carries, read over HTTP as a client gets it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg

from headgate.stack import Postgres
from tests.ways.asking import ask
from tests.ways.deployment import BASICS, Process, frozen_walsender, headgate, until, write_config

IDLE_S = 15.0
FROZEN_S = 60.0
QUIET_MS = 10_000
"""What a source that says nothing may seem to be behind: heartbeats come each second, on a busy machine later."""
BOUND_MS = 20_000

_pause = threading.Event()
"""Never set: these tests are about time that passes."""


class Told(NamedTuple):
    """What an answer says of itself."""

    values: dict[str, Any] | None
    state: str
    staleness_ms: int
    text: str


class Agent:
    """A client that asks for one item."""

    def __init__(self, process: Process) -> None:
        self._url = process.url()
        self._client = httpx.Client(timeout=60)

    def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        answer = ask(self._client, self._url, tool, arguments)
        assert answer.result is not None
        return answer.result

    def item(self) -> Told:
        """The item and how fresh it is, as told."""
        result = self.call("lookup_item", {"item_id": 1})
        assert not result["isError"], result
        freshness = result["_meta"]["headgate/freshness"]
        rows = result["structuredContent"]["rows"]
        values = rows[0]["values"] if rows else None
        return Told(values, freshness["state"], freshness["staleness_ms"], result["content"][0]["text"])

    def is_there(self) -> bool:
        """Whether the item can be looked up and is fresh."""
        result = self.call("lookup", {"entity": "item", "key": 1})
        return not result["isError"] and result["_meta"]["headgate/freshness"]["state"] == "fresh"

    def close(self) -> None:
        self._client.close()


@contextmanager
def agent_of(process: Process) -> Iterator[Agent]:
    agent = Agent(process)
    try:
        yield agent
    finally:
        agent.close()


def sampled(agent: Agent, seconds: float) -> list[Told]:
    """What is told, four times a second, for so long."""
    told = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        told.append(agent.item())
        _pause.wait(0.25)
    return told


def on_postgres(folder: Path, pipeline: str, database: str) -> Path:
    return write_config(
        folder,
        f"""
{BASICS}pipelines:
  {pipeline}:
    source: {{kind: postgres, dsn: "{database}"}}
    freshness_bound_s: {BOUND_MS // 1000}
""",
    )


def test_staleness_rises_with_the_silence_of_the_walsender_and_not_with_a_quiet_source(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    on_postgres(tmp_path, "stale", database)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table items (id int primary key, name text)")
        owner.execute("insert into items values (1, 'old')")
        with headgate(tmp_path, "run") as process, agent_of(process) as agent:
            until(agent.is_there)

            idle = sampled(agent, IDLE_S)
            assert {told.state for told in idle} == {"fresh"}
            assert max(told.staleness_ms for told in idle) < QUIET_MS

            with frozen_walsender(postgres):
                owner.execute("update items set name = 'new' where id = 1")
                frozen = sampled(agent, FROZEN_S)
            assert_rose(frozen)

            until(lambda: agent.item().staleness_ms < QUIET_MS)  # what it held back comes first, with older times
            after = agent.item()
            assert after.values == {"id": 1, "name": "new"}
            assert after.state == "fresh"
            assert "out of date" not in after.text


def assert_rose(frozen: list[Told]) -> None:
    """By about as long as the silence lasted, without a step back, and said in words past the bound."""
    staleness = [told.staleness_ms for told in frozen]
    later = staleness[len(staleness) // 10 :]  # what had left the source before still arrives
    assert later == sorted(later)
    assert FROZEN_S * 1000 - QUIET_MS < staleness[-1] < FROZEN_S * 1000 + 2 * QUIET_MS
    for told in frozen:
        assert told.values == {"id": 1, "name": "old"}
        assert told.state == ("stale" if told.staleness_ms > BOUND_MS else "fresh")
        assert ("may be out of date" in told.text) is (told.state == "stale")
    assert {told.state for told in frozen} == {"fresh", "stale"}


def test_a_pipeline_that_nobody_runs_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with sqlite3.connect(path) as owner:
        owner.execute("create table items (id integer primary key, name text)")
        owner.execute("insert into items values (1, 'old')")
    owner.close()
    write_config(
        tmp_path,
        f"""
{BASICS}pipelines:
  still:
    source: {{kind: sqlite, path: "{path}"}}
    freshness_bound_s: 2
""",
    )
    with headgate(tmp_path, "sync") as sync, headgate(tmp_path, "serve") as serving, agent_of(serving) as agent:
        until(agent.is_there)
        for end in (sync.stop, sync.crash):
            end()
            until(lambda: agent.item().state == "stopped")
            told = agent.item()
            assert told.staleness_ms > 2_000
            assert told.values == {"id": 1, "name": "old"}
            assert "because its pipeline, or this part of it, does not run" in told.text
            sync.start()
            until(agent.is_there)


def test_before_the_snapshot_is_whole_there_is_no_answer_and_an_empty_table_answers_nothing_freshly(
    tmp_path: Path, database: str
) -> None:
    on_postgres(tmp_path, "beginning", database)
    with psycopg.connect(database, autocommit=True) as owner, psycopg.connect(database) as other:
        owner.execute("create table items (id int primary key, name text)")
        owner.execute("insert into items values (1, 'old')")
        owner.execute("create table empties (id int primary key)")
        # A snapshot waits for the end of every transaction that has begun to write.
        other.execute("select pg_current_xact_id()")
        with headgate(tmp_path, "run") as process, agent_of(process) as agent:
            until(lambda: freshness_of(agent).keys() == {"empty", "item"})
            assert {each["state"] for each in freshness_of(agent).values()} == {"snapshotting"}
            refused = agent.call("lookup", {"entity": "item", "key": 1})
            assert refused["isError"]
            assert refused["_meta"]["headgate/error"]["code"] == "snapshot_pending"

            other.commit()
            until(agent.is_there)
            until(lambda: {each["state"] for each in freshness_of(agent).values()} == {"fresh"})
            nothing = agent.call("find", {"entity": "empty"})
            assert nothing["structuredContent"]["rows"] == []
            assert nothing["_meta"]["headgate/freshness"]["state"] == "fresh"
            missing = agent.call("lookup", {"entity": "item", "key": 2})
            assert missing["structuredContent"]["rows"] == []
            assert missing["_meta"]["headgate/freshness"]["state"] == "fresh"


def freshness_of(agent: Agent) -> dict[str, dict[str, Any]]:
    """What `check_data_freshness` says, by entity."""
    answer = agent.call("check_data_freshness", {})
    return {each["entity"]: each["freshness"] for each in answer["structuredContent"]["entities"]}
