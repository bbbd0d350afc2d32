"""Where the workers of one port write how they are: a few words of memory that they and their parent share."""

from __future__ import annotations

import mmap
from enum import IntEnum

_WORDS = 3
_BYTES = 8


class Standing(IntEnum):
    """How a worker is."""

    absent = 0
    starting = 1
    ready = 2
    draining = 3


class Board:
    """One place for each worker. Made before the workers are forked; each word has one writer, and is read whole."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._memory = mmap.mmap(-1, workers * _WORDS * _BYTES)
        self._words = memoryview(self._memory).cast("Q")

    # --- a worker's own place ---

    def beat(self, worker: int) -> None:
        """Its event loop goes round."""
        self._words[worker * _WORDS] += 1

    def stand(self, worker: int, standing: Standing) -> None:
        """How it is now. Its parent says so where it is gone."""
        self._words[worker * _WORDS + 1] = standing

    # --- the parent's look ---

    def beats(self, worker: int) -> int:
        """How often its loop has gone round."""
        return self._words[worker * _WORDS]

    def standing(self, worker: int) -> Standing:
        """How it says it is."""
        return Standing(self._words[worker * _WORDS + 1])

    def mark(self, worker: int, *, silent: bool) -> None:
        """Whether its loop stands still."""
        self._words[worker * _WORDS + 2] = int(silent)

    # --- everyone's ---

    def counted(self) -> tuple[int, int]:
        """How many serve, and how many there should be."""
        ready = [
            number
            for number in range(self.workers)
            if self.standing(number) is Standing.ready and not self._words[number * _WORDS + 2]
        ]
        return len(ready), self.workers
