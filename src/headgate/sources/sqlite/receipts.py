"""What was handed over and confirmed, and may be forgotten at the source.

Nothing here waits for the owner's lock: what can't be written now is written a moment later. Consumed
changes are deleted in small transactions, so that the owner's writers wait a millisecond for them at most.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from headgate.sources.sqlite import ledger, triggers
from headgate.sources.sqlite.database import is_busy, number, writing
from headgate.sources.sqlite.ledger import Entry, MemoFile

_PRUNE_ROWS = 1000
_TIDY_EVERY_S = 1.0

Settled = Sequence[tuple[str, Entry]]


class _Receipt(msgspec.Struct, frozen=True):
    """What confirming a token settles: changes up to an id, and entries of tables."""

    token: int
    covered: int
    entries: Settled


class Receipts:
    """The tokens of one run, and their effects on the owner's file and on the memo."""

    def __init__(self, connection: sqlite3.Connection, memo: MemoFile) -> None:
        self._connection = connection
        self._memo = memo
        self._last_token = 0
        self._open: deque[_Receipt] = deque()
        self._confirmed = 0
        self._pruned = 0
        self._unsettled: dict[str, Entry] = {}
        self._tidied_s = 0.0

    def issue(self, covered: int, entries: Settled) -> int:
        """The next token: confirming it settles all changes up to `covered`, and these entries."""
        self._last_token += 1
        self._open.append(_Receipt(self._last_token, covered, entries))
        return self._last_token

    def confirm(self, token: int) -> None:
        """Settles this token and all before it: finished snapshots now, if the file's lock is free."""
        while self._open and self._open[0].token <= token:
            receipt = self._open.popleft()
            self._confirmed = max(self._confirmed, receipt.covered)
            self._unsettled.update(receipt.entries)
        self._settle()

    def tidy(self) -> None:
        """Forgets some of what was consumed: each second, or sooner when much has come together."""
        many = self._confirmed - self._pruned > _PRUNE_ROWS
        if many or time.monotonic() - self._tidied_s > _TIDY_EVERY_S:
            self._tidied_s = time.monotonic()
            self._settle()
            self._prune()
            self._memo.note(self._confirmed)

    def finish(self) -> None:
        """Forgets all that was consumed, as far as the file's lock is free."""
        self._settle()
        while self._prune():
            pass
        self._memo.note(self._confirmed)

    def _settle(self) -> None:
        if self._unsettled and self._try_write(self._write_entries) is not None:
            self._unsettled = {}

    def _write_entries(self) -> int:
        """A table whose next snapshot has begun keeps that entry."""
        known = ledger.entries(self._connection)
        for table, entry in self._unsettled.items():
            if table not in known or known[table].generation <= entry.generation:
                ledger.put_entry(self._connection, table, entry)
        return len(self._unsettled)

    def _prune(self) -> bool:
        """Deletes some changes. Answers whether to go on at once."""
        if self._confirmed <= self._pruned:
            return False
        deleted = self._try_write(self._delete_consumed)
        if deleted is not None and deleted < _PRUNE_ROWS:
            self._pruned = self._confirmed
        return deleted == _PRUNE_ROWS

    def _delete_consumed(self) -> int:
        return self._connection.execute(
            f"DELETE FROM {triggers.CHANGES} WHERE id IN"
            f" (SELECT id FROM {triggers.CHANGES} WHERE id <= ? ORDER BY id LIMIT {_PRUNE_ROWS})",
            (self._confirmed,),
        ).rowcount

    def _try_write(self, write: Callable[[], int]) -> int | None:
        """Writes in one transaction. Nothing, and None, while another has the lock or our tables are gone."""
        try:
            with writing(self._connection, wait=False):
                return write() if self._tables_stand() else None
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return None
            raise

    def _tables_stand(self) -> bool:
        """Whether the owner has left our tables alone; if not, the next read sets them up again."""
        names = f"'{triggers.CHANGES}', '{ledger.STATE}'"
        return number(self._connection, f"SELECT count(*) FROM sqlite_master WHERE name IN ({names})") == 2
