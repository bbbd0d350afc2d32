"""When a call came in, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from headgate.audit.event import event_id
from headgate.telemetry import Clock


class Opened(msgspec.Struct, frozen=True, gc=False):
    """What is known of a call when it comes in."""

    id: str
    at_ms: int
    """By the clock."""
    ticks_ns: int
    """By the steady clock, for durations."""


class Clocks(Protocol):
    """What tells the time, and what makes ids of it."""

    @property
    def clock(self) -> Clock: ...
    @property
    def ticks_ns(self) -> Callable[[], int]: ...
    @property
    def random_bytes(self) -> Callable[[int], bytes]: ...


def opened_now(clocks: Clocks) -> Opened:
    """A call that comes in now."""
    at_ms = clocks.clock()
    return Opened(event_id(at_ms, clocks.random_bytes(10)), at_ms, clocks.ticks_ns())
