"""Reads the embedded log, and waits for what is not there yet without spinning."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from headgate.errors import LogTruncated, RecordDamaged
from headgate.log.base import Headers, Logged, OnAssign, OnRevoke, Slice, slices_of
from headgate.log.sqlite.database import SPAN, Bell, PartitionRow, connect, data_version, load_partitions, transaction
from headgate.model.position import Partition, Position
from headgate.telemetry import logger

_OTHER_PROCESSES_S = 0.02
"""How often a waiting reader looks for commits of other processes; those of its own wake it at once."""

_NEVER_MADE = PartitionRow(0, False, 0, 0, 0, 0)
_log = logger("log")
_DAMAGE = (ValueError, TypeError)
"""What a column of another content raises; what msgspec raises is a ValueError too."""
_Row: TypeAlias = tuple[int, int, bytes | None, bytes | None, bytes | None]
"""Place, time, key, value and headers."""
_decode_headers = msgspec.msgpack.Decoder(Headers).decode


def _logged(partition: Partition, base: int, row: _Row) -> Logged:
    place, time_ms, key, value, headers = row
    return Logged(partition, place - base, time_ms, key, value, _decode_headers(headers) if headers else ())


class _Cursor:
    """How far one partition has been read."""

    __slots__ = ("end", "offset", "since")

    def __init__(self, offset: int | None) -> None:
        self.offset = offset
        """The next offset to read; None is the beginning, until it has been seen."""
        self.since: int | None = None
        """`whole_from` at the start, when the partition is read from its beginning."""
        self.end = 0
        """The partition's end when it was last looked at."""

    def settle(self, row: PartitionRow) -> int:
        """The next offset to read. LogTruncated when records are missing between there and here."""
        self.end = row.next_offset
        if self.offset is None or (self.offset == 0 and row.compacted):
            self.offset = 0 if row.compacted else row.whole_from
            self.since = row.whole_from
        if _is_held(self.offset, self.since, row):
            return self.offset
        raise LogTruncated("the embedded log no longer holds this position: the store must be rebuilt")


def _is_held(offset: int, since: int | None, row: PartitionRow) -> bool:
    # Past the end lies a position of another log, say of a data folder that was lost and begun anew.
    if offset > row.next_offset:
        return False
    # A compacted topic read from its beginning lacks nothing, unless tombstones went meanwhile.
    return offset >= row.whole_from or (row.compacted and since == row.whole_from)


class SqliteReader:
    """The `Reader` of the embedded log. One that follows topics has all their partitions."""

    def __init__(
        self, path: Path, bell: Bell, cursors: dict[Partition, _Cursor],
        topics: Sequence[str], on_assign: OnAssign, on_revoke: OnRevoke,
    ) -> None:  # fmt: skip
        self._database = connect(path)
        self._bell = bell
        self._cursors = cursors
        self._topics = frozenset(topics)
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._polls = 0
        self._closed = False

    @classmethod
    def follow(
        cls, path: Path, bell: Bell, topics: Sequence[str], on_assign: OnAssign, on_revoke: OnRevoke
    ) -> SqliteReader:
        """A reader of all partitions of these topics; `poll` calls `on_assign` as it finds them."""
        return cls(path, bell, {}, topics, on_assign, on_revoke)

    @classmethod
    def read(cls, path: Path, bell: Bell, start: Mapping[Partition, int | None]) -> SqliteReader:
        """A reader of exactly these partitions."""
        cursors = {partition: _Cursor(offset) for partition, offset in start.items()}
        return cls(path, bell, cursors, (), lambda _: {}, lambda _: None)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Logged]:
        """Up to `max_records` records; empty when none came within `timeout_s`.

        Partitions take turns at being first. LogTruncated as long as a position is not held: `seek` mends it.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            heard, version = self._bell.rings, data_version(self._database)
            found = self._look(max_records)
            if found or not self._wait(heard, version, deadline):
                return found

    def poll_slices(self, max_records: int, timeout_s: float) -> Sequence[Slice]:
        """As `poll`, with one slice for each partition."""
        return slices_of(self.poll(max_records, timeout_s))

    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this reader's now."""
        return frozenset(self._cursors)

    def seek(self, position: Position) -> None:
        """Goes on from these offsets; partitions that are not assigned are passed over."""
        for partition, offset in position.items():
            if partition in self._cursors:
                self._cursors[partition] = _Cursor(offset)

    def commit(self, position: Position) -> None:
        """Keeps nothing: the note is for tools that look at a log's groups, and here are none."""

    def reached(self) -> Mapping[Partition, int]:
        """Per assigned partition that was read from, the next offset to read."""
        return {partition: cursor.offset for partition, cursor in self._cursors.items() if cursor.offset is not None}

    def lag(self) -> Mapping[Partition, int]:
        """Per assigned partition, how many offsets lay ahead when it was last looked at."""
        return {
            partition: max(0, cursor.end - cursor.offset)
            for partition, cursor in self._cursors.items()
            if cursor.offset is not None
        }

    def close(self) -> None:
        """Gives up its partitions (`on_revoke` is told) and lets go of the file. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._revoke()
        self._database.close()

    # --- which partitions ------------------------------------------------------------------------

    def _assign(self, fresh: frozenset[Partition]) -> None:
        start = self._on_assign(fresh)
        for partition in sorted(fresh):
            self._cursors[partition] = _Cursor(start.get(partition))

    def _revoke(self) -> None:
        if not self._cursors:
            return
        try:
            self._on_revoke(self.assigned())
        except Exception:
            _log.exception("giving up partitions at the close of a reader failed")
        self._cursors.clear()

    # --- what is there, and waiting for more -----------------------------------------------------

    def _look(self, max_records: int) -> list[Logged]:
        while True:
            with transaction(self._database, write=False):
                known = load_partitions(self._database)
                fresh = frozenset(place for place in known if place.topic in self._topics) - self.assigned()
                if not fresh:
                    return self._collect(known, max_records)
            self._assign(fresh)  # outside the transaction: what it does may take long

    def _collect(self, known: Mapping[Partition, PartitionRow], max_records: int) -> list[Logged]:
        behind = deque(self._settle(known))
        behind.rotate(-self._polls)
        self._polls += 1
        found: list[Logged] = []
        while behind and len(found) < max_records:
            partition = behind.popleft()
            try:
                found += self._read_on(partition, known[partition], max_records - len(found))
            except RecordDamaged:
                if not found:  # what other partitions have is handed out first
                    raise
        return found

    def _settle(self, known: Mapping[Partition, PartitionRow]) -> list[Partition]:
        """The partitions that have more to read. LogTruncated before any of them has moved."""
        behind = []
        for partition, cursor in self._cursors.items():
            row = known.get(partition, _NEVER_MADE)
            if cursor.settle(row) < row.next_offset:
                behind.append(partition)
        return behind

    def _read_on(self, partition: Partition, row: PartitionRow, room: int) -> list[Logged]:
        base, cursor = row.id * SPAN, self._cursors[partition]
        rows = self._database.execute(
            "SELECT place, time_ms, key, value, headers FROM records WHERE place >= ? AND place < ? "
            "ORDER BY place LIMIT ?",
            (base + (cursor.offset or 0), base + row.next_offset, room),
        ).fetchall()
        try:
            found = [_logged(partition, base, row) for row in rows]
        except _DAMAGE:
            return self._read_to_damage(partition, base, rows)
        # Fewer than asked for: what remains up to the end was taken away by compaction.
        cursor.offset = found[-1].offset + 1 if len(found) == room else row.next_offset
        return found

    def _read_to_damage(self, partition: Partition, base: int, rows: Sequence[_Row]) -> list[Logged]:
        """The records before the one that can't be read; RecordDamaged where there are none."""
        found: list[Logged] = []
        for row in rows:
            try:
                found.append(_logged(partition, base, row))
            except _DAMAGE as error:
                offset = self._cursors[partition].offset = row[0] - base
                if found:
                    break
                raise RecordDamaged(
                    "the embedded log is damaged: put its file aside and take a new snapshot", offset
                ) from error
        return found

    def _wait(self, heard: int, version: int, deadline: float) -> bool:
        """Waits for a commit. False when none came before the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            if self._bell.wait(heard, min(left, _OTHER_PROCESSES_S)) or data_version(self._database) != version:
                return True
        return False
