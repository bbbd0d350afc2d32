"""The way of a change, end to end: under load that nobody here wrote, the store becomes the source, row by row.

Each test waits for the watermark alone: once the store says that it is whole as of a time, it must be.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from headgate.stack import Kafka, Postgres
from headgate.telemetry import wall_clock_ms
from tests.ways import pgbench
from tests.ways.deployment import BASICS, connections, headgate, ready, until, write_config
from tests.ways.workload import PostgresTables, SqliteTables, assert_tables_equal, run_workload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def on_servers(folder: Path, name: str, database: str, kafka: Kafka, redis_url: str) -> Path:
    """A config of Postgres → Kafka → Valkey."""
    return write_config(
        folder,
        f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  {name}:
    source: {{kind: postgres, dsn: "{database}"}}
    log: main
    store: cache
    partitions: 3
""",
    )


@pytest.fixture
def bench_database(postgres: Postgres, database: str) -> str:
    pgbench.fill(postgres, database)
    return database


async def test_pgbench_through_kafka_into_valkey(
    folder: Path, postgres: Postgres, kafka: Kafka, bench_database: str, redis_url: str
) -> None:
    config = on_servers(folder, "pgb", bench_database, kafka, redis_url)
    with headgate(folder, "sync"), headgate(folder, "serve") as serving:
        until(lambda: ready(serving.url()))
        pgbench.run(postgres, bench_database, 1_000)
        await pgbench.assert_equal(config, bench_database)


async def test_random_workload_from_postgres_through_kafka_into_valkey(
    folder: Path, kafka: Kafka, database: str, redis_url: str
) -> None:
    config = on_servers(folder, "rand", database, kafka, redis_url)
    tables = PostgresTables(database)
    try:
        with headgate(folder, "run"):
            run_workload(tables, random.Random(20261121), 10_000)
            await assert_tables_equal(config, tables, pgbench.source_clock_ms(database))
    finally:
        tables.close()


async def test_random_workload_from_sqlite_into_the_embedded_store(folder: Path) -> None:
    path = folder / "source.db"
    config = write_config(
        folder,
        f"""
{BASICS}pipelines:
  rand:
    source: {{kind: sqlite, path: "{path}"}}
""",
    )
    tables = SqliteTables(path)
    try:
        with headgate(folder, "run"):
            run_workload(tables, random.Random(7), 10_000)
            await assert_tables_equal(config, tables, wall_clock_ms())
    finally:
        tables.close()


def test_the_workload_does_what_it_says(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path / "source.db")
    counts = run_workload(tables, random.Random(7), 4_000)
    tables.close()
    assert set(counts) == {"insert", "update", "delete", "rekey", "truncate"}
    assert sum(counts.values()) == 4_000
