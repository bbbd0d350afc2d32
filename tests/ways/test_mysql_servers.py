"""Another server answers than before: what it can be shown to hold is read on, what it can't is an error.

Nothing that was committed is ever passed over in silence. On MariaDB and on MySQL, but for what their GTIDs decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from headgate.errors import BinlogPurged
from headgate.stack.binlog import BinlogServer
from tests.ways.binlog_pair import KINDS, TABLE, Kind, Pair, as_new, two_servers
from tests.ways.test_mysql_source import Owner, Run, end_of_log, now_ms

ON_MARIADB = pytest.mark.parametrize("kind", ["mariadb"], indirect=True)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def servers(kind: Kind, services_folder: Path) -> Iterator[Sequence[BinlogServer]]:
    with two_servers(kind, services_folder) as both:
        yield both


@pytest.fixture
def pair(kind: Kind, servers: Sequence[BinlogServer], tmp_path: Path) -> Iterator[Pair]:
    with as_new(kind, servers, tmp_path) as opened:
        yield opened


@ON_MARIADB
def test_a_server_in_place_of_another_with_its_number_is_noticed(pair: Pair) -> None:
    """File, position and GTID are the same on both: what differs is when the file was begun."""
    pair.second.execute("set global server_id = 7", "set session server_id = 7")  # as one installed in its place has
    pair.first.execute(*TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    pair.await_next_second()
    pair.second.execute("reset master", *TABLE)
    assert end_of_log(pair.second) == end_of_log(pair.first)
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
    pair.first.execute(*TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    before = end_of_log(pair.first)
    pair.await_next_second()
    pair.first.execute("delete from t", pair.kind.renewal(pair.first))
    for number in range(2, 100):
        pair.first.execute(f"insert into t values ({number}, 2)")
    assert end_of_log(pair.first) > before
    with Run(pair.first.source()) as run, pytest.raises(BinlogPurged, match="re-snapshot"):
        run.until(lambda: False, "never")
    assert run.rows() == []


@pytest.mark.parametrize(("kind", "tag"), [("mariadb", ""), ("mysql", ""), ("mysql", "billing")], indirect=["kind"])
def test_a_replica_is_read_on_by_gtid_and_later_by_its_own_files(pair: Pair, tag: str) -> None:
    if tag:
        _use_tag(pair.first, tag)
    pair.first.execute(*TABLE)
    pair.replicate()
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("begin", "update t set v = 2", "select sleep(1.1)", "insert into t values (2, 2)", "commit")
        run.covering(now_ms())
    pair.first.execute("update t set v = 3", "insert into t values (3, 3)")
    pair.await_replica()
    pair.stop_replica()
    pair.second.execute("insert into t values (4, 4)")
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
    pair.first.execute(*TABLE)
    pair.replicate()
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("insert into t values (2, 2)")
        run.covering(now_ms())
        pair.await_replica()
        pair.stop_replica()
        pair.first.execute("insert into t values (3, 3)")
        run.covering(now_ms())
    pair.second.execute("insert into t values (9, 9)", "insert into t values (10, 10)")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []


@ON_MARIADB
def test_a_stranger_whose_gtids_have_the_same_numbers_is_noticed(pair: Pair) -> None:
    """MariaDB's GTIDs are a domain, a server's number and a counter, which two clusters give out alike."""
    pair.first.execute(*TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
        pair.first.execute("insert into t values (2, 2)")
        run.covering(now_ms())
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")  # a server without any history is asked for nothing that it could lack
    pair.await_next_second()
    pair.second.execute("set session server_id = 7", *TABLE, "insert into t values (3, 3)")
    assert pair.second.execute("select @@gtid_binlog_pos") == pair.first.execute("select @@gtid_binlog_pos")
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    assert run.rows() == [] and run.heads == []


@pytest.mark.parametrize("kind", ["mysql"], indirect=True)
def test_a_stranger_is_noticed_and_read_anew_when_that_is_asked_for(pair: Pair) -> None:
    for owner in (pair.first, pair.second):
        owner.execute(*TABLE)
    with Run(pair.first.source()) as run:
        run.covering(now_ms())
    with Run(pair.second.source()) as run, pytest.raises(BinlogPurged, match="another server"):
        run.until(lambda: False, "never")
    with Run(pair.second.source(), resnapshot=["t"]) as run:
        run.covering(now_ms())
        pair.second.execute("insert into t values (4, 4)")
        run.covering(now_ms())
    assert [(op, key["id"]) for op, key, _ in run.rows()] == [("r", 1), ("c", 4)]
