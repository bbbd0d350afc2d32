"""Pages and look-ups of the rows that a lens shows, whatever rows lie between them.

A store is asked for the boxes in which visible rows lie. Their pages come in one order and are merged; what is
read beyond the end of a page that was cut short is left to the next. So a page is as full as if the rows that
are hidden did not exist, and a cursor names the place of the last row that was answered, sealed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from headgate.access.deadline import Deadline
from headgate.access.lens import Lens
from headgate.access.parts import Box
from headgate.access.seal import seal, unseal
from headgate.errors import NotIndexed, Unavailable
from headgate.model.position import Progress, Watermark
from headgate.model.row import Row
from headgate.stores._query import Place, cursor_of, plan_of
from headgate.stores.base import Cut, Query, Reader, Rows

_LOOKS = 20
"""How often a page goes on reading where what it found was not shown, if its time is not over before; each look is
bounded by the store."""
_LOOKUP_BYTES = 64 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode_place = msgspec.msgpack.Decoder(tuple[bytes, str]).decode


class _Look(NamedTuple):
    """What one look found in one box: rows in their places, and up to where nothing is missing."""

    placed: Sequence[tuple[Place, Row]]
    end: Place | None
    watermark: Watermark | None
    """None where nothing had to be read."""


class Pager:
    """Reads what one lens shows. `bound_to` is what cursors are bound to, `key` what they are sealed with."""

    def __init__(self, reader: Reader, lens: Lens, bound_to: str, key: bytes) -> None:
        self._reader = reader
        self._lens = lens
        self._entity = lens.entity.name
        self._bound_to = bound_to
        self._key = key

    # --- a page -----------------------------------------------------------------------------------

    async def find(self, query: Query, deadline: Deadline) -> Rows:
        """One page. NotIndexed where the caller does not see the field; InvalidArguments: a bad cursor.

        The time is looked at between looks, of which there is one at least: so a page leads on, however short it is.
        """
        query = self._in_order(query)
        self._require(query)
        binding = self._binding(query)
        after = Place(*_decode_place(unseal(query.after, binding, self._key))) if query.after else None
        page = _Page(self._lens, query)
        marks: list[Watermark] = []
        boxes = self._boxes(query)
        for look in range(1, _LOOKS + 1 if boxes else 0):
            looks = await asyncio.gather(*(self._look(box, query, after, page.room) for box in boxes))
            marks += [look.watermark for look in looks if look.watermark is not None]
            ends = [look.end for look in looks if look.end is not None]
            end = _first(ends, query) if ends else None
            if not page.take(_merged(looks, end, query)) or end is None:
                break
            after = page.last = end
            if deadline.is_over or look == _LOOKS:
                page.stop()
                break
        watermark = earliest(marks) if marks else await self._reader.watermark(self._entity)
        cursor = seal(_encode(tuple(page.last)), binding, self._key) if page.is_cut and page.last else None
        return Rows(rows=page.rows, watermark=watermark, cursor=cursor, cut=page.cut if cursor else None)

    def _in_order(self, query: Query) -> Query:
        """Without the conditions of the grant, ranges alone give the order: so they do with them."""
        if query.order is None and query.ranges and not query.equals:
            return msgspec.structs.replace(query, order=min(query.ranges))
        return query

    def _require(self, query: Query) -> None:
        shown = self._lens.shown
        able = {*shown.lookups, *shown.sorted}
        missing = sorted({*query.equals} - able | {*query.ranges, *filter(None, [query.order])} - {*shown.sorted})
        if missing:
            there = ", ".join(sorted(able)) or "none"
            raise NotIndexed(f"{', '.join(missing)} of {self._entity} can't be asked by. Fields that can be: {there}.",
                             missing=missing, indexed=sorted(able))  # fmt: skip

    def _boxes(self, query: Query) -> list[Box]:
        """The boxes that can hold a row that the query asks for."""
        indexed = {name: self._lens.indexes.value(name, value) for name, value in query.equals.items()}
        asked = {*query.equals, *query.ranges}
        return [
            box
            for box in self._lens.boxes(asked)
            if not any(box.excludes(name, value) for name, value in indexed.items())
        ]

    def _binding(self, query: Query) -> bytes:
        """A cursor belongs to this grant's sight of this entity and to this query."""
        asked = [sorted((name, self._lens.indexes.value(name, value)) for name, value in query.equals.items()),
                 sorted(query.ranges.items()), query.order, query.direction]  # fmt: skip
        return hashlib.sha256(_encode([self._bound_to, self._entity, asked])).digest()

    async def _look(self, box: Box, query: Query, after: Place | None, room: tuple[int, int]) -> _Look:
        limit, max_bytes = room
        equals = {**query.equals, **box.values}
        inner = msgspec.structs.replace(query, equals=equals, limit=limit, max_bytes=max_bytes, after=None)
        if key := self._lens.key_of(box):
            return await self._look_by_key(key, inner, after)
        plan = plan_of(self._lens.indexes, inner)
        only = plan.indexed.only
        if after is not None and only is not None and query.order and only != after.value:
            # All rows of this box stand at one place of the order, which is behind us or still to come.
            if _is_beyond(after, Place(only, ""), query):
                return _Look((), None, None)
            after = None
        cursor = cursor_of(plan, after if only is None else Place(only, after.key)) if after else None
        found = await self._reader.find(self._entity, msgspec.structs.replace(inner, after=cursor))
        placed = [(self._place(row, query), row) for row in found.rows]
        end = self._end(found, inner, placed) if found.cut else None
        return _Look(placed, end, found.watermark)

    def _end(self, found: Rows, inner: Query, placed: Sequence[tuple[Place, Row]]) -> Place | None:
        """Up to where a page that was cut short is whole: its cursor's place."""
        if found.cursor is None:
            return placed[-1][0] if placed else None
        place = plan_of(self._lens.indexes, msgspec.structs.replace(inner, after=found.cursor)).after
        assert place is not None, "a cursor holds a place"
        return Place(place.value if inner.order else b"", place.key)

    async def _look_by_key(self, key: str, inner: Query, after: Place | None) -> _Look:
        found = await self._reader.get(self._entity, [key])
        plan = plan_of(self._lens.indexes, inner)
        placed = [(self._place(row, inner), row) for row in found.rows if plan.matches(self._lens.indexes, row)]
        kept = [each for each in placed if after is None or _is_beyond(each[0], after, inner)]
        return _Look(kept, None, found.watermark)

    def _place(self, row: Row, query: Query) -> Place:
        value = self._lens.indexes.value_of(query.order, row.json) if query.order else b""
        return Place(value, row.key)

    # --- a look-up -----------------------------------------------------------------------

    async def lookup(self, field: str, values: Sequence[Any], limit: int, deadline: Deadline) -> Rows:
        """The rows whose field, as far as it may be looked up by, equals any of the values; in key order."""
        self._require(Query(equals={field: None}))
        if self._lens.has_all_rows and self._lens.boxes([field]) == self._lens.boxes():
            found = await self._reader.lookup(self._entity, field, values, limit)
            return msgspec.structs.replace(found, rows=self.seen(found.rows))
        queries = [Query(equals={field: value}, limit=limit + 1, max_bytes=_LOOKUP_BYTES) for value in values]
        asked = [(query, box) for query in queries for box in self._boxes(query)]
        looks = await asyncio.gather(*(self._whole_look(box, query, limit, deadline) for query, box in asked))
        marks = [look.watermark for look in looks if look.watermark is not None]
        watermark = earliest(marks) if marks else await self._reader.watermark(self._entity)
        distinct = {row.key: row for look in looks for _, row in look.placed}
        rows = self.seen([distinct[key] for key in sorted(distinct)])
        return Rows(rows=rows[:limit], watermark=watermark, cut=_cut(len(rows) > limit, looks))

    async def _whole_look(self, box: Box, query: Query, limit: int, deadline: Deadline) -> _Look:
        """The first rows of one value in one box, one more than are wanted, as far as the time goes."""
        placed: list[tuple[Place, Row]] = []
        marks: list[Watermark] = []
        after: Place | None = None
        for _ in range(_LOOKS):
            look = await self._look(box, query, after, (limit + 1 - len(placed), _LOOKUP_BYTES))
            placed += look.placed
            marks += [look.watermark] if look.watermark else []
            after = look.end
            if after is None or len(placed) > limit or deadline.is_over:
                break
        return _Look(placed, after, earliest(marks) if marks else None)

    def seen(self, rows: Sequence[Row]) -> list[Row]:
        """The rows as they are answered, without those that are hidden."""
        return [seen for row in rows if (seen := self._lens.see(row)) is not None]


class _Page:
    """Collects a page of what a lens makes of rows."""

    def __init__(self, lens: Lens, query: Query) -> None:
        self._see = lens.see
        self._limit = query.limit
        self._left = query.max_bytes
        self.rows: list[Row] = []
        self.last: Place | None = None
        """Up to where all is answered."""
        self.is_cut = False
        self.cut: Cut = "rows"

    @property
    def room(self) -> tuple[int, int]:
        """How many rows to ask for, and of how many bytes: one row more, to know whether there is one."""
        return self._limit - len(self.rows) + 1, max(self._left, 1)

    def take(self, placed: Iterator[tuple[Place, Row]]) -> bool:
        """Takes rows as long as they fit. False once the page is full."""
        for place, row in placed:
            seen = self._see(row)
            if seen is None:
                continue
            if len(self.rows) >= self._limit:
                self.is_cut = True
            elif self.rows and len(seen.json) > self._left:
                self.is_cut, self.cut = True, "bytes"
            if self.is_cut:
                return False
            self.rows.append(seen)
            self._left -= len(seen.json)
            self.last = place
        return True

    def stop(self) -> None:
        """Ends the page where it is: looking further would take too long."""
        self.is_cut, self.cut = True, "time"


def _cut(is_full: bool, looks: Sequence[_Look]) -> Cut | None:
    """What bounded a look-up."""
    if is_full:
        return "rows"
    return "time" if any(look.end is not None for look in looks) else None


def _merged(looks: Sequence[_Look], end: Place | None, query: Query) -> Iterator[tuple[Place, Row]]:
    """The rows of all looks in order, each once, as far as no look may lack one."""
    distinct = {placed[1].key: placed for look in looks for placed in look.placed}
    for place, row in sorted(distinct.values(), key=lambda each: each[0], reverse=query.direction == "desc"):
        if end is not None and _is_beyond(place, end, query):
            return
        yield place, row


def _first(places: Sequence[Place], query: Query) -> Place:
    return max(places) if query.direction == "desc" else min(places)


def _is_beyond(place: Place, other: Place, query: Query) -> bool:
    return place < other if query.direction == "desc" else place > other


def earliest(marks: Sequence[Watermark]) -> Watermark:
    """Of several reads the one that shows the least: per partition the earliest progress."""
    newest = marks[-1]
    if len({mark.generation for mark in marks}) > 1:
        raise Unavailable("what readers see of this entity was just switched: try again")
    partitions: dict[int, Progress] = {}
    for mark in marks:
        for number, progress in mark.partitions.items():
            known = partitions.get(number)
            partitions[number] = progress if known is None or progress.offset < known.offset else known
    return msgspec.structs.replace(newest, partitions=partitions)
