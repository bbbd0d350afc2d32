"""A topic that gets more partitions moves its keys: no reader sees a row go back, or is told too much of freshness."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AdminClient

# The library exports it by documentation, but not to type checkers.
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # isort: skip

import headgate.log.kafka.appender
from headgate.app import App
from headgate.config import load
from headgate.errors import KeysMoved
from headgate.stack import Kafka
from headgate.stores.base import Query, Reader
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import BASICS, all_rows, caught_up, until, until_async, write_config
from tests.ways.test_topic_source import Topic

ROWS = 60


class Owner:
    """Lifts the rows' versions one by one, makes others and removes them; and knows since when each version stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self.since: dict[int, tuple[list[int], list[int]]] = {key: ([], []) for key in range(1, ROWS + 1)}
        """Key → times after a commit, and the versions that had been committed then."""
        with closing(sqlite3.connect(path)) as owner:
            owner.execute("pragma journal_mode = wal").fetchone()
            owner.execute("create table items (id integer primary key, version integer)")
            owner.executemany("insert into items values (?, 0)", [(key,) for key in self.since])
            owner.commit()
        self._version = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For the length of a block."""
        self._stop.clear()
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def rows(self) -> dict[int, int]:
        """What the table holds."""
        with closing(sqlite3.connect(self._path)) as owner:
            return dict(owner.execute("select id, version from items"))

    def least(self, key: int, as_of_ms: int) -> int:
        """The version that the row had at that time, at least."""
        times, versions = self.since[key]
        place = bisect_left(times, as_of_ms)
        return versions[place - 1] if place else 0

    def _write(self) -> None:
        with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as owner:
            while not self._stop.wait(0.003):
                self._version += 1
                key = self._version % ROWS + 1
                owner.execute("update items set version = ? where id = ?", (self._version, key))
                times, versions = self.since[key]
                versions.append(self._version)
                times.append(wall_clock_ms())
                owner.execute("insert into items values (?, 0)", (1_000 + self._version,))
                owner.execute("delete from items where id = ?", (1_000 + self._version - 20,))


class Watching:
    """A reader that checks all the while that each row is there, went not back, and is as new as its answer says."""

    def __init__(self, reader: Reader, owner: Owner) -> None:
        self._reader = reader
        self._owner = owner
        self._newest: dict[int, int] = {}
        self.failures: list[str] = []
        self.reads = 0

    async def run(self) -> None:
        while True:
            answer = await self._reader.find("item", Query(limit=1_000))
            rows = {int(row.key): msgspec.json.decode(row.json)["version"] for row in answer.rows}
            for key in self._owner.since:
                self._check(key, rows.get(key), answer.watermark.as_of_ms)
            self.reads += 1
            await asyncio.sleep(0.01)

    def _check(self, key: int, version: int | None, as_of_ms: int) -> None:
        if version is None or version < self._newest.get(key, 0):
            self.failures.append(f"row {key} went from {self._newest.get(key)} back to {version}")
        elif version < (least := self._owner.least(key, as_of_ms)):
            self.failures.append(f"row {key} is at {version}, and was at {least} when it is said to be fresh")
        else:
            self._newest[key] = version


@contextmanager
def flowing(folder: Path, kafka: Kafka, source: str, entities: str = "") -> Iterator[tuple[App, Reader]]:
    """A pipeline over Kafka into the embedded store, both halves in this process."""
    text = f"""
{BASICS}connections: {{main: {{kind: kafka, bootstrap_servers: "{kafka.bootstrap_servers}"}}}}
pipelines:
  spread:
    source: {source}
    log: main
    partitions: 2
{entities}"""
    with App(load(write_config(folder, text), {})) as app:
        app.start_flow()
        yield app, app.reader


def grow(kafka: Kafka, topic: str, partitions: int) -> None:
    """As an operator of the cluster does it."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for grown in admin.create_partitions([NewPartitions(topic, partitions)]).values():
        grown.result(60)


async def spread_over(reader: Reader, partitions: int) -> None:
    """Returns once readers see rows of so many partitions, and all that the source holds now."""

    async def asks() -> bool:
        return len((await reader.watermark("item")).partitions) == partitions

    await until_async(asks)
    await caught_up(reader, "item", wall_clock_ms())


async def test_rows_of_keys_that_moved_are_read_anew_by_itself(
    tmp_path: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = headgate.log.kafka.appender._settings
    soon = {"topic.metadata.refresh.interval.ms": 100}  # writes over more partitions before anybody else knows of them
    monkeypatch.setattr(headgate.log.kafka.appender, "_settings", lambda config: {**settings(config), **soon})
    owner = Owner(tmp_path / "source.db")
    with flowing(tmp_path, kafka, f"{{kind: sqlite, path: '{tmp_path / 'source.db'}'}}") as (_, reader):
        await spread_over(reader, 2)
        watching = Watching(reader, owner)
        task = asyncio.create_task(watching.run())
        with owner.writing():
            grow(kafka, "spread.main.items", 4)
            await spread_over(reader, 4)
        grow(kafka, "spread.main.items", 5)  # nothing is written: only looking at the topic tells
        await spread_over(reader, 5)
        with owner.writing():
            await spread_over(reader, 5)
        await spread_over(reader, 5)
        stored = {row["id"]: row["version"] for row in await all_rows(reader, "item")}
        task.cancel()
        await reader.close()
    assert stored == owner.rows()
    assert watching.failures == []
    assert watching.reads > 10


async def test_an_entity_whose_keys_others_have_moved_stands_still_until_its_topic_is_made_anew(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    topic = Topic(kafka, f"{topic_prefix}items")
    fed = f"{{kind: topic, freshness: log, topics: {{items: {{topic: {topic.name}, key: [id]}}}}}}"
    entities = "entities: {item: {from: spread.items, fields: {id: {type: integer}}}}\n"

    def send(version: int) -> None:
        topic.send(*((f'{{"id":{key}}}', {"id": key, "version": version}) for key in range(9)))

    async def versions() -> set[Any]:
        await caught_up(reader, "item", wall_clock_ms())
        return {row["version"] for row in await all_rows(reader, "item")}

    send(1)
    with flowing(tmp_path, kafka, fed, entities) as (app, reader):
        assert await until_async(versions) == {1}
        grow(kafka, topic.name, 4)
        faults = until(lambda: [fault for each in app.reporters for fault in each.latest.tables])
        assert [(fault.code, fault.entity) for fault in faults] == [(KeysMoved.code, "item")]
        sent_ms = wall_clock_ms()
        send(2)
        until(lambda: all(each.latest.time_ms > sent_ms + 1_000 for each in app.reporters))
        assert {row["version"] for row in await all_rows(reader, "item")} == {1}
        assert (await reader.watermark("item")).as_of_ms < sent_ms
        topic.delete()
        topic.create(4)
        send(3)
        assert await until_async(versions) == {3}
        await reader.close()
