"""A source whose owner alters its tables: what can be followed is, and what breaks an entity stops it alone."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.ways.deployment import connections, headgate, ready, until, write_config
from tests.ways.operating import BASICS, Operator, operator


class Ground(NamedTuple):
    """Where a kind of source's tables are."""

    name: str
    schema: str
    execute: Callable[[str], Any]
    config: str
    widen: Sequence[str]
    """Makes room for larger values in `items.size`."""


@pytest.fixture(params=["sqlite", "postgres"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    name = f"alter_{request.param}_{uuid.uuid4().hex[:6]}"  # the topics of another test are another pipeline's
    with ExitStack() as opened:
        if request.param == "sqlite":
            owner = sqlite3.connect(tmp_path / "source.db", isolation_level=None, timeout=30)
            opened.callback(owner.close)
            source = f'{{kind: sqlite, path: "{tmp_path / "source.db"}"}}'
            yield Ground(
                name,
                "main",
                owner.execute,
                f"{BASICS}pipelines:\n  {name}:\n    source: {source}\n",
                (),
            )
            return
        database = request.getfixturevalue("database")
        connection = opened.enter_context(psycopg.connect(database, autocommit=True))
        places = connections(request.getfixturevalue("kafka"), request.getfixturevalue("redis_url"))
        yield Ground(
            name,
            "public",
            lambda statement: connection.execute(statement.encode()),
            f'{BASICS}{places}pipelines:\n  {name}:\n    source: {{kind: postgres, dsn: "{database}"}}\n'
            "    log: main\n    store: cache\n    partitions: 2\n",
            ("alter table items alter column size type bigint",),
        )


def write(folder: Path, ground: Ground, strict: str) -> None:
    """One strict entity and a loose one of the same topic, and one of another."""
    write_config(
        folder,
        f"""{ground.config}    freshness_bound_s: 2
entities:
  strict_item: {{from: {ground.name}.{ground.schema}.items, {strict}}}
  item: {{from: {ground.name}.{ground.schema}.items}}
  note: {{from: {ground.name}.{ground.schema}.notes}}
""",
    )


def make(ground: Ground) -> None:
    ground.execute("create table items (id int primary key, email text, size int)")
    ground.execute("create table notes (id int primary key, body text)")
    ground.execute("insert into items values (1, 'a@x', 1)")
    ground.execute("insert into notes values (1, 'one')")


def fields(ops: Operator, entity: str) -> list[str]:
    (said,) = ops.call("describe_data", entity=entity)["structuredContent"]["entities"]
    return [field["name"] for field in said["fields"]]


def test_columns_that_come_go_widen_and_change_their_names_are_followed(tmp_path: Path, ground: Ground) -> None:
    make(ground)
    write(tmp_path, ground, "lookups: [email]")
    with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), ground.name) as ops:
        until(lambda: ready(process.url()))
        until(lambda: ops.row("item", 1))
        ground.execute("alter table items add column colour text")
        ground.execute("insert into items (id, email, size, colour) values (2, 'b@x', 2, 'red')")
        until(lambda: ops.values("item", 2).get("colour") == "red")
        for statement in ground.widen:
            ground.execute(statement)
        ground.execute("insert into items (id, email, size) values (3, 'c@x', 5000000000)")
        until(lambda: ops.values("item", 3).get("size") == 5_000_000_000)
        ground.execute("alter table items rename column colour to hue")
        ground.execute("update items set hue = 'blue' where id = 2")
        until(lambda: ops.values("item", 2).get("hue") == "blue")
        ground.execute("alter table items drop column hue")
        ground.execute("insert into items (id, email, size) values (4, 'd@x', 4)")
        until(lambda: ops.values("item", 4) == {"id": 4, "email": "d@x", "size": 4})
        until(lambda: fields(ops, "item") == ["id", "email", "size"])
        until(lambda: ops.values("strict_item", 4).get("email") == "d@x")
        assert (ops.letters(), ops.faults()) == ([], [])
        until(lambda: ops.freshness("item")["state"] == "fresh")


@pytest.mark.parametrize("mended", ["source", "config"])
def test_a_broken_contract_stops_its_entity_alone_until_it_is_mended(
    tmp_path: Path, ground: Ground, mended: str
) -> None:
    make(ground)
    write(tmp_path, ground, "lookups: [email]")
    with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), ground.name) as ops:
        until(lambda: ready(process.url()))
        until(lambda: ops.freshness("strict_item")["state"] == "fresh")
        ground.execute("alter table items rename column email to mail")
        ground.execute("insert into items values (2, 'b@x', 2)")
        ground.execute("insert into notes values (2, 'two')")
        until(lambda: ops.values("item", 2).get("mail") == "b@x")
        until(lambda: ops.values("note", 2))
        (fault,) = until(ops.faults)
        assert (fault["entity"], fault["code"]) == ("strict_item", "contract_broken")
        assert "email" in fault["message"]
        assert ops.row("strict_item", 2) is None
        assert ops.values("strict_item", 1)["email"] == "a@x"
        assert ops.letters() == []
        until(lambda: ops.freshness("strict_item")["state"] == "stopped")
        until(lambda: ops.freshness("item")["state"] == "fresh")
        until(lambda: ops.status() == "running")
        if mended == "source":
            ground.execute("alter table items rename column mail to email")
            ground.execute("update items set size = 22 where id = 2")
            until(lambda: ops.values("strict_item", 2) == {"id": 2, "email": "b@x", "size": 22})
            until(lambda: ops.faults() == [])
            until(lambda: ops.freshness("strict_item")["state"] == "fresh")
    if mended == "config":
        write(tmp_path, ground, "lookups: [mail]")
        with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), ground.name) as ops:
            until(lambda: ready(process.url()))
            ground.execute("update items set size = 3 where id = 1")
            until(lambda: ops.values("strict_item", 2).get("mail") == "b@x")
            until(lambda: ops.values("strict_item", 1).get("size") == 3)
            until(lambda: ops.faults() == [])


def test_a_column_of_another_type_breaks_what_was_declared_of_it(tmp_path: Path, ground: Ground) -> None:
    if not ground.widen:
        pytest.skip("SQLite can't change a column's type")
    make(ground)
    write(tmp_path, ground, "fields: {size: {type: integer}}")
    with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), ground.name) as ops:
        until(lambda: ready(process.url()))
        until(lambda: ops.row("strict_item", 1))
        ground.execute("alter table items alter column size type text")
        ground.execute("insert into items values (2, 'b@x', 'large')")
        until(lambda: ops.values("item", 2).get("size") == "large")
        (fault,) = until(ops.faults)
        assert (fault["entity"], fault["code"]) == ("strict_item", "contract_broken")
        assert ops.letters() == []
        assert ops.row("strict_item", 2) is None


def test_an_entity_of_a_table_that_is_not_there_is_said_and_begins_once_it_is_made(
    tmp_path: Path, ground: Ground
) -> None:
    ground.execute("create table items (id int primary key, email text, size int)")
    ground.execute("insert into items values (1, 'a@x', 1)")
    write(tmp_path, ground, "lookups: [email]")
    with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), ground.name) as ops:
        (fault,) = until(ops.faults)
        assert (fault["half"], fault["code"]) == ("materialize", "contract_broken")
        assert f"{ground.schema}.notes" in fault["message"]
        assert f"{ground.schema}.items" in fault["message"]
        ground.execute("create table notes (id int primary key, body text)")
        ground.execute("insert into notes values (1, 'one')")
        ops.ask("restart_pipeline")
        until(lambda: ops.row("note", 1))
        until(lambda: ops.values("item", 1))
        until(lambda: ops.faults() == [])
