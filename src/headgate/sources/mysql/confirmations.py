"""What of all that was handed over is durable on the log, and where capture may therefore go on."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from headgate.sources.mysql.position import Place


class _Handed(NamedTuple):
    token: int
    place: Place | None
    finished: tuple[tuple[str, int], ...]


class Confirmations:
    """Tokens grow from 1."""

    def __init__(self) -> None:
        self.place: Place | None = None
        """The newest place before which everything is durable."""
        self.finished: dict[str, int] = {}
        """Tables whose snapshots are durable, with their generations, since they were taken last."""
        self._last = 0
        self._handed: deque[_Handed] = deque()

    def hand_over(self, place: Place | None, finished: tuple[tuple[str, int], ...] = ()) -> int:
        """The token of the next batch; `place`: what lies before it has been handed over whole with it."""
        self._last += 1
        self._handed.append(_Handed(self._last, place, finished))
        return self._last

    def confirm(self, token: int) -> None:
        """Everything up to `token` is durable."""
        while self._handed and self._handed[0].token <= token:
            handed = self._handed.popleft()
            self.place = handed.place or self.place
            self.finished.update(handed.finished)
