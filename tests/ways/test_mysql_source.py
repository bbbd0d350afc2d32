"""MariaDB and MySQL as a source, on real servers: order, schema changes, and what it says when something is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from pydantic import SecretStr

from headgate.errors import BinlogPurged, SourceBusy, SourceNotReady, TableWithoutKey, Unavailable
from headgate.model.change import Change
from headgate.model.table import Table
from headgate.sources import mysql as kind
from headgate.sources.base import Batch, Head
from headgate.stack.binlog import BinlogServer
from headgate.state.base import State
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms

_DEADLINE_S = 60.0


class Owner:
    """The database's owner, and sources over it that share one pipeline and its notes."""

    def __init__(self, dsn: str, state: State) -> None:
        self.dsn = dsn
        self.state = state
        self.name = urlsplit(dsn).path.strip("/")
        self.connection = pymysql.connect(
            host="127.0.0.1", port=urlsplit(dsn).port or 0, user="root", database=self.name, autocommit=True
        )

    def close(self) -> None:
        self.connection.close()

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
        return rows

    def source(self, *tables: str, dsn: str | None = None) -> kind.MysqlSource:
        config = kind.Config(dsn=SecretStr(dsn or self.dsn), tables=list(tables), status_interval_s=0.1)
        return kind.open_source(config, self.name, Path("unused"), wall_clock_ms, state=self.state)


class Run:
    """One run of capture. Confirms each batch unless told otherwise."""

    def __init__(self, source: kind.MysqlSource, *, confirm: bool = True, resnapshot: Sequence[str] = ()) -> None:
        self.capture = source.capture(resnapshot=resnapshot, now_ms=wall_clock_ms)
        self.batches = self.capture.batches(0.05)
        self.confirm = confirm
        self.changes: list[Change] = []
        self.heads: list[Head] = []
        self.tables: dict[str, Table] = {}

    def step(self) -> Batch:
        batch = next(self.batches)
        self.changes += batch.changes
        self.tables |= {table.name: table for table in batch.tables}
        self.heads += [batch.head] if batch.head else []
        if self.confirm:
            self.capture.confirm(batch.token)
        return batch

    def until(self, reached: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not reached():
            assert time.monotonic() < deadline, f"not within {_DEADLINE_S} s: {what}"
            self.step()

    def covering(self, after_ms: int) -> Run:
        """Up to a head of a later time: everything committed before that has come."""
        self.until(lambda: any(head.time_ms > after_ms for head in self.heads), "a later head")
        return self

    def rows(self) -> list[tuple[str, Any, Any]]:
        return [
            (change.op, json.loads(change.key or b"null"), json.loads(change.after or b"null"))
            for change in self.changes if change.marker is None
        ]  # fmt: skip

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.close()


@pytest.fixture
def owner(binlog_database: str, tmp_path: Path) -> Iterator[Owner]:
    with (
        closing(open_state(tmp_path / "state.db", clock=wall_clock_ms)) as state,
        closing(Owner(binlog_database, state)) as made,
    ):
        yield made


def now_ms() -> int:
    return wall_clock_ms() + 1


def test_a_snapshot_then_changes_in_order(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, v varchar(20))", "insert into t values (1, 'a'), (2, 'b')")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute(
            "update t set v = 'c' where id = 1", "insert into t values (3, 'd')", "delete from t where id = 2",
            "update t set id = 30 where id = 3",
        )  # fmt: skip
        run.covering(now_ms())
    assert run.rows() == [
        ("r", {"id": 1}, {"id": 1, "v": "a"}),
        ("r", {"id": 2}, {"id": 2, "v": "b"}),
        ("u", {"id": 1}, {"id": 1, "v": "c"}),
        ("c", {"id": 3}, {"id": 3, "v": "d"}),
        ("d", {"id": 2}, None),
        ("d", {"id": 3}, None),
        ("c", {"id": 30}, {"id": 30, "v": "d"}),
    ]
    phases = [change.marker.phase for change in run.changes if change.marker]
    assert phases == ["begin", "end"]
    sequences = [change.sequence for change in run.changes if change.sequence]
    assert not any(later.precedes(earlier) for earlier, later in pairwise(sequences))


def test_a_run_goes_on_where_the_last_one_was_confirmed(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)", "insert into t values (1)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    owner.execute("insert into t values (2)")
    with Run(owner.source(), confirm=False) as run:
        run.covering(now_ms())
        assert run.rows() == [("c", {"id": 2}, {"id": 2})]
        first = run.changes[0].sequence
    owner.execute("flush binary logs", "insert into t values (3)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    assert run.rows() == [("c", {"id": 2}, {"id": 2}), ("c", {"id": 3}, {"id": 3})]
    assert run.changes[0].sequence == first
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert run.rows() == []


def test_a_snapshot_and_the_stream_meet_without_a_gap_while_others_write(owner: Owner) -> None:
    owner.execute("create table t (id int primary key auto_increment, v int)")
    owner.execute("insert into t (v) values " + ", ".join(f"({n})" for n in range(5_000)))
    with Run(owner.source()) as run:
        run.until(lambda: any(change.op == "r" for change in run.changes), "the snapshot's first rows")
        for number in range(50):
            owner.execute(f"update t set v = {10_000 + number} where id = {1 + number * 97}")
        owner.execute("delete from t where id > 4990")
        run.covering(now_ms())
    state: dict[int, int] = {}
    for op, key, after in run.rows():
        if op == "d":
            del state[key["id"]]
        else:
            state[key["id"]] = after["v"]
    assert state == {row[0]: row[1] for row in owner.execute("select id, v from t")}


def test_schema_changes_are_followed(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, v int)", "insert into t values (1, 1)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute(
            "alter table t add column w varchar(9) default 'x', drop column v", "insert into t values (2, 'y')"
        )
        owner.execute("create table u (id int primary key)", "insert into u values (7)")
        run.covering(now_ms())
        run.until(lambda: ("r", {"id": 7}, {"id": 7}) in run.rows(), "the new table's snapshot")
        run.covering(now_ms())  # the snapshot has ended, and nothing holds the table
        assert [column.name for column in run.tables[f"{owner.name}.t"].columns] == ["id", "w"]
        assert ("c", {"id": 2}, {"id": 2, "w": "y"}) in run.rows()
        owner.execute("truncate table t", "drop table u", "insert into t values (3, 'z')")
        run.covering(now_ms())
    last = [(change.op, change.table.partition(".")[2]) for change in run.changes][-3:]
    assert last == [("t", "t"), ("t", "u"), ("c", "t")]


def ids(first: int, count: int) -> str:
    return ", ".join(f"({number})" for number in range(first, first + count))


def test_a_table_that_is_made_of_another_ones_rows_is_read_whole(owner: Owner) -> None:
    """MySQL logs the statement as a transaction, with its rows."""
    owner.execute("create table t (id int primary key)", "insert into t values (1), (2)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("create table u (id int primary key) select id from t", "insert into u values (9)")
        run.until(lambda: run.tables.get(f"{owner.name}.u"), "the new table")
        run.covering(now_ms())
        seen = [(each.op, (each.key or b"").decode()) for each in run.changes if each.table == f"{owner.name}.u"]
    whole = [("r", '{"id":1}'), ("r", '{"id":2}'), ("r", '{"id":9}')]
    assert seen[-5:] == [("m", ""), *whole, ("m", "")], "what comes before a snapshot does not count"
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert run.rows() == []


def test_a_rolled_back_transaction_is_never_told_and_a_long_one_comes_in_parts(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("begin", "insert into t values (1)", "rollback")
        owner.execute(
            "begin", *(f"insert into t values {ids(first, 1_000)}" for first in range(1, 30_000, 1_000)), "commit"
        )
        largest = 0
        deadline = time.monotonic() + _DEADLINE_S
        while sum(change.op == "c" for change in run.changes) < 30_000:
            assert time.monotonic() < deadline
            largest = max(largest, len(run.step().changes))
    assert largest < 5_000
    assert [json.loads(change.key or b"")["id"] for change in run.changes if change.op == "c"] == list(range(1, 30_001))


def test_an_xa_transaction_is_one_and_told_once(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("xa start 'x'", "insert into t values (1), (2)", "insert into t values (3)", "xa end 'x'")
        owner.execute("xa prepare 'x'", "xa commit 'x'", "insert into t values (4)")
        run.covering(now_ms())
        assert [key["id"] for _, key, _ in run.rows()] == [1, 2, 3, 4]
        assert len({change.sequence.commit for change in run.changes if change.op == "c" and change.sequence}) == 2
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert run.rows() == []


def test_another_process_stands_by(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        with pytest.raises(SourceBusy):
            owner.source().capture(now_ms=wall_clock_ms)
    with Run(owner.source()) as run:
        run.covering(now_ms())


def test_a_killed_server_is_unavailable_and_nothing_is_lost(owner: Owner, binlog_server: BinlogServer) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("insert into t values (1)")
        binlog_server.kill()
        with pytest.raises(Unavailable):
            run.until(lambda: False, "never")
        with pytest.raises(Unavailable):
            owner.source().tables()
    binlog_server.start()
    with closing(Owner(owner.dsn, owner.state)) as again:
        again.execute("insert into t values (2)")
    seen = {row[1]["id"] for row in run.rows()}
    with Run(owner.source()) as next_run:
        next_run.covering(now_ms())
    assert seen | {row[1]["id"] for row in next_run.rows()} == {1, 2}


def test_a_purged_binary_log_asks_for_a_resnapshot_that_mends_it(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    owner.execute("insert into t values (1)")
    purge(owner)
    with Run(owner.source()) as run, pytest.raises(BinlogPurged, match="re-snapshot"):
        run.until(lambda: False, "never")
    with Run(owner.source(), resnapshot=["t"]) as run:
        run.covering(now_ms())
        assert run.rows() == [("r", {"id": 1}, {"id": 1})]


def end_of_log(owner: Owner) -> tuple[str, int]:
    """The newest file, and its end."""
    is_mariadb = "mariadb" in str(owner.execute("select version()")).lower()
    file, position, *_ = owner.execute("show master status" if is_mariadb else "show binary log status")[0]
    return file, position


def purge(owner: Owner) -> None:
    """Leaves nothing of the binary log but what is written from now on."""
    owner.execute("flush binary logs", "flush binary logs")
    newest, _ = end_of_log(owner)
    deadline = time.monotonic() + _DEADLINE_S
    while len(owner.execute("show binary logs")) > 1:  # as long as it takes the server to notice that a reader has gone
        assert time.monotonic() < deadline
        owner.execute(f"purge binary logs to '{newest}'")


def two_tables_without_their_log(owner: Owner) -> None:
    """Both were captured, and what came then is purged."""
    owner.execute("create table t (id int primary key)", "create table u (id int primary key)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    owner.execute("insert into t values (1)", "insert into u values (2)")
    purge(owner)


def test_a_purged_binary_log_is_mended_by_asking_for_one_table_after_the_other(owner: Owner) -> None:
    """A request stands until its table is read: none is read before it helps."""
    two_tables_without_their_log(owner)
    t, u = f"{owner.name}.t", f"{owner.name}.u"
    for asked, left in (((), f"not yet: {t}, {u}"), (("t",), f"not yet: {u}")):
        with Run(owner.source(), resnapshot=asked) as run, pytest.raises(BinlogPurged) as refused:
            run.until(lambda: False, "never")
        assert run.changes == [], "not even where a snapshot begins"
        assert left in refused.value.message
    with Run(owner.source(), resnapshot=["t", "u"]) as run:
        run.covering(now_ms())
        assert run.rows() == [("r", {"id": 1}, {"id": 1}), ("r", {"id": 2}, {"id": 2})]


def begun(run: Run) -> None:
    """The first table's snapshot has begun, and is not whole."""
    run.until(lambda: run.changes, "a snapshot")
    assert [change.op for change in run.changes] == ["m"]


def test_a_resnapshot_of_all_tables_that_is_interrupted_begins_again_with_all(owner: Owner) -> None:
    two_tables_without_their_log(owner)
    with Run(owner.source(), resnapshot=["t", "u"]) as run:
        begun(run)
    with Run(owner.source(), resnapshot=["u"]) as run:  # that of t is asked for no more: it has begun
        run.covering(now_ms())
        assert run.rows() == [("r", {"id": 1}, {"id": 1}), ("r", {"id": 2}, {"id": 2})]


def test_a_resnapshot_of_one_table_that_is_interrupted_begins_again(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)", "create table u (id int primary key)")
    owner.execute("insert into t values (1)", "insert into u values (2)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    with Run(owner.source(), resnapshot=["t"]) as run:
        begun(run)
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert run.rows() == [("r", {"id": 1}, {"id": 1})]


def test_what_stands_in_the_way_is_said(owner: Owner) -> None:
    owner.execute("create table keyless (id int)", "create table t (id int primary key)")
    assert [table.name for table in owner.source().tables()] == [f"{owner.name}.t"]
    with pytest.raises(TableWithoutKey, match="keyless"):
        owner.source("keyless").tables()
    with pytest.raises(SourceNotReady, match="nothing"):
        owner.source("nothing").tables()
    messages = [(finding.level, finding.message) for finding in owner.source().diagnose()]
    assert any(level == "warning" and "keyless is not captured" in message for level, message in messages)
    owner.execute("set global binlog_row_metadata = 'MINIMAL'")
    try:
        with pytest.raises(SourceNotReady, match="binlog_row_metadata"):
            owner.source().capture(now_ms=wall_clock_ms)
        assert any(finding.level == "error" for finding in owner.source().diagnose())
    finally:
        owner.execute("set global binlog_row_metadata = 'FULL'")
    wrong = owner.dsn.replace("root@", "nobody:hunter2@")
    with pytest.raises(SourceNotReady) as refused:
        owner.source(dsn=wrong).tables()
    assert "hunter2" not in str(refused.value)


def test_detach_forgets(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)", "insert into t values (1)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
    assert owner.source().detach() == ["the noted place in the binary log"]
    assert owner.source().detach() == []
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert run.rows() == [("r", {"id": 1}, {"id": 1})]


def test_the_privileges_that_the_docs_name_are_enough(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)", "insert into t values (1)")
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    grants = page[page.index("CREATE USER headgate") :].partition("```")[0]
    try:
        owner.execute(*grants.replace("shop.*", f"{owner.name}.*").strip().rstrip(";").split(";\n"))
        with Run(owner.source(dsn=owner.dsn.replace("root@", "headgate:choose%20another@"))) as run:
            run.covering(now_ms())
            owner.execute("insert into t values (2)")
            run.covering(now_ms())
            assert run.rows() == [("r", {"id": 1}, {"id": 1}), ("c", {"id": 2}, {"id": 2})]
    finally:
        owner.execute("drop user if exists headgate")
