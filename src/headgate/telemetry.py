"""Clocks and loggers, which everything takes as arguments or by name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Milliseconds since the epoch."""


def wall_clock_ms() -> int:
    """Now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def is_due(now_ms: int, last_ms: int, every_ms: int) -> bool:
    """Whether what was done last at `last_ms` is due again. At once when the clock was set back since."""
    return not 0 <= now_ms - last_ms < every_ms


def logger(room: str) -> logging.Logger:
    """The process's log for one room, `headgate.<room>`; it goes to standard error."""
    return logging.getLogger(f"headgate.{room}")


class RandomPool:
    """Random bytes of the operating system, fetched many at a time: a system call for each id would cost more than
    all else of it. A forked process starts with none of its parent's.
    """

    def __init__(self, size: int = 4_096) -> None:
        self._size = size
        self._bytes = b""
        self._taken = 0
        os.register_at_fork(after_in_child=self._forget)

    def take(self, count: int) -> bytes:
        """So many bytes, which nobody else gets. For one thread."""
        start = self._taken
        self._taken = start + count
        if self._taken > len(self._bytes):
            self._bytes, start, self._taken = os.urandom(max(self._size, count)), 0, count
        return self._bytes[start : self._taken]

    def _forget(self) -> None:
        self._bytes = b""
