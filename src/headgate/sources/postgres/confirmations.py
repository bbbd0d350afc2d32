"""What of all that was handed over is durable on the log, and what the source may therefore forget."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from headgate.sources.postgres.publication import Finished


class _Handed(NamedTuple):
    token: int
    position: int
    has_changes: bool


class Confirmations:
    """Tokens grow from 1. Each stands for the LSN before which all transactions were handed over whole."""

    def __init__(self) -> None:
        self.lsn = 0
        """What the server may forget: everything that committed before."""
        self._last_token = 0
        self._handed: deque[_Handed] = deque()
        self._with_changes = 0
        self._snapshots: deque[tuple[int, str, Finished]] = deque()
        self._confirmed = 0

    def hand_over(self, position: int, *, has_changes: bool) -> int:
        """The token of the next batch."""
        self._last_token += 1
        self._handed.append(_Handed(self._last_token, position, has_changes))
        self._with_changes += has_changes
        return self._last_token

    def finish(self, table: str, finished: Finished) -> None:
        """Says that the batch to come ends a table's snapshot."""
        self._snapshots.append((self._last_token + 1, table, finished))

    def confirm(self, token: int) -> None:
        """Everything up to `token` is durable."""
        self._confirmed = max(self._confirmed, token)
        while self._handed and self._handed[0].token <= token:
            handed = self._handed.popleft()
            self._with_changes -= handed.has_changes
            self.lsn = max(self.lsn, handed.position)

    def reached(self, position: int) -> None:
        """The stream has come this far, and no decoded change waits: with none outstanding, that is confirmed."""
        if not self._with_changes:
            self.lsn = max(self.lsn, position)

    def take_finished(self) -> dict[str, Finished]:
        """Snapshots that have become durable since the last time."""
        taken = {}
        while self._snapshots and self._snapshots[0][0] <= self._confirmed:
            _, table, finished = self._snapshots.popleft()
            taken[table] = finished
        return taken
