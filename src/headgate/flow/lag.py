"""How far the store is behind the log's end, asked of the log itself: a reader that stands still does not know."""

from __future__ import annotations

from collections.abc import Iterable

from headgate.errors import HeadgateError
from headgate.flow.lanes import Lane
from headgate.log.base import Log
from headgate.model.position import Partition


class Lag:
    """The positions that a process last had, and what lies beyond them. Any thread may ask."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._positions: dict[Partition, int] = {}

    def note(self, lanes: Iterable[Lane]) -> None:
        """Where these lanes stand: of several on one partition, the one that is furthest behind."""
        positions: dict[Partition, int] = {}
        for lane in lanes:
            known = positions.get(lane.partition, lane.progress.offset)
            positions[lane.partition] = min(known, lane.progress.offset)
        self._positions = positions

    def partitions(self) -> int:
        """How many partitions there are positions of."""
        return len(self._positions)

    def records(self) -> int | None:
        """How many offsets lie between these positions and the log's end. None: there are none, or nobody knows."""
        positions = self._positions
        if not positions:
            return None
        try:
            ends = self._log.end(sorted({partition.topic for partition in positions}))
        except HeadgateError:
            return None
        return sum(max(0, ends.get(partition, 0) - offset) for partition, offset in positions.items())
