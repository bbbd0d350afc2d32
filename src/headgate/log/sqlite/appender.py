"""Appends to the embedded log: a buffer that goes to disk in one commit."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from zlib import crc32

import msgspec

from headgate.errors import HeadgateError, LogError, RecordTooLarge, Unavailable
from headgate.log.base import Record
from headgate.log.sqlite import retention
from headgate.log.sqlite.database import (
    SPAN,
    Bell,
    PartitionRow,
    connect,
    errors_explained,
    load_partitions,
    transaction,
)
from headgate.model.position import Partition
from headgate.telemetry import Clock, logger

RECORD_MAX_BYTES = 8 * 1024 * 1024
"""Key, value and headers of one record: what the Kafka log takes unless told, so that either kind will do."""

_BUFFER_RECORDS = 5_000
_BUFFER_BYTES = 4 * 1024 * 1024

_Row = tuple[Partition, int, bytes | None, bytes | None, bytes | None]
_encode_headers = msgspec.msgpack.Encoder().encode
_log = logger("log")


class SqliteAppender:
    """The `Appender` of the embedded log.

    Records become visible and durable together, in one fsynced commit, by `acknowledged`, by `flush`, and
    when some thousand of them wait. Whoever appends calls one of these soon: nothing happens between.
    """

    def __init__(self, path: Path, clock: Clock, bell: Bell, schedule: retention.Schedule) -> None:
        self._clock = clock
        self._bell = bell
        self._schedule = schedule
        self._database = connect(path)
        self._topics: dict[str, list[tuple[Partition, PartitionRow]]] = {}
        self._buffer: list[_Row] = []
        self._buffered_bytes = 0
        self._turn = 0
        self._handed_over: list[Hashable] = []
        self._durable: list[Hashable] = []
        self._ends: dict[Partition, int] = {}
        self._failure: HeadgateError | None = None
        self._closed = False

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        """Hands a record over. RecordTooLarge, or LogError, when it can't be taken: nothing was handed over then.

        Without `partition` a keyed record goes where its key's hash says, others go round. When the buffer
        is full this waits for the disk; Unavailable when another process holds the file for too long.
        """
        self._raise_failure()
        target, row = self._place(topic, record, partition)
        headers = _encode_headers(record.headers) if record.headers else None
        size = len(record.key or b"") + len(record.value or b"") + len(headers or b"")
        _check(record, row, size, topic)
        if len(self._buffer) >= _BUFFER_RECORDS or self._buffered_bytes >= _BUFFER_BYTES:
            self._commit()
        self._buffer.append((target, self._clock(), record.key, record.value, headers))
        self._buffered_bytes += size

    def checkpoint(self, token: Hashable) -> None:
        """Remembers that everything up to `token` has been handed over."""
        self._handed_over = [token]

    def acknowledged(self, timeout_s: float = 0.0) -> Hashable | None:
        """Commits what waits, then the newest token, or None if it was told before.

        It never waits longer than the disk needs, or another process holds the file (Unavailable).
        """
        self._raise_failure()
        self._commit()
        return self._durable.pop() if self._durable else None

    def flush(self, timeout_s: float) -> None:
        """Commits what waits. Unavailable when another process holds the file for too long."""
        self._raise_failure()
        self._commit()

    def ends(self) -> dict[Partition, int]:
        """Per partition written by this appender, the end (last durable offset + 1)."""
        return dict(self._ends)

    def close(self) -> None:
        """Commits what waits, then lets go. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failure is None:
                self._commit()
        except HeadgateError as error:
            _log.warning("the embedded log was closed with records that are not durable: %s", error)
        self._failure = LogError("this appender is closed: open another")
        self._database.close()

    # --- where a record goes ---------------------------------------------------------------------

    def _place(self, topic: str, record: Record, number: int | None) -> tuple[Partition, PartitionRow]:
        places = self._topics.get(topic) or self._load(topic)
        if number is None:
            number = self._choose(record.key, len(places))
        if not 0 <= number < len(places):
            raise LogError(f"topic {topic} has no partition {number}: it has {len(places)}")
        return places[number]

    def _choose(self, key: bytes | None, count: int) -> int:
        if count == 1:
            return 0
        if key is not None:
            return crc32(key) % count
        self._turn += 1
        return self._turn % count

    def _load(self, topic: str) -> list[tuple[Partition, PartitionRow]]:
        with errors_explained():
            known = load_partitions(self._database)
        found = sorted((partition, row) for partition, row in known.items() if partition.topic == topic)
        if not found:
            raise LogError(f"there is no topic {topic}: create it before appending to it")
        self._topics[topic] = found
        return found

    # --- to disk ---------------------------------------------------------------------------------

    def _commit(self) -> None:
        if self._buffer:
            try:
                self._write()
            except Unavailable:
                raise  # nothing was written and nothing is lost: the buffer waits for the next try
            except HeadgateError as error:
                self._failure = error
                raise
            self._bell.ring()
        if self._handed_over:
            self._durable, self._handed_over = self._handed_over, []
        self._prune()

    def _write(self) -> None:
        with transaction(self._database, write=True):
            known = load_partitions(self._database)
            places = {partition: row.id * SPAN + row.next_offset for partition, row in known.items()}
            rows = []
            for partition, *content in self._buffer:
                place = places[partition]
                places[partition] = place + 1
                rows.append((place, *content))
            self._database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
            ends = {partition: places[partition] % SPAN for partition in {row[0] for row in self._buffer}}
            self._database.executemany(
                "UPDATE partitions SET next_offset = ? WHERE id = ?",
                [(end, known[partition].id) for partition, end in ends.items()],
            )
        self._ends |= ends
        self._buffer.clear()
        self._buffered_bytes = 0

    def _prune(self) -> None:
        now_ms = self._clock()
        if not self._schedule.claim(now_ms):
            return
        try:
            self._schedule.settle(retention.prune(self._database, now_ms), now_ms)
        except HeadgateError as error:
            _log.warning("old records of the embedded log stay for now: %s", error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _check(record: Record, row: PartitionRow, size: int, topic: str) -> None:
    if row.compacted and record.key is None:
        raise LogError(f"topic {topic} is compacted: each of its records needs a key")
    if size > RECORD_MAX_BYTES:
        raise RecordTooLarge(
            f"a record of {size} bytes is larger than the {RECORD_MAX_BYTES} that the embedded log takes: "
            "leave a large column out of the pipeline",
            topic=topic,
            bytes=size,
        )
