"""Any order of changes, rebuilds, crashes and takeovers: the store agrees with a plain model of the table.

Four partitions, shared by two processes that run the way of a change on a real log and a real store. What a process
does is done step by step here, so that each order of events can be tried, and a failing one told again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from headgate import failpoints
from headgate.errors import SnapshotPending, UnknownEntity
from headgate.flow.heartbeat import control_topic
from headgate.flow.materializing import Materializing
from headgate.flow.status import Reporter
from headgate.flow.stops import Stops
from headgate.flow.writing import LogWriting
from headgate.log.sqlite import open_log
from headgate.model.change import Change, Marker
from headgate.model.change import Sequence as SourceSequence
from headgate.model.entity import Declared
from headgate.model.table import topic_of
from headgate.sources.base import Batch, Head
from headgate.sources.sqlite import decode, decode_rows
from headgate.state.sqlite import open_state
from headgate.stores.base import Query, Reader
from tests.ways.faults.group import SharedLog
from tests.ways.faults.stores import Store, on_redis, on_sqlite
from tests.ways.faults.syncing import PIPELINE, SCHEMA, TABLE, Crash, Syncing

PARTITIONS = 4
LOOKUPS = [("code",), ("code", "part")]
STEPS = ("claimed", "polled", "folded", "before_step", "sent", "stepped", "switched", "committed", "freshened")
KEYS = st.integers(0, 11)
CODES = st.integers(0, 5)
_MOST_ROUNDS = 200


class RowAt(NamedTuple):
    """A row of the model."""

    version: int
    code: str | None
    part: int


class Machine(RuleBasedStateMachine):
    """The table, its log, its store, and two processes."""

    store: Store
    """Which store; set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="headgate-machine-"))
        self.store.empty(self._folder)
        self._now_ms = 1_000_000
        self._log = SharedLog(open_log(self._folder / "log.db", clock=self.clock))
        self._state = open_state(self._folder / "state.db", clock=self.clock)
        self._lookups = LOOKUPS[0]
        self._reader: Reader | None = None
        self._number = itertools.count(1)
        self._at = 0
        self._generation = 0
        self._rows: dict[int, RowAt] = {}
        self._history: dict[int, list[RowAt | None]] = {}
        self._seen: dict[int, int] = {}
        self._recent: list[list[Change]] = []
        self._pending: list[Change] = []
        self._token = 0
        self._is_filling = False
        """Whether a build may be written that is not the one that is read."""
        self.batch = 7
        self.refused = 0
        self._log.ensure([control_topic(PIPELINE)])
        self._writing = LogWriting(
            PIPELINE, "sqlite", self._log, self._state, Stops(self._state, PIPELINE), PARTITIONS, 10**9
        )
        self._writing.learn([SCHEMA])
        self.syncs = [Syncing(self), Syncing(self)]
        self._share(0)

    # --- what processes work with ---

    def clock(self) -> int:
        return self._now_ms

    def tick(self) -> None:
        """A second passes."""
        self._now_ms += 1_000

    def rooms(self) -> Materializing:
        return Materializing(
            pipeline=PIPELINE,
            declared=[Declared(name="item", pipeline=PIPELINE, table=TABLE, lookups=self._lookups)],
            decode=decode,
            decode_rows=decode_rows,
            log=self._log,
            open_writer=lambda entities: self.store.writer(self._folder, entities),
            state=self._state,
            reporter=Reporter(self._state, PIPELINE, "materialize", "test", self.clock),
            clock=self.clock,
            jitter=random.Random(1),
        )

    # --- the source ---

    @initialize()
    def first_snapshot(self) -> None:
        self._snapshot()

    @rule(key=KEYS, code=CODES, part=st.integers(0, 2))
    def is_written(self, key: int, code: int, part: int) -> None:
        """An insert or an update; a unique value that another row has moves to this one."""
        holder = next((other for other, row in self._rows.items() if row.code == f"c{code}"), None)
        if holder is not None and holder != key:
            self._put(holder, self._rows[holder]._replace(code=None))
        self._put(key, RowAt(0, f"c{code}", part))
        self._write()

    @rule(key=KEYS)
    def is_deleted(self, key: int) -> None:
        if key in self._rows:
            self._delete(key)
            self._write()

    @rule(key=KEYS, other=KEYS)
    def key_moves(self, key: int, other: int) -> None:
        if key in self._rows and other not in self._rows:
            row = self._rows[key]
            self._delete(key)
            self._put(other, row)
            self._write()

    @rule()
    def is_truncated(self) -> None:
        for key in list(self._rows):
            self._note(key, None)
        self._pending.append(Change(op="t", table=TABLE, sequence=self._next(), time_ms=self._now_ms))
        self._write()

    @rule()
    def is_read_again(self) -> None:
        self._snapshot()

    @rule(batches=st.integers(1, 4))
    def capture_crashes_and_repeats(self, batches: int) -> None:
        """What was not confirmed comes again, at new offsets, and with the source's old sequences."""
        for changes in self._recent[-batches:]:
            self._append(changes)

    # --- the processes ---

    @rule(which=st.integers(0, 1), rounds=st.integers(1, 3), batch=st.sampled_from([1, 3, 50]))
    def sync_goes_on(self, which: int, rounds: int, batch: int) -> None:
        self.batch = batch
        self.syncs[which].go_on(rounds)

    @rule(which=st.integers(0, 1), step=st.sampled_from(STEPS), at=st.integers(1, 3))
    def sync_crashes(self, which: int, step: str, at: int) -> None:
        """At a step, if it gets there, and else it is killed between two rounds."""

        def crash() -> None:
            raise Crash

        failpoints.arm_with(f"materialize.{step}", crash, at)
        try:
            self.syncs[which].go_on(3)
        finally:
            failpoints.arm("")
        self.syncs[which].end()

    @rule(split=st.integers(0, PARTITIONS))
    def partitions_are_shared_anew(self, split: int) -> None:
        """The first so many partitions are the one's, the others the other's; each hears of it at its next poll."""
        self._share(split)

    @rule(which=st.integers(0, 1), rounds=st.integers(2, 4))
    def sync_sleeps_through_a_takeover(self, which: int, rounds: int) -> None:
        """It has polled when it falls asleep; meanwhile the other one gets all partitions."""
        sleeper, other = self.syncs[which], self.syncs[1 - which]
        sleeper.falls_asleep()
        sleeper.share, other.share = frozenset(), frozenset(range(PARTITIONS))
        other.go_on(rounds)
        sleeper.wakes_late(self._fences())

    @rule()
    def lookups_change(self) -> None:
        """Another definition is another build, which is filled beside the one that is read."""
        self._lookups = LOOKUPS[1 - LOOKUPS.index(self._lookups)]
        for sync in self.syncs:
            sync.end()
        self._is_filling = True

    # --- what must hold ---

    @invariant()
    def no_read_goes_back(self) -> None:
        """Each key is as the source once had it, and never as it was before what was read of it last."""
        found = self._read()
        if found is None:
            return
        for key, states in self._history.items():
            state, since = found.get(key), self._seen.get(key, 0)
            assert state in states[since:], f"{key} is {state}, after {states[since]}; the source had {states}"
            self._seen[key] = states.index(state, since)
        assert found.keys() <= self._history.keys()

    @invariant()
    def a_lookup_answers_rows_that_have_the_value(self) -> None:
        if self._read() is not None:
            for number in range(6):
                assert all(row.code == f"c{number}" for row in self._lookup("code", f"c{number}").values())

    @rule()
    def all_is_applied(self) -> None:
        """Once nothing is left to do the store is the model: rows, lookups, count."""
        for _ in range(_MOST_ROUNDS):
            self.batch = 50
            for sync in self.syncs:
                sync.go_on(1)
            if self._is_whole():
                break
        else:
            raise AssertionError("the processes do not come to an end")
        self._is_filling = False
        assert self._read() == self._rows
        assert self._lookup_keys("code") == _by(self._rows, "code")
        reader = self._opened_reader()
        entity = self._loop.run_until_complete(reader.entities())["item"]
        assert entity.lookups == self._lookups
        if "part" in entity.lookups:
            assert self._lookup_keys("part") == _by(self._rows, "part")
        assert self._loop.run_until_complete(reader.count("item")).rows == len(self._rows)

    def teardown(self) -> None:
        failpoints.arm("")
        try:
            if self._generation:
                self.all_is_applied()
                self.no_read_goes_back()
        finally:
            for sync in self.syncs:
                sync.end()
            if self._reader is not None:
                self._loop.run_until_complete(self._reader.close())
            self._writing.close()
            self._log.close()
            self._state.close()
            self._loop.close()
            shutil.rmtree(self._folder)

    # --- how it is done ---

    def _share(self, split: int) -> None:
        self.syncs[0].share = frozenset(range(split))
        self.syncs[1].share = frozenset(range(split, PARTITIONS))

    def _next(self) -> SourceSequence:
        self._at = next(self._number)
        return SourceSequence(self._at, self._at)

    def _note(self, key: int, row: RowAt | None) -> None:
        self._history.setdefault(key, [None]).append(row)
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = row

    def _put(self, key: int, row: RowAt) -> None:
        op, sequence = "u" if key in self._rows else "c", self._next()
        row = row._replace(version=self._at)
        self._note(key, row)
        self._pending.append(_row_change(op, key, row, sequence, self._now_ms))

    def _delete(self, key: int) -> None:
        self._note(key, None)
        self._pending.append(_row_change("d", key, None, self._next(), self._now_ms))

    def _write(self) -> None:
        """What is pending is one transaction of the source, and one batch of capture."""
        changes, self._pending = self._pending, []
        self._recent.append(changes)
        self._append(changes)

    def _append(self, changes: list[Change]) -> None:
        self.tick()
        self._token += 1
        head = Head(SourceSequence(self._at, self._at), self._now_ms)
        self._writing.write(Batch(changes=changes, token=self._token, head=head), self._now_ms)
        self._writing.flush(10)
        self._writing.acknowledged(self._now_ms)
        self._writing.beat(self._now_ms)
        self._writing.flush(10)

    def _snapshot(self) -> None:
        """The whole table, between its markers, as of now."""
        self._generation = max(self._now_ms, self._generation + 1)
        sequence = SourceSequence(self._at, self._at)
        self._recent = []
        self._append([self._marker("begin", sequence)])
        self._append([
            msgspec.structs.replace(_row_change("r", key, row, sequence, self._now_ms), snapshot=True)
            for key, row in self._rows.items()
        ])  # fmt: skip
        self._append([self._marker("end", sequence)])

    def _marker(self, phase: Any, sequence: SourceSequence) -> Change:
        return Change(op="m", table=TABLE, sequence=sequence, time_ms=self._now_ms, snapshot=True,
                      marker=Marker(phase, self._generation))  # fmt: skip

    def _is_whole(self) -> bool:
        """Whether readers see, of every partition, all that the log holds."""
        reader = self._opened_reader()
        try:
            mark = self._loop.run_until_complete(reader.watermark("item"))
        except (SnapshotPending, UnknownEntity):
            return False
        entity = self._loop.run_until_complete(reader.entities())["item"]
        ends = self._log.end([topic_of(PIPELINE, TABLE)])
        return (
            entity.lookups == self._lookups
            and mark.generation == self._generation
            and all(mark.partitions[place.number].offset == end for place, end in ends.items())
        )

    def _fences(self) -> dict[int, int]:
        """Of each partition of the build that is read, as far as there is one and it is the one that is written."""
        try:
            mark = self._loop.run_until_complete(self._opened_reader().watermark("item"))
        except (SnapshotPending, UnknownEntity):
            return {}
        lookups = self._loop.run_until_complete(self._opened_reader().entities())["item"].lookups
        is_written = lookups == self._lookups and not self._is_filling
        return {number: one.fence for number, one in mark.partitions.items()} if is_written else {}

    def _opened_reader(self) -> Reader:
        if self._reader is None:
            self._reader = self.store.reader(self._folder)
        return self._reader

    def _read(self) -> dict[int, RowAt] | None:
        """All rows; None while there is no whole snapshot yet."""
        try:
            found = self._loop.run_until_complete(
                self._opened_reader().find("item", Query(limit=100, max_bytes=1 << 20))
            )
        except (SnapshotPending, UnknownEntity):
            return None
        return _rows_of(found.rows)

    def _lookup(self, field: str, value: Any) -> dict[int, RowAt]:
        found = self._loop.run_until_complete(self._opened_reader().lookup("item", field, [value], limit=100))
        rows = _rows_of(found.rows)
        assert len(rows) == len(found.rows)
        return rows

    def _lookup_keys(self, field: str) -> dict[Any, set[int]]:
        values = {"code": [f"c{number}" for number in range(6)], "part": range(3)}[field]
        return {value: keys for value in values if (keys := set(self._lookup(field, value)))}


def _row_change(op: Any, key: int, row: RowAt | None, sequence: SourceSequence, time_ms: int) -> Change:
    after = None if row is None else msgspec.json.encode({"id": key, **row._asdict()})
    return Change(op=op, table=TABLE, key=msgspec.json.encode({"id": key}), after=after, sequence=sequence,
                  time_ms=time_ms)  # fmt: skip


def _rows_of(rows: Any) -> dict[int, RowAt]:
    decoded = [msgspec.json.decode(row.json) for row in rows]
    assert len({row["id"] for row in decoded}) == len(decoded)
    return {row["id"]: RowAt(row["version"], row["code"], row["part"]) for row in decoded}


def _by(rows: dict[int, RowAt], field: str) -> dict[Any, set[int]]:
    found: dict[Any, set[int]] = {}
    for key, row in rows.items():
        if getattr(row, field) is not None:
            found.setdefault(getattr(row, field), set()).add(key)
    return found


@pytest.fixture(params=["redis", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield on_redis(request.getfixturevalue("redis_url")) if request.param == "redis" else on_sqlite()


@pytest.mark.parametrize(
    ("examples", "steps"),
    [pytest.param(25, 30, id="short"), pytest.param(1_500, 60, id="long", marks=pytest.mark.soak)],
)
def test_the_store_agrees_with_the_model(store: Store, examples: int, steps: int) -> None:
    machine = type("Machine", (Machine,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
