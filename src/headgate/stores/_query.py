"""How a query is answered: which index is read between which bounds, what is checked, where a page ends."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from headgate.errors import InvalidArguments
from headgate.model.position import Watermark
from headgate.model.row import Row
from headgate.stores._index import Indexes
from headgate.stores.base import Cut, Query, Range, Rows

SCAN_BUDGET = 10_000
"""How many index entries one page may look at."""

_AFTER_NULL = b"0\x01"


class Place(NamedTuple):
    """Where a row stands in the order of a query: its index value (empty without one), then its key."""

    value: bytes
    key: str


class Interval(NamedTuple):
    """Which values of a field's index match: `low <= value + NUL < high`; no `high` is open."""

    field: str
    low: bytes = b""
    high: bytes | None = None

    def holds(self, value: bytes) -> bool:
        """Whether an index value lies within."""
        ended = value + b"\x00"
        return self.low <= ended and (self.high is None or ended < self.high)

    def meet(self, other: Interval) -> Interval:
        """What lies in both."""
        highs = [high for high in (self.high, other.high) if high is not None]
        return Interval(self.field, max(self.low, other.low), min(highs) if highs else None)

    @property
    def only(self) -> bytes | None:
        """The one value that matches, if it is an equality."""
        is_equality = self.low.endswith(b"\x00") and self.high == self.low[:-1] + b"\x01"
        return self.low[:-1] if is_equality else None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Read one index (`kind`), in order, from `after` on; keep the rows that every interval holds.

    keys: all keys. equal: the keys under one value of a lookup. ordered: an interval of an order index.
    """

    kind: Literal["keys", "equal", "ordered"]
    indexed: Interval = Interval("")
    checks: tuple[Interval, ...] = ()
    """Every interval of the query, that of the index too: an index entry may outlive its row's value."""
    reverse: bool
    after: Place | None
    fingerprint: str

    @property
    def others(self) -> tuple[Interval, ...]:
        """The intervals of fields other than that of the index."""
        return tuple(check for check in self.checks if check.field != self.indexed.field)

    def matches(self, indexes: Indexes, row: Row) -> bool:
        """Whether a row is one that the query asks for."""
        if not self.checks:
            return True
        values = dict(zip(indexes.names, indexes.pick(row.json), strict=True))
        return all(check.holds(indexes.value(check.field, values[check.field])) for check in self.checks)


def equality(indexes: Indexes, field: str, value: object) -> Interval:
    """The interval of one value."""
    exact = indexes.value(field, value)
    return Interval(field, exact + b"\x00", exact + b"\x01")


def plan_of(indexes: Indexes, query: Query) -> Plan:
    """How to answer a query. NotIndexed, or InvalidArguments for a bad limit or cursor."""
    if query.limit < 1 or query.max_bytes < 1:
        raise InvalidArguments("limit must be 1 or more")
    intervals = _intervals(indexes, query)
    if query.order is not None:
        indexes.require((query.order,), ordered=True)
    kind, chosen = _choose(indexes, intervals, query.order)
    fingerprint = _fingerprint(intervals, query)
    return Plan(
        kind=kind,
        indexed=chosen,
        checks=tuple(intervals.values()),
        reverse=query.direction == "desc",
        after=None if query.after is None else _place_of(query.after, fingerprint),
        fingerprint=fingerprint,
    )


def _intervals(indexes: Indexes, query: Query) -> dict[str, Interval]:
    indexes.require(tuple(query.equals))
    indexes.require(tuple(query.ranges), ordered=True)
    found = {field: equality(indexes, field, value) for field, value in query.equals.items()}
    for field, bounds in query.ranges.items():
        interval = _between(indexes, field, bounds)
        found[field] = found[field].meet(interval) if field in found else interval
    return dict(sorted(found.items()))


def _between(indexes: Indexes, field: str, bounds: Range) -> Interval:
    """Nulls lie in no range."""
    lows, highs = [_AFTER_NULL], []
    if bounds.ge is not None:
        lows.append(indexes.value(field, bounds.ge) + b"\x00")
    if bounds.gt is not None:
        lows.append(indexes.value(field, bounds.gt) + b"\x01")
    if bounds.le is not None:
        highs.append(indexes.value(field, bounds.le) + b"\x01")
    if bounds.lt is not None:
        highs.append(indexes.value(field, bounds.lt) + b"\x00")
    return Interval(field, max(lows), min(highs) if highs else None)


def _choose(
    indexes: Indexes, intervals: dict[str, Interval], order: str | None
) -> tuple[Literal["keys", "equal", "ordered"], Interval]:
    """The index that gives the query's order: of the values under `order` or a range, else of the keys."""
    if order is not None:
        return "ordered", intervals.get(order, Interval(order))
    for interval in intervals.values():
        if interval.field in indexes.equal:
            return "equal", interval
    for interval in intervals.values():
        if interval.only is not None:
            return "ordered", interval
    for interval in intervals.values():
        return "ordered", interval
    return "keys", Interval("")


def _fingerprint(intervals: dict[str, Interval], query: Query) -> str:
    form = msgspec.msgpack.encode([list(intervals.values()), query.order, query.direction])
    return hashlib.sha256(form).hexdigest()[:12]


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    fingerprint: str
    value: bytes
    key: str


def cursor_of(plan: Plan, place: Place) -> str:
    """Opaque text that leads on from a place, in this query alone."""
    packed = msgspec.msgpack.encode(_Cursor(plan.fingerprint, place.value, place.key))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _place_of(text: str, fingerprint: str) -> Place:
    try:
        packed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.msgpack.decode(packed, type=_Cursor)
    except (binascii.Error, UnicodeEncodeError, ValueError, msgspec.DecodeError) as error:
        raise InvalidArguments("this is no cursor: pass the one of the page before, or none") from error
    if cursor.fingerprint != fingerprint:
        raise InvalidArguments("this cursor belongs to another query: repeat that query, or pass none")
    return Place(cursor.value, cursor.key)


class Page:
    """Collects one page. Rows are offered in the plan's order, gone ones left out, until one is not taken."""

    def __init__(self, plan: Plan, indexes: Indexes, limit: int, max_bytes: int) -> None:
        self._plan = plan
        self._indexes = indexes
        self._limit = limit
        self._max_bytes = max_bytes
        self._rows: list[Row] = []
        self._size = 0
        self._last: Place | None = None
        self._cut: Cut | None = None
        self.is_stopped = False

    def offer(self, place: Place, row: Row) -> bool:
        """Takes a row if it matches. False when the page is full, and the row is one of the next."""
        if not self._plan.matches(self._indexes, row):
            return True
        if len(self._rows) >= self._limit:
            self._cut = "rows"
        elif self._rows and self._size + len(row.json) > self._max_bytes:
            self._cut = "bytes"
        else:
            self._rows.append(row)
            self._size += len(row.json)
            self._last = place
        return self._cut is None

    def stop(self, place: Place) -> None:
        """Ends the page before its end, after the entry at `place`: looking further would take too long."""
        self._cut = "time"
        self._last = place
        self.is_stopped = True

    def answer(self, watermark: Watermark) -> Rows:
        """The page, read at that watermark."""
        more = self._last if self._cut else None
        cursor = cursor_of(self._plan, more) if more is not None else None
        return Rows(rows=self._rows, watermark=watermark, cursor=cursor, cut=self._cut)


def merged(found: Sequence[Row], limit: int, watermark: Watermark) -> Rows:
    """The rows of several look-ups in key order, each once, at most `limit`."""
    distinct = {row.key: row for row in found}
    rows = [distinct[key] for key in sorted(distinct)]
    return Rows(rows=rows[:limit], watermark=watermark, cut="rows" if len(rows) > limit else None)
