"""A reader of the embedded store that is cancelled: its query ends in the engine, and nobody else's does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from headgate.errors import HeadgateError
from headgate.stores.sqlite.reader import _on_a_worker
from headgate.stores.sqlite.snapshot import Snapshots, Ticket
from tests.ways.clients.gate import fill_store

ENDLESS = "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n"
DEADLINE_S = 60.0


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    fill_store(tmp_path / "store.db")
    return Snapshots(tmp_path / "store.db")


async def test_a_cancelled_query_ends_in_the_engine(snapshots: Snapshots) -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(ticket: Ticket) -> None:
        try:
            with snapshots.take(ticket) as snapshot:
                assert snapshot is not None
                begun.set()
                snapshot.connection.execute(ENDLESS).fetchone()
        finally:
            ended.set()

    reading = asyncio.create_task(_on_a_worker(work))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(ended.wait, DEADLINE_S), "it goes on in the engine"
    with snapshots.take() as snapshot:  # the connection is free again, and whole
        assert snapshot is not None
        assert snapshot.connection.execute("select 1").fetchone() == (1,)
    snapshots.close()


def test_a_turn_that_was_taken_back_does_not_begin_and_touches_no_other(snapshots: Snapshots) -> None:
    late, other = Ticket(), Ticket()
    late.take_back()
    with pytest.raises(HeadgateError), snapshots.take(late):
        raise AssertionError("it has begun")
    with snapshots.take(other) as snapshot:
        late.take_back()
        assert snapshot is not None
        assert snapshot.connection.execute("select 1").fetchone() == (1,)
    other.take_back()
    with snapshots.take() as snapshot:
        assert snapshot is not None
        assert snapshot.connection.execute("select 1").fetchone() == (1,)
    snapshots.close()
