"""A change of one row, as a source tells it and as the log carries it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from itertools import compress
from operator import le
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

Op = Literal["c", "u", "d", "r", "t", "m"]
"""Debezium's operations: create, update, delete, read (snapshot), truncate, message (our markers)."""

UNAVAILABLE = "__debezium_unavailable_value"
"""Debezium's placeholder for a column that the source left out (an unchanged TOAST value)."""


class Sequence(NamedTuple):
    """The source's own order: (commit, event within it). Compares as a pair; strictly older is dropped.

    Postgres: commit LSN and the event's LSN. SQLite: the change table's id, twice. MySQL: where the transaction
    begins in the binary log, and the row within it.
    """

    commit: int
    event: int
    timeline: str = ""
    """Names what numbered them (MySQL: the server). Another timeline counts anew: nothing of it is older.

    What follows a space names what numbered the events alone (a file of a binary log, where commits have GTIDs). In
    another one the events of a commit count anew, and commits go on.
    """

    def precedes(self, other: Sequence) -> bool:
        """Whether this is strictly older, on the same timeline."""
        if self.commit == other.commit:
            return self.event < other.event and self.timeline == other.timeline
        return self.commit < other.commit and self.timeline.partition(" ")[0] == other.timeline.partition(" ")[0]


RowChange: TypeAlias = tuple[bytes | None, Sequence | None] | tuple[()] | None
"""What one record does to a row and no more: the row's JSON afterwards (None: it is gone), and its place in the
source's order (None: it has none, or a snapshot has read it, so that it is never too old)."""

PASSED_OVER: RowChange = ()
"""A record that does nothing, as a tombstone."""
CLOSER: RowChange = None
"""A record that has to be looked at as a whole: a marker, a truncate, a change that leaves columns out, no change."""


class RowRun(NamedTuple):
    """Many records of which none does more than change a row, and none is older than the one before it.

    As columns, so that what is done with each is done with all of them at once.
    """

    rows: list[bytes | None]
    """Of the records that are not passed over: the row's JSON afterwards, or None where it is gone."""
    first: Sequence | None
    """The oldest record's place in the source's order; None where they have none, or a snapshot has read them."""
    last: Sequence | None
    """The newest record's."""
    taken: Many[object] | None
    """For each record whether it is not passed over (by its truth); None: all are."""
    each: Callable[[], Many[RowChange]]
    """What each record does, for whoever can't take all of them at once."""

    def of_taken(self, columns: Many[Any]) -> Many[Any]:
        """Those of a column with one entry for each record that belong to records that are not passed over."""
        return columns if self.taken is None else list(compress(columns, self.taken))


def run_of(changes: Many[RowChange]) -> RowRun | None:
    """The same from what each record does; None where one does more, or is older than the one before it."""
    if CLOSER in changes:
        return None
    taken: list[Any] = list(filter(None, changes))
    rows, places = [change[0] for change in taken], [change[1] for change in taken if change[1] is not None]
    if places and (len(places) < len(rows) or not all(map(le, places, places[1:]))):
        return None
    first, last = (places[0], places[-1]) if places else (None, None)
    return RowRun(rows, first, last, None if len(taken) == len(changes) else changes, lambda: changes)


class Change(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One row-level change.

    `key`, `before` and `after` are JSON objects as bytes, exactly as the log carries them. `key` holds
    the primary key's columns. `before` may be absent although there was one. `after` may carry
    `UNAVAILABLE` in columns that the source left out; `partial` says so.
    """

    op: Op
    table: str
    """`schema.table` at the source."""
    key: bytes | None = None
    before: bytes | None = None
    after: bytes | None = None
    sequence: Sequence | None = None
    time_ms: int = 0
    """When it was committed, by the source's clock, in milliseconds since the epoch."""
    snapshot: bool = False
    partial: bool = False
    begins_anew: bool = False
    """Whether the source's order counts from here: whole tables are read, and what came before is in them."""
    latest: int = 0
    """If not 0, `after` is no row: it is added to the newest so many that its key's row holds."""
    marker: Marker | None = None
    """Set on op `m` alone."""


class Marker(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """A note of our capture in every partition of a table's topic: a snapshot begins, or has ended.

    `generation` grows from snapshot to snapshot (it is the time of its start in ms). The end carries, in
    the change's `sequence`, the source position that the snapshot shows: what is older is in it already.
    """

    phase: Literal["begin", "end"]
    generation: int
    partitions: int = 0
    """Over how many partitions the snapshot's rows are spread; 0 where nobody has said."""
