"""PostgreSQL as the store: the way of a change ends in the very database that it begins in, and never goes round."""

from __future__ import annotations

import random
from pathlib import Path

import httpx
import psycopg
import pytest

from headgate.config import load
from headgate.errors import ConfigError
from headgate.stack import Kafka
from tests.ways import pgbench
from tests.ways.asking import ask
from tests.ways.deployment import BASICS, headgate, ready, until, write_config
from tests.ways.workload import PostgresTables, assert_tables_equal, run_workload

RELATIONS = """\
  thing:
    from: same.public.things
    lookups: [name]
    relations: {parts: {entity: part, field: id, target_field: thing, many: true, order_by: count, limit: 2}}
  part: {from: same.public.parts}
"""


def config_of(folder: Path, database: str, kafka: Kafka, tables: str) -> Path:
    """A config of Postgres → Kafka → the same database of Postgres."""
    return write_config(
        folder,
        f"""\
{BASICS}connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka.bootstrap_servers}"}}
  rows: {{kind: postgres, dsn: "{database}", store_schema: read_model}}
pipelines:
  same:
    source: {{kind: postgres, dsn: "{database}", tables: [{tables}]}}
    log: main
    store: rows
    partitions: 3
entities:
{RELATIONS}""",
    )


async def test_random_workload_into_the_database_that_it_comes_from(
    tmp_path: Path, kafka: Kafka, database: str
) -> None:
    config = config_of(tmp_path, database, kafka, "things, parts")
    tables = PostgresTables(database)
    try:
        with headgate(tmp_path, "run") as serving:
            until(lambda: ready(serving.url()))
            run_workload(tables, random.Random(20261121), 5_000)
            await assert_tables_equal(config, tables, pgbench.source_clock_ms(database))
            with httpx.Client(timeout=60) as client:
                number = next(iter(tables.rows("thing")))
                arguments = {"entity": "thing", "key": number, "include": ["parts"]}
                answer = ask(client, serving.url(), "lookup", arguments).result
            assert answer is not None
            (row,) = answer["structuredContent"]["rows"]
            expected = sorted(
                (part for part in tables.rows("part").values() if part["thing"] == number),
                key=lambda part: (part["count"] is not None, part["count"] or 0, f"{part['thing']},{part['place']}"),
                reverse=True,
            )
            found = [part["values"]["place"] for part in row["related"]["parts"]["rows"]]
            assert found == [part["place"] for part in expected[:2]]
        with psycopg.connect(database) as connection:
            (captured,) = connection.execute(
                "select count(*) from pg_publication_tables where schemaname = 'read_model'"
            ).fetchone() or (None,)
        assert captured == 0
    finally:
        tables.close()


@pytest.mark.parametrize("tables", ["", "read_model.rows"])
def test_a_source_never_captures_its_own_store(tmp_path: Path, kafka: Kafka, database: str, tables: str) -> None:
    with pytest.raises(ConfigError, match="source and store are one database"):
        load(config_of(tmp_path, database, kafka, tables), {})
