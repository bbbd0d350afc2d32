"""PostgreSQL's transactions, what the slot is told of them, and heads. On a real server.

What every kind of source keeps is in tests/contracts/test_sources.py.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import psycopg
import pytest

from headgate.model.change import Change
from headgate.model.change import Sequence as SourceSequence
from headgate.sources.postgres import capture as capture_module
from headgate.stack import Postgres
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import frozen_walsender
from tests.ways.postgres_owner import Owner, Run, after, key


@pytest.fixture
def owner(database: str) -> Iterator[Owner]:
    with closing(Owner(database)) as made:
        yield made


def test_a_long_transaction_comes_in_bounded_batches_and_is_confirmed_whole(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, v text)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("insert into t select n, 'row ' || n from generate_series(1, 50000) n")
        run.rows(20_000)  # confirmed as they come, in the midst of the transaction
        assert run.largest <= capture_module.MOST_CHANGES
    with Run(owner.source()) as run:
        changes = run.rows(50_000)
        assert [key(change)["id"] for change in changes] == list(range(1, 50_001))
        sequences = [change.sequence or SourceSequence(0, 0) for change in changes]
        assert all(earlier < later for earlier, later in itertools.pairwise(sequences))
        assert run.largest <= capture_module.MOST_CHANGES
        run.heads.clear()
        run.streaming()  # past the transaction's end, which alone confirms it
    with Run(owner.source()) as run:
        owner.execute("insert into t values (0)")
        assert key(run.rows(1)[0]) == {"id": 0}


def test_an_idle_table_does_not_keep_the_servers_log(owner: Owner) -> None:
    owner.execute("create table t (id int primary key); create table busy (v int)")
    confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
    with Run(owner.source("t")) as run:
        run.streaming()
        owner.execute("insert into busy select generate_series(1, 5000)")
        end = owner.value("select pg_current_wal_insert_lsn()")
        run.until(lambda: owner.value(f"select ({confirmed}) >= %s::pg_lsn", owner.slot, end), "the slot to move on")


def test_what_is_not_confirmed_keeps_the_servers_log(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        before = owner.value("select pg_current_wal_insert_lsn()")
        run.confirm = False
        owner.execute("insert into t values (1)")
        run.rows(1)
        heads = len(run.heads)
        run.until(lambda: len(run.heads) > heads + 3, "more heads")
    confirmed = "select confirmed_flush_lsn <= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    assert owner.value(confirmed, before, owner.slot)


def test_writes_during_a_snapshot_are_neither_lost_nor_doubled(owner: Owner) -> None:
    owner.execute("create table t (id int primary key, v int)")
    owner.execute("insert into t select n, 0 from generate_series(1, 20000) n")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(owner.dsn, autocommit=True) as connection:
            for number in range(1, 100_000):
                if stop.is_set():
                    return
                connection.execute("update t set v = v + 1 where id = %s", [number % 20_000 + 1])
                connection.execute("delete from t where id = %s", [number * 7 % 20_000 + 1])
                connection.execute("insert into t values (%s, 1) on conflict do nothing", [20_000 + number])

    rows: dict[bytes, Any] = {}
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Run(owner.source(snapshot_batch=500)) as run:
            run.streaming()
            stop.set()
            writer.join()
            written = clock_of(owner)
            run.until(lambda: run.heads[-1].time_ms > written, "a head after the last write")
    finally:
        stop.set()
        writer.join()
    _replay(run.changes, rows)
    wanted = {b'{"id":%d}' % number: {"id": number, "v": value} for number, value in owner.execute("select * from t")}
    assert rows == wanted


def _replay(changes: Sequence[Change], rows: dict[bytes, Any]) -> None:
    """Applies changes; each create must be of a row that is not there, each update and delete of one that is."""
    ended: SourceSequence | None = None
    for change in changes:
        if change.marker is not None:
            ended = change.sequence
            continue
        assert change.key is not None and change.sequence is not None and ended is not None
        assert change.op == "r" or change.sequence > ended
        assert (change.key in rows) == (change.op in "ud")
        if change.op == "d":
            del rows[change.key]
        else:
            rows[change.key] = after(change)


def clock_of(owner: Owner) -> int:
    """Now, by the server's clock, in ms."""
    return int(owner.value("select (extract(epoch from clock_timestamp()) * 1000)::int8"))


# --- heads -----------------------------------------------------------------------------------------


def test_a_head_covers_a_commit_that_was_not_synced(owner: Owner) -> None:
    owner.execute("create table t (id int primary key); set synchronous_commit = off")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("insert into t values (1)")
        committed = clock_of(owner)
        run.until(lambda: run.heads[-1].time_ms > committed, "a later head")
        (change,) = [change for change in run.changes if change.marker is None]
        assert change.sequence is not None and change.sequence < run.heads[-1].sequence


def test_an_open_transaction_does_not_hold_heads_back(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        with owner.connection.transaction():
            owner.execute("insert into t values (1)")
            begun = wall_clock_ms()
            run.until(lambda: run.heads[-1].time_ms > begun, "a head while it is open")


def test_a_frozen_walsender_lets_no_head_pass(owner: Owner, postgres: Postgres) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        with frozen_walsender(postgres):
            frozen_at = clock_of(owner)
            owner.execute("insert into t values (1)")
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                run.step()
            assert run.heads[-1].time_ms <= frozen_at
            assert [change for change in run.changes if change.marker is None] == []
        run.until(lambda: run.heads[-1].time_ms > frozen_at, "a head again")
        assert [key(change) for change in run.changes if change.marker is None] == [{"id": 1}]
