"""The embedded log: one SQLite file, for one machine and no server.

Durable means on disk: every commit is fsynced (WAL, `synchronous=FULL`), many records to one commit.
Several processes may append and read. A key's partition is its CRC-32 modulo their number. What is older
than a topic's retention is taken away a little at a time, by whoever appends.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from headgate.log.base import OnAssign, OnRevoke, Topic
from headgate.log.sqlite import retention
from headgate.log.sqlite.appender import SqliteAppender
from headgate.log.sqlite.database import Bell, connect, errors_explained, load_partitions, transaction
from headgate.log.sqlite.reader import SqliteReader
from headgate.model.position import Partition
from headgate.telemetry import Clock


def open_log(target: Path, *, clock: Clock) -> SqliteLog:
    """The log in the database file `target`, which is made (readable by its owner alone) when it is missing.

    LogError when the file is no log of ours or is damaged; Unavailable while another process holds it.
    """
    return SqliteLog(target, clock)


class SqliteLog:
    """The `Log` of the embedded default. A topic's number of partitions never changes."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._bell = Bell()
        self._schedule = retention.Schedule(clock())
        self._lock = threading.Lock()
        self._database = connect(path)

    def ensure(self, topics: Sequence[Topic]) -> None:
        """Creates the topics that are missing, all or none. Safe to call from several processes."""
        rows = [
            (topic.name, number, topic.compacted, topic.retention_ms)
            for topic in topics
            for number in range(topic.partitions)
        ]
        with self._lock, transaction(self._database, write=True):
            known = {name for (name,) in self._database.execute("SELECT DISTINCT topic FROM partitions")}
            self._database.executemany(
                "INSERT INTO partitions (topic, number, compacted, retention_ms) VALUES (?, ?, ?, ?)",
                [row for row in rows if row[0] not in known],
            )
        self._bell.ring()

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each existing topic has; a missing topic is left out."""
        counts: dict[str, int] = {}
        for partition in self.end(topics):
            counts[partition.topic] = counts.get(partition.topic, 0) + 1
        return counts

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """The file's own: topics are never removed from it."""
        with self._lock, errors_explained():
            (identity,) = self._database.execute("SELECT identity FROM log").fetchone()
        return dict.fromkeys(self.partitions(topics), identity)

    def end(self, topics: Sequence[str]) -> dict[Partition, int]:
        """The end of each partition: the next offset to be written."""
        wanted = set(topics)
        with self._lock, errors_explained():
            known = load_partitions(self._database)
        return {partition: row.next_offset for partition, row in known.items() if partition.topic in wanted}

    def appender(self) -> SqliteAppender:
        """A new appender. Several may append to one topic; a partition's offsets order their commits."""
        return SqliteAppender(self._path, self._clock, self._bell, self._schedule)

    def follow(
        self, topics: Sequence[str], group: str, on_assign: OnAssign, on_revoke: OnRevoke, *, tell_ends: bool = False
    ) -> SqliteReader:
        """Reads all partitions of these topics, also those made later. There is one reader: `group` says nothing.

        It always knows when it has come to an end.
        """
        return SqliteReader.follow(self._path, self._bell, topics, on_assign, on_revoke)

    def read(self, start: Mapping[Partition, int | None], *, tell_ends: bool = False) -> SqliteReader:
        """Reads exactly these partitions from these offsets. None is the beginning."""
        return SqliteReader.read(self._path, self._bell, start)

    def prune(self, now_ms: int) -> int:
        """Takes away what is past its retention, a bounded piece at a time; returns how many records went.

        Appenders call the same by themselves: nobody has to. See `retention.prune`.
        """
        with self._lock:
            return retention.prune(self._database, now_ms).removed

    def close(self) -> None:
        """Lets go of the file. Never raises. Appenders and readers are closed by their owners."""
        with self._lock:
            self._database.close()
