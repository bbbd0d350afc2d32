"""A log whose readers share partitions as the test says: a consumer group without Kafka's seconds of waiting.

Records, offsets and readers are the embedded log's own. Only who has which partition is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headgate.log.base import Logged, OnAssign, OnRevoke, Reader, Slice, slices_of
from headgate.log.sqlite import SqliteLog
from headgate.model.position import Partition, Position


class SharedLog(SqliteLog):
    """The embedded log, followed by a group."""

    def __init__(self, log: SqliteLog) -> None:
        self.__dict__ = log.__dict__
        self.wanted: frozenset[int] = frozenset()
        """Which partitions the next member that begins to follow shall have."""

    def follow(  # type: ignore[override]  # a member stands for the reader
        self, topics: Sequence[str], group: str, on_assign: OnAssign, on_revoke: OnRevoke, *, tell_ends: bool = False
    ) -> Member:
        """A member of the group, without partitions at first."""
        return Member(self, topics, on_assign, on_revoke)


class Member:
    """A `Reader` that takes and gives up partitions at its next poll, as Kafka's does."""

    def __init__(self, log: SqliteLog, topics: Sequence[str], on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        self._log = log
        self._topics = topics
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._reader: Reader | None = None
        self.share: frozenset[int] = frozenset()
        """The numbers of the partitions that it shall have."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Logged]:
        """See `Reader`."""
        self._rebalance()
        return self._reader.poll(max_records, timeout_s) if self._reader else []

    def poll_slices(self, max_records: int, timeout_s: float) -> Sequence[Slice]:
        """See `Reader`."""
        return slices_of(self.poll(max_records, timeout_s))

    def assigned(self) -> frozenset[Partition]:
        """See `Reader`."""
        return self._reader.assigned() if self._reader else frozenset()

    def seek(self, position: Position) -> None:
        """See `Reader`."""
        if self._reader is not None:
            self._reader.seek(position)

    def commit(self, position: Position) -> None:
        """See `Reader`: a hint that nobody takes."""

    def reached(self) -> Mapping[Partition, int]:
        """See `Reader`."""
        return self._reader.reached() if self._reader else {}

    def lag(self) -> Mapping[Partition, int]:
        """See `Reader`."""
        return self._reader.lag() if self._reader else {}

    def close(self) -> None:
        """See `Reader`."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _rebalance(self) -> None:
        wanted = frozenset(place for place in self._log.end(self._topics) if place.number in self.share)
        had = self.assigned()
        if wanted == had:
            return
        kept = {place: offset for place, offset in self.reached().items() if place in wanted}
        if had - wanted:
            self._on_revoke(had - wanted)
        gained = dict(self._on_assign(wanted - had)) if wanted - had else {}
        self.close()
        if wanted:
            self._reader = self._log.read({place: kept.get(place, gained.get(place)) for place in wanted})
