"""The life of a pipeline: paused, resumed, started anew, read again, defined anew; nothing is lost by any of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import httpx
import psycopg

from headgate.stack import Kafka
from headgate.stores.base import Query, Reader
from tests.ways.asking import ask
from tests.ways.deployment import (
    all_rows,
    caught_up,
    connections,
    headgate,
    reader_of,
    ready,
    until,
    until_async,
    write_config,
)
from tests.ways.operating import BASICS, command, operator
from tests.ways.pgbench import source_clock_ms

ROWS = 400
LIFTED = 3


def on_servers(folder: Path, name: str, database: str, kafka: Kafka, redis_url: str, entity: str = "") -> Path:
    """Postgres → Kafka → Valkey, with one entity."""
    return write_config(
        folder,
        f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  {name}:
    source: {{kind: postgres, dsn: "{database}"}}
    log: main
    store: cache
    partitions: 3
    freshness_bound_s: 2
entities:
  item: {{from: {name}.public.items{entity}}}
""",
    )


@contextmanager
def owner_of(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table items (id int primary key, name text, version int not null default 0)")
        owner.execute("insert into items select n, 'old', 0 from generate_series(1, %s) n", [ROWS])
        yield owner


def test_a_paused_pipeline_stands_still_says_so_survives_restarts_and_goes_on(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str
) -> None:
    on_servers(tmp_path, "paused", database, kafka, redis_url)
    with owner_of(database) as owner, headgate(tmp_path, "sync") as sync, headgate(tmp_path, "serve") as serving:
        until(lambda: ready(serving.url()))
        with operator(tmp_path, serving.url(), "paused") as ops:
            until(lambda: ops.freshness("item")["state"] == "fresh")

            told = ops.call("pause_pipeline", pipeline_id="paused")
            assert told["structuredContent"]["is_news"] and "WAL" in told["content"][0]["text"]
            until(lambda: ops.status() == "paused")
            owner.execute("update items set name = 'new' where id = 1")
            until(lambda: ops.freshness("item")["state"] == "stopped")
            assert ops.values("item", 1)["name"] == "old"
            assert (ops.detail()["desired"], ops.faults()) == ("paused", [])

            sync.crash()
            until(lambda: ops.status() == "stopped")
            sync.start()
            until(lambda: ops.status() == "paused")
            aged = ops.freshness("item")
            until(lambda: ops.freshness("item")["staleness_ms"] > aged["staleness_ms"] + 1_000)
            assert ops.values("item", 1)["name"] == "old"
            slots = owner.execute("select count(*) from pg_replication_slots where database = current_database()")
            assert slots.fetchone() == (1,)

            assert ops.ask("resume_pipeline")["is_news"]
            until(lambda: ops.values("item", 1)["name"] == "new")
            until(lambda: ops.freshness("item")["state"] == "fresh")
            until(lambda: ops.status() == "running")
            assert ops.detail()["desired"] == "running"


def test_a_restart_ends_a_wait_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as owner:
        owner.execute("create table items (id integer primary key, name text)")
        owner.execute("insert into items values (1, 'old')")
        text = f"{BASICS}pipelines:\n  again:\n    source: {{kind: sqlite, path: '{path}'}}\n"
        write_config(tmp_path, text)
        with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), "again") as ops:
            until(lambda: ops.row("item", 1))
            path.rename(path.with_suffix(".away"))
            until(lambda: ops.status() == "error")
            path.with_suffix(".away").rename(path)
            assert "begin anew" in command(tmp_path, "pipeline", "restart", "again")
            until(lambda: ops.status() == "running")
            owner.execute("update items set name = 'new' where id = 1")
            until(lambda: ops.values("item", 1)["name"] == "new")


class Watching:
    """A reader that checks all the while that every row is there, and that none goes back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)
        self.failures: list[str] = []
        self.reads = 0
        self._newest: dict[int, int] = {}

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=60) as client:
                while not self._stop.is_set() and len(self.failures) < 5:
                    self._read(client)
        except Exception as error:
            self.failures.append(repr(error))

    def _read(self, client: httpx.Client) -> None:
        answer = ask(client, self._url, "find", {"entity": "item", "limit": ROWS}).result
        if answer is None or answer["isError"]:
            self.failures.append(str(answer))
            return
        rows = {row["values"]["id"]: row["values"]["version"] for row in answer["structuredContent"]["rows"]}
        back = [key for key, version in rows.items() if version < self._newest.get(key, 0)]
        if len(rows) != ROWS or back:
            self.failures.append(f"{len(rows)} rows, and went back: {back[:5]}")
        self._newest.update(rows)
        self.reads += 1


class Lifting:
    """The owner, who lifts every row's version one by one, without a pause."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lifting", daemon=True)

    def __enter__(self) -> Lifting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._database, autocommit=True) as connection:
            while True:
                for key in range(1, ROWS + 1):
                    if self._stop.wait(0.001):
                        return
                    connection.execute("update items set version = version + 1 where id = %s", [key])


async def test_a_new_snapshot_and_a_new_definition_are_filled_beside_what_is_read_and_shown_at_once(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str
) -> None:
    config = on_servers(tmp_path, "anew", database, kafka, redis_url)
    reader, app = reader_of(config)
    with owner_of(database), headgate(tmp_path, "serve") as serving:
        with headgate(tmp_path, "sync"):
            await until_async(lambda: reader.watermark("item"))
            until(lambda: ready(serving.url()))
            with Lifting(database), Watching(serving.url()) as watching:
                for _ in range(LIFTED):
                    before = (await reader.watermark("item")).generation
                    assert "asked to read" in command(tmp_path, "pipeline", "resnapshot", "anew", "items")
                    await until_async(partial(_is_younger, reader, before))
        on_servers(tmp_path, "anew", database, kafka, redis_url, ", lookups: [name], sorted: [version]")
        with headgate(tmp_path, "sync"), Lifting(database), Watching(serving.url()) as over_builds:
            await until_async(lambda: _has_lookup(reader, "name"))
            await caught_up(reader, "item", source_clock_ms(database))
        for each in (watching, over_builds):
            assert each.failures == []
            assert each.reads > 10
        with headgate(tmp_path, "sync"):
            await caught_up(reader, "item", source_clock_ms(database))
        with psycopg.connect(database) as connection:
            expected: dict[int, int] = dict(connection.execute("select id, version from items").fetchall())
        assert {row["id"]: row["version"] for row in await all_rows(reader, "item")} == expected
        assert len((await reader.find("item", Query(equals={"name": "old"}, limit=ROWS))).rows) == ROWS
    await reader.close()
    app.close()


async def _is_younger(reader: Reader, generation: int) -> bool:
    return (await reader.watermark("item")).generation > generation


async def _has_lookup(reader: Reader, field: str) -> bool:
    return field in (await reader.entities())["item"].lookups
