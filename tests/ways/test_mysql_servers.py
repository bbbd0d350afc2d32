"""MariaDB where another server answers than before: what it can be shown to hold is read on, what it can't is an error.

Nothing that was committed is ever passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from headgate.errors import BinlogPurged
from headgate.stack import MariaDB
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways.deployment import until
from tests.ways.test_mysql_source import Owner, Run, now_ms

_NUMBERS = (7, 8)


class Pair(NamedTuple):
    """Two servers, each with its owner, whose sources share a pipeline's note."""

    first: Owner
    second: Owner


@pytest.fixture(scope="module")
def servers(services_folder: Path) -> Iterator[tuple[MariaDB, MariaDB]]:
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(started(MariaDB(services_folder / f"mariadb-{number}", server_id=number)))
            for number in _NUMBERS
        )
        yield first, second


@pytest.fixture
def pair(servers: tuple[MariaDB, MariaDB], tmp_path: Path) -> Iterator[Pair]:
    """As new: without a history, and strangers to each other."""
    with ExitStack() as opened:
        state = opened.enter_context(closing(open_state(tmp_path / "state.db", clock=wall_clock_ms)))
        owners = []
        for server, number in zip(servers, _NUMBERS, strict=True):
            _forget(server, number)
            owners.append(opened.enter_context(closing(Owner(server.dsn("shop"), state))))
        yield Pair(*owners)


def _forget(server: MariaDB, number: int) -> None:
    with closing(Owner(server.dsn("mysql"), None)) as root:  # type: ignore[arg-type]  # it captures nothing
        root.execute(
            "stop slave", "reset slave all", "drop database if exists shop", "create database shop",
            "reset master", "set global gtid_slave_pos = ''", f"set global server_id = {number}",
        )  # fmt: skip


def _numbered_alike(pair: Pair) -> None:
    """The second server gets the first one's number, as one has that was installed in its place."""
    pair.second.execute("set global server_id = 7", "set session server_id = 7")


def _replicate(pair: Pair) -> None:
    """The second server follows the first one."""
    pair.second.execute(
        f"change master to master_host = '127.0.0.1', master_port = {_port(pair.first)}, master_user = 'root',"
        " master_use_gtid = slave_pos",
        "start slave",
    )


def _await_replica(pair: Pair) -> None:
    ((reached,),) = pair.first.execute("select @@gtid_binlog_pos")
    assert pair.second.execute(f"select master_gtid_wait('{reached}', 60)") == [(0,)]


def _port(owner: Owner) -> int:
    ((port,),) = owner.execute("select @@port")
    return int(port)


def _clock_s(owner: Owner) -> int:
    ((seconds,),) = owner.execute("select unix_timestamp()")
    return int(seconds)


def _place(owner: Owner) -> tuple[str, int]:
    """Where the binary log ends."""
    file, position, *_ = owner.execute("show master status")[0]
    return file, position


_TABLE = ("create table t (id int primary key, v int)", "insert into t values (1, 1)")


def test_a_server_in_place_of_another_with_its_number_is_noticed(pair: Pair) -> None:
    """File, position and GTID are the same on both: what differs is when the file was begun."""
    _numbered_alike(pair)
    pair.first.execute(*_TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    began = _clock_s(pair.first)
    until(lambda: _clock_s(pair.second) > began)
    pair.second.execute("reset master", *_TABLE)
    assert _place(pair.second) == _place(pair.first)
    pair.second.execute("delete from t", "insert into t values (2, 2)", "insert into t values (3, 3)")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []
    with Run(pair.second.source(), resnapshot=["t"]) as run:
        run.covering(now_ms())
        pair.second.execute("insert into t values (4, 4)")
        run.covering(now_ms())
    assert [(op, key["id"]) for op, key, _ in run.rows()] == [("r", 2), ("r", 3), ("c", 4)]


def test_a_binary_log_that_was_begun_anew_is_noticed(pair: Pair) -> None:
    pair.first.execute(*_TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    file, position = _place(pair.first)
    began = _clock_s(pair.first)
    until(lambda: _clock_s(pair.first) > began)
    pair.first.execute("delete from t", "reset master")
    for number in range(2, 100):
        pair.first.execute(f"insert into t values ({number}, 2)")
    assert _place(pair.first) > (file, position)
    with Run(pair.first.source()) as run, pytest.raises(BinlogPurged, match="re-snapshot"):
        run.until(lambda: False, "never")
    assert run.rows() == []


def test_a_replica_is_read_on_by_gtid_and_later_by_its_own_files(pair: Pair) -> None:
    pair.first.execute(*_TABLE)
    _replicate(pair)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("begin", "update t set v = 2", "select sleep(1.1)", "insert into t values (2, 2)", "commit")
        run.covering(now_ms())
    pair.first.execute("update t set v = 3", "insert into t values (3, 3)")
    _await_replica(pair)
    pair.second.execute("stop slave", "insert into t values (4, 4)")
    with Run(pair.second.source()) as run:
        run.covering(now_ms())
        assert [(op, key["id"], after["v"]) for op, key, after in run.rows()] == [
            ("u", 1, 3), ("u", 2, 3), ("c", 3, 3), ("c", 4, 4),
        ]  # fmt: skip
    pair.second.execute("flush binary logs", "delete from t where id = 1")
    with Run(pair.second.source()) as run:
        run.covering(now_ms())
        assert [(op, key["id"]) for op, key, _ in run.rows()] == [("d", 1)]


def test_a_replica_that_lacks_what_was_read_is_noticed(pair: Pair) -> None:
    pair.first.execute(*_TABLE)
    _replicate(pair)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("insert into t values (2, 2)")
        run.covering(now_ms())
        _await_replica(pair)
        pair.second.execute("stop slave")
        pair.first.execute("insert into t values (3, 3)")
        run.covering(now_ms())
    pair.second.execute("insert into t values (9, 9)", "insert into t values (10, 10)")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []


def test_a_stranger_whose_gtids_have_the_same_numbers_is_noticed(pair: Pair) -> None:
    """MariaDB's GTIDs are a domain, a server's number and a counter, which two clusters give out alike."""
    pair.first.execute(*_TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("insert into t values (2, 2)")
        run.covering(now_ms())
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")  # a server without any history is asked for nothing that it could lack
    began = _clock_s(pair.first)
    until(lambda: _clock_s(pair.second) > began)
    pair.second.execute("set session server_id = 7", *_TABLE, "insert into t values (3, 3)")
    assert pair.second.execute("select @@gtid_binlog_pos") == pair.first.execute("select @@gtid_binlog_pos")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []
