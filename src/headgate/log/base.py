"""The log: durable, partitioned, ordered, replayable records. Changes and call events both travel on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from headgate.model.position import Partition, Position

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


NO_GROUP = "headgate.no-group"
"""The name of a reader's group where it joins none and commits nothing, but its client wants one."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic should be when it is created. An existing topic is left as it is."""

    name: str
    partitions: int = 1
    compacted: bool = False
    """Keeps the last record of each key for ever, and every record for `retention_ms` (compaction lag)."""
    retention_ms: int = 7 * 24 * 3_600_000


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record to append. `value` None is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Logged(msgspec.Struct, frozen=True, gc=False):
    """A record as read: its place, and the log's time of it in ms."""

    partition: Partition
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Slice:
    """Records of one partition, in order, as columns: what reads many needs no object for each.

    A record as a whole is made when it is asked for, by its place in the slice.
    """

    __slots__ = ("_first", "_size", "_whole", "keys", "offsets", "partition", "values")

    def __init__(
        self,
        partition: Partition,
        offsets: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        whole: Callable[[int], Logged],
        first: int = 0,
    ) -> None:
        self.partition = partition
        self.offsets = offsets
        self.keys = keys
        self.values = values
        self._whole = whole
        self._first = first
        self._size: int | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, place: int) -> Logged:
        """The record at a place."""
        return self._whole(self._first + place)

    def part(self, start: int, end: int) -> Slice:
        """The records from one place to before another."""
        if start == 0 and end >= len(self.offsets):
            return self
        cut = slice(start, end)
        first = self._first + start
        return Slice(self.partition, self.offsets[cut], self.keys[cut], self.values[cut], self._whole, first)

    def size(self) -> int:
        """The bytes of all values."""
        if self._size is None:
            self._size = sum(map(len, filter(None, self.values)))
        return self._size


def slices_of(records: Sequence[Logged]) -> list[Slice]:
    """Records as one slice for each of their partitions."""
    by_partition: dict[Partition, list[Logged]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    return [
        Slice(
            partition,
            [record.offset for record in mine],
            [record.key for record in mine],
            [record.value for record in mine],
            mine.__getitem__,
        )
        for partition, mine in by_partition.items()
    ]


class Appender(Protocol):
    """Appends in order, with acknowledgements in the background. One thread uses it.

    Records of one partition are written in the order of `append`, without gaps: after a failed record no
    later one of its partition is acknowledged. A cancellation or a crash leaves a prefix per partition.
    """

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        """Hands a record over. Without `partition`, the key's hash decides. Waits while the buffer is full.

        RecordTooLarge when the record can never be taken; LogError after a failed delivery.
        """

    def checkpoint(self, token: Hashable) -> None:
        """Remembers that everything up to `token` has been handed over."""

    def acknowledged(self, timeout_s: float = 0.0) -> Hashable | None:
        """The newest token whose every earlier record is durable, or None if no new one is.

        Waits up to `timeout_s` for the first one. LogError when a delivery failed for good: the appender
        is then spent, and its owner starts again from the last token.
        """

    def flush(self, timeout_s: float) -> None:
        """Waits until every record is durable. Unavailable after `timeout_s`."""

    def ends(self) -> dict[Partition, int]:
        """Per partition written by this appender, the end (last durable offset + 1)."""

    def close(self) -> None:
        """Waits shortly for what is outstanding, then lets go. Never raises."""


class Reader(Protocol):
    """Reads partitions from given offsets, in order per partition. One thread uses it."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Logged]:
        """Up to `max_records` records; empty when none came within `timeout_s`.

        May call the rebalance callbacks given to `follow`, on this thread. LogTruncated when a position
        is no longer held; Unavailable when the log does not answer.
        """

    def poll_slices(self, max_records: int, timeout_s: float) -> Sequence[Slice]:
        """As `poll`, with one slice for each partition: for whoever reads very many."""

    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this reader's now."""

    def seek(self, position: Position) -> None:
        """Goes on from these offsets, for partitions that are assigned."""

    def commit(self, position: Position) -> None:
        """Notes in the log how far its readers are: a hint for other tools, never the truth."""

    def reached(self) -> Mapping[Partition, int]:
        """Per assigned partition that was read from, the next offset to read.

        A reader that is told of ends also passes what holds no record, as that which ends a transaction. What `poll`
        has answered may not have been dealt with yet: it is the caller's to know.
        """

    def lag(self) -> Mapping[Partition, int]:
        """Per assigned partition, how many records lie ahead, as far as it is known without asking."""

    def close(self) -> None:
        """Leaves the group. Never raises."""


OnAssign: TypeAlias = Callable[[frozenset[Partition]], Position]
"""Called with newly assigned partitions; answers where to start each (a missing one starts at its start)."""
OnRevoke: TypeAlias = Callable[[frozenset[Partition]], None]
"""Called before partitions are given up (or after they were lost)."""


class Log(Protocol):
    """A log. Its methods may be called from any thread; they block."""

    def ensure(self, topics: Sequence[Topic]) -> None:
        """Creates the topics that are missing. Safe to call from several processes."""

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each existing topic has; a missing topic is left out."""

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """What tells each existing topic from another one that had, or gets, its name. Never the same again."""

    def end(self, topics: Sequence[str]) -> dict[Partition, int]:
        """The end of each partition (the next offset to be written, control records counted)."""

    def appender(self) -> Appender:
        """A new appender."""

    def follow(
        self, topics: Sequence[str], group: str, on_assign: OnAssign, on_revoke: OnRevoke, *, tell_ends: bool = False
    ) -> Reader:
        """Reads topics as one of a group: each partition goes to one reader at a time.

        Kafka's consumer group; the embedded log gives every partition to the one reader. With `tell_ends` it is
        told when it comes to a partition's end, for a little more work at each: see `Reader.reached`.
        """

    def read(self, start: Mapping[Partition, int | None], *, tell_ends: bool = False) -> Reader:
        """Reads exactly these partitions from these offsets, as a member of no group. None is the beginning."""

    def close(self) -> None:
        """Lets go of connections. Never raises."""
