"""A log that was lost, recreated or changed for another one: what comes back is whole, and never wrongly fresh."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from headgate.stack import Kafka
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import BASICS, all_rows, caught_up, headgate, reader_of, ready, until, write_config

EMBEDDED = """
{BASICS}pipelines:
  lost:
    source: {{kind: sqlite, path: "{source}"}}
"""
ON_SERVERS = """
{BASICS}connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka}"}}
  cache: {{kind: redis, url: "{redis}"}}
pipelines:
  lost:
    source: {{kind: sqlite, path: "{source}"}}
    log: {log}
    store: cache
"""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.execute("create table items (id integer primary key, name text)")
        connection.executemany("insert into items values (?, ?)", [(number, f"first {number}") for number in range(50)])
        yield connection


async def assert_equal(config: Path, source: sqlite3.Connection) -> None:
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "item", wall_clock_ms())
        stored = {row["id"]: row["name"] for row in await all_rows(reader, "item")}
        assert stored == dict(source.execute("select id, name from items"))
    finally:
        await reader.close()
        app.close()


def change_everything(source: sqlite3.Connection) -> None:
    """So that the new log, which counts from nothing, soon stands where the old one stood."""
    source.execute("delete from items where id < 10")
    source.execute("update items set name = name || ' changed'")
    source.executemany("insert into items values (?, 'late')", [(number,) for number in range(1_000, 1_060)])


async def test_a_deleted_embedded_log(tmp_path: Path, source: sqlite3.Connection) -> None:
    config = write_config(tmp_path, EMBEDDED.format(BASICS=BASICS, source=tmp_path / "source.db"))
    with headgate(tmp_path, "run") as process:
        until(lambda: ready(process.url()))
        await assert_equal(config, source)
    for file in (tmp_path / "data").glob("log.db*"):
        file.unlink()
    change_everything(source)
    with headgate(tmp_path, "run"):
        await assert_equal(config, source)


async def test_a_recreated_kafka_topic_while_everything_runs(
    tmp_path: Path, source: sqlite3.Connection, kafka: Kafka, redis_url: str
) -> None:
    text = ON_SERVERS.format(
        BASICS=BASICS, source=tmp_path / "source.db", kafka=kafka.bootstrap_servers, redis=redis_url, log="main"
    )
    config = write_config(tmp_path, text)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    with headgate(tmp_path, "run"):
        await assert_equal(config, source)
        for answer in admin.delete_topics(["lost.main.items"]).values():
            answer.result()
        change_everything(source)
        await assert_equal(config, source)
    for answer in admin.delete_topics(["lost.main.items", "headgate.heartbeats.lost"]).values():
        answer.result()


async def test_a_pipeline_that_moves_to_another_log(
    tmp_path: Path, source: sqlite3.Connection, kafka: Kafka, redis_url: str
) -> None:
    places = {"source": tmp_path / "source.db", "kafka": kafka.bootstrap_servers, "redis": redis_url}
    config = write_config(tmp_path, ON_SERVERS.format(BASICS=BASICS, log="null", **places))
    with headgate(tmp_path, "run"):
        await assert_equal(config, source)
    change_everything(source)
    write_config(tmp_path, ON_SERVERS.format(BASICS=BASICS, log="main", **places))
    with headgate(tmp_path, "run"):
        await assert_equal(config, source)
