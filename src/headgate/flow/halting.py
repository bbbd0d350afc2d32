"""At which change an entity stands still instead of setting it aside (DESIGN §4, rule 5)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from headgate.errors import HeadgateError, TruncateUnclear
from headgate.flow.contract import define_each
from headgate.flow.lanes import Lane, Lanes
from headgate.flow.materializing import Materializing
from headgate.flow.schemas import announced
from headgate.flow.standing import Standing
from headgate.model.pipeline import DeadLetter
from headgate.stores.base import Write
from headgate.telemetry import logger

_log = logger("flow.halting")


class Halting:
    """Judges one run's writes that hold dead letters. One thread uses it.

    A lane stands still before a change that does not fit when the announced schema breaks its entity's contract
    (capture announces a schema before it writes what follows it), or when the pipeline's `on_error` says so and
    nobody has dropped that change.
    """

    def __init__(self, rooms: Materializing, lanes: Lanes, standing: Standing, passed_over: frozenset[str]) -> None:
        self._rooms = rooms
        self._lanes = lanes
        self._standing = standing
        self._passed_over = passed_over
        self.has_broken = False
        """Whether a contract was found broken, so that the next run must do without its entity."""

    def judged(self, lane: Lane, writes: list[Write], fold_before: Callable[[int], list[Write]]) -> list[Write]:
        """The writes that may be done. `fold_before` folds the batch anew, up to an offset."""
        letters = [letter for write in writes for letter in write.dead_letters]
        if not letters:
            return writes
        if self._is_broken(lane.entity.name):
            return self._halted(lane, letters[0], fold_before)
        stops = self._rooms.on_error == "stop"
        grave = letters if stops else [letter for letter in letters if letter.code == TruncateUnclear.code]
        stop = next((letter for letter in grave if letter.id not in self._passed_over), None)
        if stop is not None:
            self._standing.stop_at(stop, self._rooms.clock())
            _log.error("%s: %s stands still before %s: %s", self._rooms.pipeline, stop.entity, stop.id, stop.message)
            writes = self._halted(lane, stop, fold_before)
        if not stops:
            return writes
        return [msgspec.structs.replace(write, dead_letters=()) for write in writes]

    def _halted(self, lane: Lane, letter: DeadLetter, fold_before: Callable[[int], list[Write]]) -> list[Write]:
        self._lanes.halt(lane)
        return fold_before(letter.offset)

    def _is_broken(self, entity: str) -> bool:
        try:
            broken = define_each(self._rooms, announced(self._rooms.state, self._rooms.pipeline)).broken
        except HeadgateError as error:
            _log.debug("%s: the schemas could not be read: %s", self._rooms.pipeline, error.message)
            return False
        if entity not in broken:
            return False
        self.has_broken = True
        self._standing.break_off(entity, broken[entity], self._rooms.clock())
        return True
