"""What a process says of itself outlasts what it is said to: a state that comes back empty, and long waits."""

from __future__ import annotations

import random
import threading
import time as time_module
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headgate.errors import RecordTooLarge, SlotMissing, Unavailable
from headgate.flow.definition import await_tables
from headgate.flow.lag import Lag
from headgate.flow.lanes import Lane
from headgate.flow.materializing import Materializing
from headgate.flow.retry import Backoff
from headgate.flow.schemas import announce, announced
from headgate.flow.status import Reporter
from headgate.flow.stops import Stops, stopped
from headgate.flow.writing import LogWriting
from headgate.log.base import Record, Topic
from headgate.log.sqlite import open_log
from headgate.model.pipeline import REPORT_TTL_MS, Report, report_key
from headgate.model.position import Progress
from headgate.model.table import Column, Table
from headgate.state.base import State
from headgate.state.sqlite import open_state
from headgate.stores.sqlite import open_writer
from headgate.telemetry import wall_clock_ms
from headgate.testing import MemoryState
from tests.unit.flow.test_folding import ENTITY, PARTITION

ITEMS = Table(name="main.items", columns=(Column(name="id", type="integer"),), key=("id",))


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def state(tmp_path: Path, time: Time) -> Iterator[State]:
    opened = open_state(tmp_path / "state.db", clock=time)
    yield opened
    opened.close()


def test_what_a_state_has_lost_is_announced_again(tmp_path: Path, state: State, time: Time) -> None:
    log = open_log(tmp_path / "log.db", clock=time)
    stops = Stops(state, "shop")
    writing = LogWriting("shop", "sqlite", log, state, stops, 1, 60_000)
    writing.learn([ITEMS])
    stops.stop("main.items", RecordTooLarge("too large"), time())
    for key in [*state.scan("table/"), *state.scan("stopped/")]:
        state.delete(key)
    assert not announced(state, "shop")
    assert not stopped(state, "shop")
    writing.remind(time())
    assert announced(state, "shop") == {"main.items": ITEMS}
    assert stopped(state, "shop")["main.items"].code == "record_too_large"
    writing.close()
    log.close()


def report_in(state: State, reporter: Reporter) -> Report | None:
    entry = state.get(report_key(reporter.latest))
    return None if entry is None else msgspec.json.decode(entry.value, type=Report)


def test_a_fault_is_told_for_as_long_as_it_lasts_and_its_lag_grows(state: State, time: Time) -> None:
    reporter = Reporter(state, "shop", "capture", "here", time)
    reporter.note(lag_ms=500)
    reporter.fault(SlotMissing("gone"))
    for _ in range(3):
        time.ms += REPORT_TTL_MS - 1_000
        reporter.remind()
    told = report_in(state, reporter)
    assert told is not None and told.fault is not None
    assert (told.state, told.fault.code, told.fault.since_ms) == ("error", "slot_missing", 1_000_000)
    assert told.lag_ms == 500 + 3 * (REPORT_TTL_MS - 1_000)


def test_a_half_that_was_given_up_is_not_told_of_again(state: State, time: Time) -> None:
    reporter = Reporter(state, "shop", "capture", "here", time)
    reporter.fault(SlotMissing("gone"))
    reporter.withdraw()
    time.ms += 2_000
    reporter.remind()
    assert report_in(state, reporter) is None


_moment = threading.Event()
"""Never set."""


class Stop(threading.Event):
    """Waits without waiting, and notes for how long it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return self.is_set()


def test_waits_double_up_to_the_longest() -> None:
    stop = Stop()
    backoff = Backoff(random.Random(1), first_s=1.0, most_s=8.0)
    for _ in range(6):
        backoff.wait(stop)
    backoff.reset()
    backoff.wait(stop)
    longest = (1, 2, 4, 8, 8, 8, 1)
    assert all(most / 2 <= waited <= most for waited, most in zip(stop.waited, longest, strict=True))


def test_a_fault_is_repeated_while_its_half_is_held_up(state: State) -> None:
    reporter = Reporter(state, "shop", "capture", "here", wall_clock_ms)
    with reporter.reminding():
        reporter.fault(SlotMissing("gone"))
        first = reporter.latest.time_ms
        deadline = time_module.monotonic() + 60
        while reporter.latest.time_ms == first:
            assert time_module.monotonic() < deadline
            _moment.wait(0.05)
    told = report_in(state, reporter)
    assert told is not None
    assert told.time_ms > first


def awaited(state: State, reporter: Reporter, time: Time) -> Report:
    """What is told once the clock's present has been reached by it."""
    deadline = time_module.monotonic() + 60
    while True:
        told = report_in(state, reporter)
        assert told is not None, "what is told of a living process has vanished"
        if told.time_ms == time():
            return told
        assert time_module.monotonic() < deadline
        _moment.wait(0.05)


def test_a_half_that_is_busy_with_one_step_is_spoken_for_and_its_lag_grows(state: State, time: Time) -> None:
    reporter = Reporter(state, "shop", "materialize", "here", time)
    reporter.note(lag_ms=500)
    with reporter.reminding():
        reporter.state("running")
        for _ in range(3):  # without a tick
            time.ms += REPORT_TTL_MS - 1_000
            told = awaited(state, reporter, time)
    assert (told.state, told.fault) == ("running", None)
    assert told.lag_ms == 500 + 3 * (REPORT_TTL_MS - 1_000)


def test_a_half_at_work_speaks_for_itself(state: State, time: Time) -> None:
    reporter = Reporter(state, "shop", "materialize", "here", time)
    reporter.state("running")
    time.ms += 2_000
    reporter.remind()
    assert reporter.latest.time_ms == 1_000_000


@pytest.mark.parametrize("was_told", [True, False])
def test_a_half_of_which_nothing_is_told_is_not_spoken_for(state: State, time: Time, was_told: bool) -> None:
    reporter = Reporter(state, "shop", "capture", "here", time)
    if was_told:
        reporter.state("running")
        reporter.withdraw()
    time.ms += REPORT_TTL_MS
    reporter.remind()
    assert report_in(state, reporter) is None


def test_a_fault_is_told_until_the_next_run_is_under_way(tmp_path: Path, state: State, time: Time) -> None:
    """A try begins by learning the tables, and may then wait long for what is still wrong."""
    reporter = Reporter(state, "shop", "materialize", "here", time)
    reporter.fault(Unavailable("The store's file is busy: try again."))
    announce(state, "shop", ITEMS)
    with closing(open_log(tmp_path / "log.db", clock=time)) as log:
        rooms = Materializing(
            pipeline="shop",
            declared=[],
            decode=None,
            log=log,
            open_writer=lambda entities: open_writer(tmp_path / "store.db", entities),
            state=state,
            reporter=reporter,
            clock=time,
            jitter=random.Random(1),
        )
        assert await_tables(rooms, threading.Event()) == {ITEMS.name: ITEMS}
    assert reporter.latest.fault is not None
    reporter.state("running")
    assert reporter.latest.fault is None


class Slow(MemoryState):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def put(self, key: str, value: bytes, *, expect: int | None = None, ttl_ms: int | None = None) -> int:
        self.asked.set()
        assert self.may_answer.wait(30)
        return super().put(key, value, expect=expect, ttl_ms=ttl_ms)


def test_a_half_at_work_does_not_wait_for_its_reports(time: Time) -> None:
    state = Slow()
    reporter = Reporter(state, "shop", "materialize", "here", time)
    with reporter.reminding():
        reporter.state("running")
        state.asked.clear()
        state.may_answer.clear()
        time.ms += 1_000
        reporter.tick()
        assert state.asked.wait(30), "the report is under way"
        time.ms += 1_000
        reporter.tick()
        reporter.note(lag_ms=7)
        state.may_answer.set()
    told = report_in(state, reporter)
    assert told is not None and told.state == "running"
    assert told.time_ms in (1_001_000, 1_002_000)


def test_a_tick_of_a_half_that_was_withdrawn_is_not_told(time: Time) -> None:
    state = Slow()
    reporter = Reporter(state, "shop", "capture", "here", time)
    with reporter.reminding():
        reporter.state("running")
        time.ms += 1_000
        reporter.tick()
        reporter.withdraw()
    assert report_in(state, reporter) is None


@pytest.mark.parametrize("still", ["fault", "paused"])
def test_the_lag_in_records_is_asked_for_while_a_half_stands_still(state: State, still: str) -> None:
    reporter = Reporter(state, "shop", "materialize", "here", wall_clock_ms)
    reporter.note(lag_records=0)
    ahead = iter(range(5, 10_000))
    with reporter.reminding(lambda: next(ahead)):
        if still == "fault":
            reporter.fault(SlotMissing("gone"))
        else:
            reporter.state("paused")
        deadline = time_module.monotonic() + 60
        while not (reporter.latest.lag_records or 0) > 5:
            assert time_module.monotonic() < deadline
            _moment.wait(0.05)


def test_the_lag_is_counted_to_the_logs_own_end_from_the_lane_that_is_furthest_behind(
    tmp_path: Path, time: Time
) -> None:
    log = open_log(tmp_path / "log.db", clock=time)
    log.ensure([Topic(name=PARTITION.topic)])
    appender = log.appender()
    for _ in range(7):
        appender.append(PARTITION.topic, Record(b"k", b"v"))
    appender.flush(10)
    lag = Lag(log)
    assert lag.records() is None
    lag.note([Lane(ENTITY, PARTITION, at, at) for at in (Progress(offset=6), Progress(offset=2))])
    assert (lag.records(), lag.partitions()) == (5, 1)
    appender.close()
    log.close()
