"""The embedded log takes away what is past its retention, and no reader misses anything without being told."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from headgate.errors import LogTruncated
from headgate.log.base import Logged, Record, Topic
from headgate.log.sqlite import SqliteLog, open_log
from headgate.log.sqlite.retention import LIMIT
from headgate.model.position import Partition

RETENTION_MS = 500  # less than the second after which an appender prunes by itself
PLACE = Partition("t", 0)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[SqliteLog]:
    log = open_log(tmp_path / "log.db", clock=clock)
    yield log
    log.close()


def make(log: SqliteLog, *, compacted: bool) -> None:
    log.ensure([Topic(name="t", compacted=compacted, retention_ms=RETENTION_MS)])


def append(log: SqliteLog, *pairs: tuple[str, str | None]) -> None:
    appender = log.appender()
    for key, value in pairs:
        appender.append("t", Record(key.encode(), None if value is None else value.encode()))
    appender.close()


def read(log: SqliteLog, start: int = 0) -> list[Logged]:
    with closing(log.read({PLACE: start})) as reader:
        return list(reader.poll(100_000, 0))


def pairs(records: Sequence[Logged]) -> list[tuple[int, str, str | None]]:
    return [
        (record.offset, (record.key or b"").decode(), None if record.value is None else record.value.decode())
        for record in records
    ]


def prune_all(log: SqliteLog, now_ms: int) -> int:
    removed = 0
    while gone := log.prune(now_ms):
        removed += gone
    return removed


# --- compacted topics ----------------------------------------------------------------------------


def test_of_old_records_the_newest_of_each_key_stays_and_tombstones_go(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, ("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("c", None), ("d", None))
    clock.now_ms += RETENTION_MS + 1
    append(log, ("b", "2"))
    assert log.prune(clock()) == 4
    assert pairs(read(log)) == [(1, "b", "1"), (2, "a", "2"), (6, "b", "2")]
    assert log.end(["t"]) == {PLACE: 7}
    clock.now_ms += RETENTION_MS + 1
    assert log.prune(clock()) == 1
    assert pairs(read(log)) == [(2, "a", "2"), (6, "b", "2")]
    assert log.prune(clock()) == 0


def test_young_records_all_stay(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, ("a", "1"), ("a", "2"), ("a", None))
    clock.now_ms += RETENTION_MS
    assert log.prune(clock()) == 0
    assert len(read(log)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_tells_the_same_as_the_whole(log: SqliteLog, clock: Clock, seed: int) -> None:
    chance = random.Random(seed)
    make(log, compacted=True)
    rows: dict[str, str] = {}
    for _ in range(20):
        changes = [(f"k{chance.randrange(30)}", chance.choice([None, str(chance.random())])) for _ in range(50)]
        append(log, *changes)
        for key, value in changes:
            rows.pop(key, None) if value is None else rows.update({key: value})
        clock.now_ms += chance.randrange(RETENTION_MS)
        prune_all(log, clock())
        told: dict[str, str] = {}
        for _, key, value in pairs(read(log)):
            told.pop(key, None) if value is None else told.update({key: value})
        assert told == rows


def test_a_reader_goes_over_gaps(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, *[("a", str(n)) for n in range(100)], ("b", "1"))
    clock.now_ms += RETENTION_MS + 1
    assert log.prune(clock()) == 99
    assert pairs(read(log, start=50)) == [(99, "a", "99"), (100, "b", "1")]


def test_a_position_before_a_tombstone_that_went_is_told(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, ("a", "1"), ("b", "1"), ("a", None), ("c", "1"))
    clock.now_ms += RETENTION_MS + 1
    log.prune(clock())
    with pytest.raises(LogTruncated):
        read(log, start=1)  # it would keep the row a for ever
    assert pairs(read(log, start=3)) == [(3, "c", "1")]
    assert pairs(read(log, start=0)) == [(1, "b", "1"), (3, "c", "1")]


def test_a_slow_reader_is_told_when_tombstones_go_before_it_came_to_them(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, ("a", "1"), ("b", "1"), ("a", None), ("c", "1"))
    reader = log.read({PLACE: 0})
    assert pairs(reader.poll(1, 0)) == [(0, "a", "1")]
    clock.now_ms += RETENTION_MS + 1
    log.prune(clock())
    with pytest.raises(LogTruncated):
        reader.poll(10, 0)
    reader.seek({PLACE: 0})
    assert pairs(reader.poll(10, 0)) == [(1, "b", "1"), (3, "c", "1")]
    reader.close()


def test_a_slow_reader_goes_on_over_tombstones_that_went_before_it_began(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=True)
    append(log, ("b", "1"), ("a", "1"), ("c", "1"), ("a", None), ("d", "1"))
    clock.now_ms += RETENTION_MS + 1
    log.prune(clock())
    reader = log.follow(["t"], "g", lambda _: {}, lambda _: None)
    assert [pairs(reader.poll(1, 0)) for _ in range(3)] == [[(0, "b", "1")], [(2, "c", "1")], [(4, "d", "1")]]
    reader.close()


# --- other topics --------------------------------------------------------------------------------


def test_old_records_go_and_positions_before_them_are_told(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=False)
    append(log, ("a", "1"), ("b", "1"))
    clock.now_ms += RETENTION_MS + 1
    append(log, ("a", "2"))
    assert log.prune(clock()) == 2
    assert pairs(read(log, start=2)) == [(2, "a", "2")]
    for gone in (0, 1):
        with pytest.raises(LogTruncated):
            read(log, start=gone)
    clock.now_ms += RETENTION_MS + 1
    assert log.prune(clock()) == 1
    assert log.end(["t"]) == {PLACE: 3}
    assert read(log, start=3) == []


def test_one_go_is_bounded(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=False)
    append(log, *[("k", str(n)) for n in range(LIMIT + 500)])
    clock.now_ms += RETENTION_MS + 1
    assert [log.prune(clock()) for _ in range(3)] == [LIMIT, 500, 0]


# --- by itself -----------------------------------------------------------------------------------


def test_whoever_appends_takes_old_records_away_now_and_then(log: SqliteLog, clock: Clock) -> None:
    make(log, compacted=False)
    append(log, *[("k", str(n)) for n in range(LIMIT + 500)])
    appender = log.appender()
    clock.now_ms += 60_000
    appender.acknowledged()
    assert len(read(log, start=LIMIT)) == 500
    appender.acknowledged()
    assert len(read(log, start=LIMIT)) == 500, "not again at once"
    clock.now_ms += 1_000
    appender.flush(1)
    assert log.prune(clock()) == 0, "a second later the rest went"
    appender.close()
