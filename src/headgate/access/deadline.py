"""How long a call may read. When its time is over, it answers what it has found so far, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field


class ReadingLimits(BaseModel):
    """For how long one call reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    # As long as the most patient store waits for one look; clients give up after a minute.
    answer_s: float = Field(10.0, gt=0, le=3_600)
    """How long it looks for rows, or counts them. One look is always taken, which the store bounds."""
    # As long as the longest wait that a call may ask for; a client of a scan hears of its progress.
    scan_s: float = Field(300.0, gt=0, le=86_400)
    """How long a `scan` goes on, its client's time to take what it is told included."""


class Deadline:
    """When the time of one call is over, by a clock that never goes back."""

    __slots__ = ("_ends_ns", "_ticks_ns")

    def __init__(self, ticks_ns: Callable[[], int], within_s: float) -> None:
        self._ticks_ns = ticks_ns
        self._ends_ns = ticks_ns() + round(within_s * 1e9)

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be begun."""
        return self._ticks_ns() >= self._ends_ns


class ReadingTime:
    """Gives calls their time, each from now on."""

    def __init__(self, limits: ReadingLimits | None = None, ticks_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._limits = limits or ReadingLimits()
        self._ticks_ns = ticks_ns

    def answer(self) -> Deadline:
        """Of a call that answers at once."""
        return Deadline(self._ticks_ns, self._limits.answer_s)

    def scan(self) -> Deadline:
        """Of a call that goes through many rows."""
        return Deadline(self._ticks_ns, self._limits.scan_s)
