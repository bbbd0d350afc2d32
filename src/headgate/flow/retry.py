"""How long to wait before trying again."""

from __future__ import annotations

import gc
import random
import threading


class Backoff:
    """Doubling waits with jitter, from `first_s` to `most_s`."""

    def __init__(self, jitter: random.Random, *, first_s: float = 0.2, most_s: float = 10.0) -> None:
        self._jitter = jitter
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0

    def reset(self) -> None:
        """Things went well: the next wait is short again."""
        self._failures = 0

    def wait(self, stop: threading.Event) -> None:
        """Waits, or ends at once when `stop` is set.

        What failed has left objects that refer to each other, which a process that looks for garbage seldom would keep
        for long (`headgate.collecting`): this is the time to look.
        """
        if stop.is_set():
            return
        gc.collect()
        longest = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        stop.wait(longest * (0.5 + self._jitter.random() / 2))
