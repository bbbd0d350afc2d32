"""MySQL where another server answers than before, by sets of GTIDs, and what its binary log may hold beside rows.

MariaDB's own rule is that of test_mysql_servers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from headgate.errors import BinlogPurged, SourceNotReady
from headgate.stack import MySQL
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways.deployment import until
from tests.ways.test_mysql_source import Owner, Run, end_of_log, now_ms

_TABLE = ("create table t (id int primary key, v int)", "insert into t values (1, 1)")
_DOCUMENTS = ("create table t (id int primary key, v json)", 'insert into t values (1, \'{"a": 1, "b": "long"}\')')


class Pair(NamedTuple):
    """Two servers, each with its owner, whose sources share a pipeline's note."""

    first: Owner
    second: Owner


@pytest.fixture(scope="module")
def servers(services_folder: Path) -> Iterator[tuple[MySQL, MySQL]]:
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(started(MySQL(services_folder / f"mysql-{number}", server_id=number)))
            for number in (7, 8)
        )
        yield first, second


@pytest.fixture
def pair(servers: tuple[MySQL, MySQL], tmp_path: Path) -> Iterator[Pair]:
    """As new: without a history, and strangers to each other."""
    with ExitStack() as opened:
        state = opened.enter_context(closing(open_state(tmp_path / "state.db", clock=wall_clock_ms)))
        owners = []
        for server in servers:
            _forget(server)
            owners.append(opened.enter_context(closing(Owner(server.dsn("shop"), state))))
        yield Pair(*owners)


def _forget(server: MySQL) -> None:
    with closing(Owner(server.dsn("mysql"), None)) as root:  # type: ignore[arg-type]  # it captures nothing
        root.execute("stop replica", "reset replica all", "drop database if exists shop", "create database shop")
        root.execute(*_renewed(root))


def _renewed(owner: Owner) -> list[str]:
    """What begins the binary log anew. MySQL 8.4 has another name for it."""
    ((version,),) = owner.execute("select version()")
    return ["reset master" if version.startswith("8.0") else "reset binary logs and gtids"]


def _replicate(pair: Pair) -> None:
    """The second server follows the first one."""
    ((port,),) = pair.first.execute("select @@port")
    pair.second.execute(
        f"change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = 'root',"
        " source_auto_position = 1, get_source_public_key = 1",
        "start replica",
    )


def _await_replica(pair: Pair) -> None:
    ((reached,),) = pair.first.execute("select @@gtid_executed")
    assert pair.second.execute(f"select wait_for_executed_gtid_set('{reached}', 60)") == [(0,)]


def _clock_s(owner: Owner) -> int:
    ((seconds,),) = owner.execute("select unix_timestamp()")
    return int(seconds)


@pytest.mark.parametrize("tag", ["", "billing"])
def test_a_replica_is_read_on_by_gtid_and_later_by_its_own_files(pair: Pair, tag: str) -> None:
    if tag:
        _use_tag(pair.first, tag)
    pair.first.execute(*_TABLE)
    _replicate(pair)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("begin", "update t set v = 2", "insert into t values (2, 2)", "commit")
        run.covering(now_ms())
    pair.first.execute("update t set v = 3", "insert into t values (3, 3)")
    _await_replica(pair)
    pair.second.execute("stop replica", "insert into t values (4, 4)")
    with Run(pair.second.source()) as run:
        run.covering(now_ms())
        assert [(op, key["id"], after["v"]) for op, key, after in run.rows()] == [
            ("u", 1, 3), ("u", 2, 3), ("c", 3, 3), ("c", 4, 4),
        ]  # fmt: skip
    pair.second.execute("flush binary logs", "delete from t where id = 1")
    with Run(pair.second.source()) as run:
        run.covering(now_ms())
        assert [(op, key["id"]) for op, key, _ in run.rows()] == [("d", 1)]


def _use_tag(owner: Owner, tag: str) -> None:
    ((version,),) = owner.execute("select version()")
    if tuple(map(int, version.split("-")[0].split(".")))[:2] < (8, 3):
        pytest.skip("GTIDs have tags since MySQL 8.3")
    owner.execute(f"set session gtid_next = 'AUTOMATIC:{tag}'")


def test_a_replica_that_lacks_what_was_read_is_noticed(pair: Pair) -> None:
    pair.first.execute(*_TABLE)
    _replicate(pair)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        _await_replica(pair)
        pair.second.execute("stop replica")
        pair.first.execute("insert into t values (3, 3)")
        run.covering(now_ms())
    pair.second.execute("insert into t values (9, 9)", "insert into t values (10, 10)")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []


def test_a_stranger_is_noticed_and_read_anew_when_that_is_asked_for(pair: Pair) -> None:
    for owner in pair:
        owner.execute(*_TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    with Run(pair.second.source(), resnapshot=["t"]) as run:
        run.covering(now_ms())
        pair.second.execute("insert into t values (4, 4)")
        run.covering(now_ms())
    assert [(op, key["id"]) for op, key, _ in run.rows()] == [("r", 1), ("c", 4)]


def test_a_binary_log_that_was_begun_anew_is_noticed(pair: Pair) -> None:
    pair.first.execute(*_TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    before = end_of_log(pair.first)
    began = _clock_s(pair.first)
    until(lambda: _clock_s(pair.first) > began)
    pair.first.execute("delete from t", *_renewed(pair.first))
    for number in range(2, 100):
        pair.first.execute(f"insert into t values ({number}, 2)")
    assert end_of_log(pair.first) > before
    with Run(pair.first.source()) as run, pytest.raises(BinlogPurged, match="re-snapshot"):
        run.until(lambda: False, "never")
    assert run.rows() == []


@pytest.mark.parametrize(
    ("table", "setting", "change"),
    [
        (_TABLE, "binlog_transaction_compression = on", "insert into t values (2, 2)"),
        (_DOCUMENTS, "binlog_row_value_options = partial_json", "update t set v = json_set(v, '$.a', 2)"),
    ],
    ids=["compressed", "partial_json"],
)
def test_what_a_session_writes_so_that_it_cannot_be_read_is_noticed(
    pair: Pair, table: tuple[str, str], setting: str, change: str
) -> None:
    """The server's own setting refuses it at the start, but a session may have another one."""
    owner, name = pair.first, setting.partition(" ")[0]
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


def test_a_document_that_an_update_under_partial_json_leaves_alone_is_told_whole(pair: Pair) -> None:
    pair.first.execute("create table t (id int primary key, v json, n int)", "insert into t values (1, '[1, 2]', 1)")
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("set session binlog_row_value_options = partial_json", "update t set n = 2")
        run.covering(now_ms())
    assert run.rows()[1:] == [("u", {"id": 1}, {"id": 1, "v": [1, 2], "n": 2})]


def test_a_key_that_the_server_made_and_hides_is_one(pair: Pair) -> None:
    """`sql_generate_invisible_primary_key`, since MySQL 8.0.30."""
    pair.first.execute("set session sql_generate_invisible_primary_key = on", "create table t (v int)")
    pair.first.execute("insert into t values (5)")
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("update t set v = 6")
        run.covering(now_ms())
    key = {"my_row_id": 1}
    assert run.rows() == [("r", key, {**key, "v": 5}), ("u", key, {**key, "v": 6})]
