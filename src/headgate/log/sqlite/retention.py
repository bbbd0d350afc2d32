"""What the embedded log takes away once it is older than its topic's retention, and when."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from headgate.log.sqlite.database import SPAN, PartitionRow, load_partitions, transaction

LIMIT = 2_000
"""Records looked at in one go (a few milliseconds)."""

_EVERY_MS = 60_000
_AGAIN_MS = 1_000


class Pruned(NamedTuple):
    """What one go did."""

    looked_at: int
    removed: int


class Schedule:
    """When to prune: once a minute, and each second while there is more to do. Appenders share it."""

    def __init__(self, now_ms: int) -> None:
        self._next_ms = now_ms + _AGAIN_MS
        self._lock = threading.Lock()

    def claim(self, now_ms: int) -> bool:
        """Whether it is time; then the next time is set, so that one appender alone does it."""
        with self._lock:
            if now_ms < self._next_ms:
                return False
            self._next_ms = now_ms + _EVERY_MS
            return True

    def settle(self, pruned: Pruned, now_ms: int) -> None:
        """Comes back soon when the last go ended at its limit."""
        if pruned.looked_at >= LIMIT:
            with self._lock:
                self._next_ms = now_ms + _AGAIN_MS


def prune(connection: sqlite3.Connection, now_ms: int, limit: int = LIMIT) -> Pruned:
    """Looks at up to `limit` records that are past their topic's retention, in one transaction.

    A compacted topic loses, among these, every record that a later one of its key supersedes, and the
    tombstones; other topics lose them all. Readers that would miss something are told by `whole_from`.
    """
    looked_at = removed = 0
    with transaction(connection, write=True):
        for row in load_partitions(connection).values():
            step = _compact if row.compacted else _expire
            pruned = step(connection, row, now_ms - row.retention_ms, limit - looked_at)
            looked_at += pruned.looked_at
            removed += pruned.removed
            if looked_at >= limit:
                break
    return Pruned(looked_at, removed)


class _Old(NamedTuple):
    place: int
    time_ms: int
    key: bytes | None
    is_tombstone: int


def _old_records(
    connection: sqlite3.Connection, row: PartitionRow, start: int, before_ms: int, limit: int
) -> list[_Old]:
    found = connection.execute(
        "SELECT place, time_ms, key, value IS NULL FROM records WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (row.id * SPAN + start, (row.id + 1) * SPAN, limit),
    )
    # As with Kafka's segments, the first record that is young enough ends it: offsets stay without holes.
    return list(takewhile(lambda old: old.time_ms < before_ms, map(_Old._make, found)))


def _expire(connection: sqlite3.Connection, row: PartitionRow, before_ms: int, limit: int) -> Pruned:
    old = _old_records(connection, row, row.whole_from, before_ms, limit)
    if old:
        _remove(connection, (record.place for record in old))
        connection.execute(
            "UPDATE partitions SET whole_from = ? WHERE id = ?", (old[-1].place + 1 - row.id * SPAN, row.id)
        )
    return Pruned(len(old), len(old))


def _compact(connection: sqlite3.Connection, row: PartitionRow, before_ms: int, limit: int) -> Pruned:
    old = _old_records(connection, row, row.cleaned_to, before_ms, limit)
    if not old:
        return Pruned(0, 0)
    gone = [place for record in old for place in _superseded(connection, row.id, record)]
    _remove(connection, gone)
    whole_from = max((record.place + 1 - row.id * SPAN for record in old if record.is_tombstone), default=0)
    connection.execute(
        "UPDATE partitions SET cleaned_to = ?, whole_from = max(whole_from, ?) WHERE id = ?",
        (old[-1].place + 1 - row.id * SPAN, whole_from, row.id),
    )
    return Pruned(len(old), len(gone))


def _superseded(connection: sqlite3.Connection, partition: int, record: _Old) -> list[int]:
    """The places that this record, the newest cleaned one of its key, makes superfluous."""
    earlier = connection.execute(
        "SELECT place FROM kept WHERE partition = ? AND key = ?", (partition, record.key)
    ).fetchall()
    gone = [place for (place,) in earlier]
    if record.is_tombstone:
        connection.execute("DELETE FROM kept WHERE partition = ? AND key = ?", (partition, record.key))
        return [*gone, record.place]
    connection.execute(
        "INSERT INTO kept (partition, key, place) VALUES (?, ?, ?) "
        "ON CONFLICT (partition, key) DO UPDATE SET place = excluded.place",
        (partition, record.key, record.place),
    )
    return gone


def _remove(connection: sqlite3.Connection, places: Iterable[int]) -> None:
    connection.executemany("DELETE FROM records WHERE place = ?", ((place,) for place in places))
