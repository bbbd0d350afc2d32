"""One process that materializes, done step by step by a test, so that each order of events can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from headgate import failpoints
from headgate.errors import Refused
from headgate.flow.desired import Wishes
from headgate.flow.lag import Lag
from headgate.flow.materialize import _begin, _Half
from headgate.flow.materializing import Materializing
from headgate.flow.standing import Standing
from headgate.flow.upkeep import Run, Upkeep
from headgate.log.base import Slice
from headgate.model.table import Column, Table
from tests.ways.faults.group import Member

PIPELINE, TABLE = "machine", "main.items"
COLUMNS = {"id": "integer", "version": "integer", "code": "string", "part": "integer"}
SCHEMA = Table(
    name=TABLE,
    columns=tuple(Column(name=name, type=kind) for name, kind in COLUMNS.items()),  # type: ignore[arg-type]  # literals
    key=("id",),
    unique=(("code",),),
)


class Surroundings(Protocol):
    """What the test gives a process."""

    batch: int
    """Records that a poll brings at most."""
    refused: int
    """How many writes were refused so far; the process counts them."""

    def rooms(self) -> Materializing:
        """The log, the store and the rest."""

    def tick(self) -> None:
        """Time goes by."""


class Crash(BaseException):
    """The process is gone: nothing of ours may catch it."""


class Syncing:
    """One `headgate sync` as far as it materializes. Lives from run to run."""

    def __init__(self, machine: Surroundings) -> None:
        self._machine = machine
        self._opened = ExitStack()
        self._run: Run | None = None
        self._upkeep: Upkeep | None = None
        self._held: list[Slice] = []
        self.share: frozenset[int] = frozenset()

    def go_on(self, rounds: int) -> None:
        """Polls and applies so many times. What it meets ends the run, as in `run_materialize`."""
        try:
            for _ in range(rounds):
                self._polls()
                self._applies()
        except Crash:
            self._end()
        except Refused:
            self._machine.refused += 1
            self._end()

    def falls_asleep(self) -> None:
        """Polls, and holds what it has got."""
        try:
            self._polls()
        except Refused:
            self._machine.refused += 1
            self._end()

    def wakes_late(self, fences: Mapping[int, int]) -> None:
        """Applies what it held, which must be refused where someone else has raised a partition's fence."""
        lanes = [lane for mine in self._held for lane in self._begun()[0].lanes.of(mine.partition)]
        is_late = any(lane.progress.fence < fences.get(lane.partition.number, 0) for lane in lanes)
        refused = self._machine.refused
        self.go_on_with_held()
        assert not is_late or self._machine.refused > refused, "a zombie's write was taken"

    def go_on_with_held(self) -> None:
        """Applies what the last poll has brought."""
        try:
            self._applies()
        except Refused:
            self._machine.refused += 1
            self._end()

    def end(self) -> None:
        """kill -9."""
        self._end()

    def _end(self) -> None:
        self._held = []
        self._run = self._upkeep = None
        self._opened.close()
        self._opened = ExitStack()

    def _begun(self) -> tuple[Run, Upkeep]:
        if self._run is None or self._upkeep is None or not self._upkeep.is_current:
            self._end()
            rooms = self._machine.rooms()
            half = _Half(Wishes(rooms.state, PIPELINE), Standing(), Lag(rooms.log), rooms.catalog())
            self._run = _begin(rooms, half, {TABLE: SCHEMA}, self._opened, distrust=False)
            self._upkeep = Upkeep(self._run)
        return self._run, self._upkeep

    def _polls(self) -> None:
        run, upkeep = self._begun()
        assert isinstance(run.reader, Member)
        run.reader.share = self.share
        self._held = list(run.reader.poll_slices(self._machine.batch, 0.0))
        upkeep.take_heartbeats()
        if self._held:
            failpoints.reach("materialize.polled")

    def _applies(self) -> None:
        run, upkeep = self._begun()
        held, self._held = self._held, []
        if held:
            run.applying.apply(held)
        self._machine.tick()
        upkeep.tend(idle=not held)
