"""What a MySQL's binary log may hold beside rows as they are, and what its server adds to a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headgate.errors import BinlogPurged, SourceNotReady
from headgate.stack import MySQL
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import fresh_database
from tests.ways.binlog_pair import TABLE
from tests.ways.test_mysql_source import Owner, Run, now_ms

_DOCUMENTS = ("create table t (id int primary key, v json)", 'insert into t values (1, \'{"a": 1, "b": "long"}\')')


@pytest.fixture
def owner(mysql: MySQL, tmp_path: Path) -> Iterator[Owner]:
    with (
        fresh_database(mysql) as dsn,
        closing(open_state(tmp_path / "state.db", clock=wall_clock_ms)) as state,
        closing(Owner(dsn, state)) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    ("table", "setting", "change"),
    [
        (TABLE, "binlog_transaction_compression = on", "insert into t values (2, 2)"),
        (_DOCUMENTS, "binlog_row_value_options = partial_json", "update t set v = json_set(v, '$.a', 2)"),
    ],
    ids=["compressed", "partial_json"],
)
def test_what_a_session_writes_so_that_it_cannot_be_read_is_noticed(
    owner: Owner, table: tuple[str, str], setting: str, change: str
) -> None:
    """The server's own setting refuses it at the start, but a session may have another one."""
    name = setting.partition(" ")[0]
    owner.execute(*table)
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute(f"set session {setting}", change)
        with pytest.raises(BinlogPurged, match=name):
            run.until(lambda: False, "never")
        assert [op for op, _, _ in run.rows()] == ["r"]
    with Run(owner.source(), resnapshot=["t"]) as run:
        run.covering(now_ms())
    assert [tuple(after.values()) for _, _, after in run.rows()] == _rows(owner)
    owner.execute(f"set global {setting}")
    try:
        with pytest.raises(SourceNotReady, match=name):
            owner.source().capture(now_ms=wall_clock_ms)
    finally:
        owner.execute(f"set global {name} = default")


def _rows(owner: Owner) -> list[tuple[object, ...]]:
    rows = owner.execute("select * from t order by id")
    return [(key, value if isinstance(value, int) else {"a": 2, "b": "long"}) for key, value in rows]


def test_a_document_that_an_update_under_partial_json_leaves_alone_is_told_whole(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, v json, n int)", "insert into t values (1, '[1, 2]', 1)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("set session binlog_row_value_options = partial_json", "update t set n = 2")
        run.covering(now_ms())
    assert run.rows()[1:] == [("u", {"id": 1}, {"id": 1, "v": [1, 2], "n": 2})]


def test_a_key_that_the_server_made_and_hides_is_one(owner: Owner) -> None:
    """`sql_generate_invisible_primary_key`, since MySQL 8.0.30."""
    owner.execute("set session sql_generate_invisible_primary_key = on", "create table t (v int)")
    owner.execute("insert into t values (5)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("update t set v = 6")
        run.covering(now_ms())
    key = {"my_row_id": 1}
    assert run.rows() == [("r", key, {**key, "v": 5}), ("u", key, {**key, "v": 6})]
