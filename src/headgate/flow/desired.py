"""What people want of a pipeline, as one half of it obeys: paused, resumed, started anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from headgate.errors import HeadgateError, StateConflict
from headgate.flow.lookout import Lookout
from headgate.flow.status import Reporter
from headgate.model.pipeline import DESIRED, Desired
from headgate.state.base import State
from headgate.telemetry import logger

_log = logger("flow.desired")
_LOOK_EVERY_S = 0.5
_SLICE_S = 0.1
_decode = msgspec.json.Decoder(Desired).decode


class Wishes:
    """One half's view of what is wanted. One thread uses it.

    A state that does not answer changes nothing. One that has lost the wish is told it again: its server may
    have come back empty, and a paused pipeline must not go on by that alone.
    """

    def __init__(self, state: State, pipeline: str) -> None:
        self._state = state
        self._key = DESIRED + pipeline
        self._known = Desired()
        self._looked_s = float("-inf")
        self._is_looked_for = False

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks from a thread of its own for the length of a block: `now` then never waits for the state."""
        self._look()
        lookout = Lookout(self._look, _LOOK_EVERY_S, f"wishes-{self._key.removeprefix(DESIRED)}")
        self._is_looked_for = True
        try:
            yield
        finally:
            self._is_looked_for = False
            lookout.close()

    def now(self) -> Desired:
        """What is wanted, as of at most half a second ago."""
        if not self._is_looked_for and time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._look()
        return self._known

    def stand_by(self, reporter: Reporter, stop: threading.Event) -> None:
        """Returns once the pipeline is not paused, or at `stop`; until then the half reports `paused`."""
        while self.now().paused and not stop.is_set():
            reporter.note(snapshot_done=0, snapshot_total=None)
            reporter.state("paused")
            reporter.tick()
            stop.wait(_SLICE_S)

    def run(self, stop: threading.Event) -> Ending:
        """The end of a run that begins now."""
        return Ending(stop, self)

    def _look(self) -> None:
        try:
            self._take_note()
        except HeadgateError as error:
            _log.debug("what is wanted could not be read: %s", error.message)

    def _take_note(self) -> None:
        entry = self._state.get(self._key)
        if entry is not None:
            self._known = _decode(entry.value)
        elif self._known != Desired():
            try:
                self._state.put(self._key, msgspec.json.encode(self._known), expect=0)
            except StateConflict:
                pass  # something else is wanted by now, which the next look sees


class Ending(threading.Event):
    """Set when the process is to stop, or when something else is wanted of this half than when its run began."""

    def __init__(self, stop: threading.Event, wishes: Wishes) -> None:
        super().__init__()
        self._stop = stop
        self._wishes = wishes
        self._begun = wishes.now()

    def is_set(self) -> bool:
        """Whether the run is to end."""
        return self._stop.is_set() or self._wishes.now() != self._begun

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, or for so many seconds; answers whether the run is to end."""
        until_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self.is_set():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            self._stop.wait(min(left_s, _SLICE_S))
        return True
