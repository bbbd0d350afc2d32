"""What is due each second beside the records: freshness, schemas, the catalog's events, leftovers, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headgate.errors import HeadgateError
from headgate.failpoints import reach
from headgate.flow.apply import Applying, chunks
from headgate.flow.catalog import Catalog
from headgate.flow.contract import Defined, define_each
from headgate.flow.halting import Halting
from headgate.flow.heartbeat import Beats, Heartbeats
from headgate.flow.lag import Lag
from headgate.flow.lanes import Lanes
from headgate.flow.letters import Letters, requests_of
from headgate.flow.lookout import Lookout
from headgate.flow.materializing import Materializing
from headgate.flow.schemas import announce_fed, announced
from headgate.flow.standing import Standing
from headgate.log.base import Reader, Slice
from headgate.model.pipeline import LetterRequest
from headgate.model.table import Table
from headgate.stores.base import Writer
from headgate.telemetry import is_due, logger

_log = logger("flow.upkeep")
_EVERY_MS = 1_000
_SWEEP = 1_000


class Told(NamedTuple):
    """What others have left in `state` for whoever materializes."""

    tables: Mapping[str, Table]
    """The schemas that were announced."""
    requests: Mapping[str, LetterRequest]
    """What is asked of dead letters."""
    is_mended: bool
    """Whether the keys of an entity that stands still have an order again."""


def told(rooms: Materializing, defined: Defined, tables: Mapping[str, Table]) -> Told:
    """What stands there now, for a run whose entities are so `defined` by these tables. Blocks."""
    known = announced(rooms.state, rooms.pipeline)
    return Told(known, requests_of(rooms.state, rooms.pipeline), _is_mended(rooms, defined, tables))


def _is_mended(rooms: Materializing, defined: Defined, tables: Mapping[str, Table]) -> bool:
    if not defined.has_moved:
        return False
    try:
        return define_each(rooms, tables).form != defined.form
    except HeadgateError:  # a topic that is made anew is gone for a moment
        return False


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of materialize works with."""

    rooms: Materializing
    defined: Defined
    tables: Mapping[str, Table]
    """As `defined` saw them."""
    writer: Writer
    lanes: Lanes
    reader: Reader
    control: Beats
    beats: Heartbeats
    applying: Applying
    halting: Halting
    letters: Letters
    lookout: Lookout[Told]
    standing: Standing
    lag: Lag
    catalog: Catalog


class Upkeep:
    """One run's upkeep. One thread uses it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._defined = run.defined
        self._tables = run.tables
        self._second_ms = 0
        self.is_current = True
        """False once a schema has changed so that rows need another build, a topic is another one, or somebody has
        said how an entity that stands still is to go on."""

    def take_heartbeats(self) -> None:
        """Takes what the control topic has brought."""
        for beat in self._run.control.take():
            self._run.beats.add(beat)

    def tend(self, *, idle: bool) -> None:
        """Does what is due. `idle`: no record waits, so that there is time to sweep."""
        self._run.letters.work()
        if not is_due(self._run.rooms.clock(), self._second_ms, _EVERY_MS):
            return
        self._second_ms = self._run.rooms.clock()
        if not self._run.lanes.are_of(self._run.beats):
            self.is_current = False  # a topic was recreated: the next run begins with the new one
            return
        self._run.lanes.show_whole()
        if self._run.lanes.are_outdone():
            self.is_current = False  # the next run fills the newer generation
            return
        for part in chunks(self._run.lanes.freshen(self._run.beats, self._run.reader.reached())):
            self._run.applying.write(part)
        reach("materialize.freshened")
        found = self._run.lookout.take()
        if found is not None:
            self._follow_schemas(found.tables)
            self._run.letters.take(found.requests)
            if found.is_mended:
                self.is_current = False
        self._run.catalog.tell()
        self._run.letters.tend(idle=idle)
        if self._run.halting.has_broken or self._run.letters.has_word:
            self.is_current = False
        if idle:
            self._sweep()
        self._report()

    def note(self, records: Sequence[Slice], interval_s: float) -> None:
        """Counts a batch for the report."""
        reporter, count = self._run.rooms.reporter, sum(map(len, records))
        reporter.meter.add(count, sum(mine.size() for mine in records))
        last_event_ms = max(mine.record(len(mine) - 1).time_ms for mine in records)
        reporter.note(batch_size=count, last_event_ms=last_event_ms, flush_interval_ms=interval_s * 1000)

    def _follow_schemas(self, known: Mapping[str, Table]) -> None:
        """A changed schema is published; one that needs another build ends the run, and the next one fills it."""
        rooms = self._run.rooms
        tables = announce_fed(rooms.state, rooms.pipeline, rooms.feed, known)
        needed = {declared.table for declared in self._run.rooms.declared}
        if tables == self._tables or not tables or not needed <= tables.keys():
            return  # what `state` has lost, capture announces again
        self._tables = tables
        defined = define_each(self._run.rooms, tables)
        if defined.form != self._defined.form:
            self.is_current = False
            return
        self._run.writer.define(defined.entities)
        self._run.catalog.defined(defined.entities)
        self._defined = defined
        self._run.applying.define(defined.entities, tables)

    def _sweep(self) -> None:
        for entity in self._defined.entities:
            self._run.writer.sweep(entity.name, _SWEEP)

    def _report(self) -> None:
        reporter = self._run.rooms.reporter
        lanes = self._run.lanes.all()
        oldest_ms = min((lane.progress.as_of_ms for lane in lanes), default=0)
        lag_ms = max(0, self._run.rooms.clock() - oldest_ms) if oldest_ms else None
        self._run.lag.note(lanes)
        is_halted = any(lane.halted for lane in lanes)
        lag_records = self._run.lag.records() if is_halted else sum(self._run.reader.lag().values())
        reporter.note(lag_records=lag_records, lag_ms=lag_ms, partitions=self._run.lag.partitions())
        reporter.note(tables=self._run.standing.faults())
        whole = all(lane.progress.complete for lane in lanes)
        reporter.state("running" if whole else "snapshotting")
        reporter.tick()
