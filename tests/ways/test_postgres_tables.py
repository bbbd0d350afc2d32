"""Which PostgreSQL tables are captured, and how their definitions are followed. On a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from headgate.errors import (
    TableWithoutKey,
    Unavailable,
)
from headgate.sources.postgres import capture as capture_module
from tests.ways.postgres_owner import Owner, Run, after, key


@pytest.fixture
def owner(database: str) -> Iterator[Owner]:
    with closing(Owner(database)) as made:
        yield made


def test_columns_added_dropped_and_renamed_are_followed(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, a text, b int)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("alter table t add c numeric(5,1) not null default 1.5")
        owner.execute("insert into t values (1, 'x', 2)")
        owner.execute("alter table t rename a to z; alter table t drop b; alter table t alter c type text")
        owner.execute("insert into t values (2, 'y', 'w')")
        first, second = run.rows(2)
        assert after(first) == {"id": 1, "a": "x", "b": 2, "c": "1.5"}
        assert after(second) == {"id": 2, "z": "y", "c": "w"}
        assert [(column.name, column.native) for column in run.tables["public.t"].columns] == [
            ("id", "integer"), ("z", "text"), ("c", "text"),
        ]  # fmt: skip


def test_a_definition_comes_before_its_rows_although_the_catalog_is_ahead(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, a text)")
    with Run(owner.source()) as run:
        run.streaming()
    owner.execute("insert into t values (1, 'x')")
    owner.execute("alter table t rename a to z; alter table t add b numeric(5,1)")
    owner.execute("insert into t values (2, 'y', 3)")
    with Run(owner.source()) as run:
        seen: list[list[tuple[str, str]]] = []
        while len(run.changes) < 2:
            batch = run.step()
            seen += [[(column.name, column.native) for column in table.columns] for table in batch.tables]
        assert [after(change) for change in run.changes] == [{"id": 1, "a": "x"}, {"id": 2, "z": "y", "b": "3.0"}]
        assert seen[-1] == [("id", "integer"), ("z", "text"), ("b", "numeric(5,1)")]


def test_a_renamed_table_is_captured_under_its_new_name(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("insert into t values (1)")
        owner.execute("alter table t rename to u")
        owner.execute("insert into u values (2)")
        with pytest.raises(Unavailable, match=r"public\.u"):
            run.rows(99)
    with Run(owner.source(), confirm=False) as run:
        run.streaming()
        owner.execute("insert into u values (3)")
        run.until(lambda: run.changes and run.changes[-1].key == b'{"id":3}', "the new row")
        assert {(change.table, change.key) for change in run.changes if change.op != "m"} == {
            ("public.u", b'{"id":%d}' % number) for number in (1, 2, 3)
        }


def test_a_partitioned_table_is_one_table(owner: Owner) -> None:
    owner.execute("create table m (id int, at date, primary key (id, at)) partition by range (at)")
    for year in (2025, 2026):
        owner.execute(f"create table m{year} partition of m for values from ('{year}-01-01') to ('{year + 1}-01-01')")
    owner.execute("insert into m values (1, '2025-05-05'), (2, '2026-05-05')")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.snapshotted() == ["public.m"]
        assert sorted(key(change)["id"] for change in run.changes if change.op == "r") == [1, 2]
        owner.execute("insert into m values (3, '2025-06-06')")
        owner.execute("update m set at = '2026-06-06' where id = 3")
        owner.execute("truncate m")
        changes = run.rows(4)
        assert {change.table for change in changes} == {"public.m"}
        assert [change.op for change in changes] == ["c", "d", "c", "t"]


def test_a_table_that_inherits_is_a_table_of_its_own(owner: Owner) -> None:
    owner.execute("create table parent (id int primary key); create table child (primary key (id)) inherits (parent)")
    owner.execute("insert into parent values (1); insert into child values (2)")
    with Run(owner.source("parent")) as run:
        run.streaming()
        owner.execute("insert into child values (3); insert into parent values (4)")
        run.until(lambda: any(change.key == b'{"id":4}' for change in run.changes), "the parent's row")
        assert [change.key for change in run.changes if change.marker is None] == [b'{"id":1}', b'{"id":4}']


def test_a_stored_generated_column_is_there_in_snapshot_and_stream(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, twice int generated always as (id * 2) stored)")
    owner.execute("insert into t values (1)")
    with Run(owner.source()) as run:
        assert [after(change) for change in run.rows(1)] == [{"id": 1, "twice": 2}]
        run.streaming()
        owner.execute("insert into t values (2)")
        assert [after(change) for change in run.rows(1)] == [{"id": 2, "twice": 4}]


def test_odd_names_are_quoted(owner: Owner) -> None:
    owner.execute('create schema "S s"; create table "S s"."T""t" ("I d" int primary key, "per%cent" text)')
    owner.execute('insert into "S s"."T""t" values (1, \'a\')')
    with Run(owner.source('S s.T"t')) as run:
        assert after(run.rows(1)[0]) == {"I d": 1, "per%cent": "a"}
        run.streaming()
        owner.execute('update "S s"."T""t" set "I d" = 2')
        assert [change.op for change in run.rows(2)] == ["d", "c"]


@pytest.mark.parametrize("identity", ["", "alter table t replica identity full"])
def test_a_table_without_a_key_is_never_published(owner: Owner, identity: str) -> None:
    owner.execute(f"create table good (id int primary key); create table t (v int); {identity}")
    owner.execute("create table n (id int primary key); alter table n replica identity nothing")
    owner.execute("insert into t values (1); insert into n values (1)")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.snapshotted() == ["public.good"]
        owner.execute("update t set v = 2; delete from t; update n set id = 2; delete from n")
        assert owner.execute("select tablename::text from pg_publication_tables") == [("good",)]


def test_a_table_that_loses_its_key_leaves_the_publication(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "_KEYS_EVERY_S", 0.05)
    owner.execute("create table t (id int primary key); create table u (id int primary key)")
    owner.execute("insert into t values (1)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("alter table t drop constraint t_pkey")
        with pytest.raises(TableWithoutKey, match=r"public\.t"):
            run.rows(99)
    owner.execute("update t set id = 2")
    with Run(owner.source()) as run:
        run.streaming()
        assert set(run.tables) == {"public.u"}
        owner.execute("update t set id = 3")
    owner.execute("alter table t add primary key (id)")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.snapshotted() == ["public.t"]
