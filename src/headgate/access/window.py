"""What a tool reads of one entity: all of it, or as much as a grant shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import msgspec

from headgate.access.deadline import Deadline
from headgate.access.lens import Lens
from headgate.access.paging import Pager, earliest
from headgate.access.parts import Box
from headgate.access.sight import Sight
from headgate.errors import InvalidArguments
from headgate.model.entity import Entity, Relation
from headgate.model.position import Watermark
from headgate.model.question import Question
from headgate.model.row import Row
from headgate.stores.base import Count, Cut, Join, Joined, JoinQuery, Prompt, Query, Reader, Related, Rows

_COUNT_PAGE = 1_000
_COUNT_BYTES = 64 << 20


class Window(Protocol):
    """One entity, to be read. Errors are the Reader's. Whoever would look past a deadline answers what it has found."""

    @property
    def entity(self) -> Entity:
        """As the caller sees it."""

    async def get(self, keys: Sequence[str]) -> Rows:
        """The rows of these key texts that exist, in the order of `keys`."""

    def question(self, key: str) -> Question[Rows | None] | None:
        """See `stores.base.Prompt`."""

    async def lookup(self, field: str, values: Sequence[Any], limit: int, deadline: Deadline) -> Rows:
        """At most `limit` rows whose field equals any of the values, in key order."""

    async def find(self, query: Query, deadline: Deadline) -> Rows:
        """One page of matching rows."""

    async def joined(self, query: JoinQuery, deadline: Deadline) -> Joined:
        """Rows with what they lead to."""

    async def count(self, most: int, deadline: Deadline) -> Count:
        """How many rows there are."""


class WholeWindow:
    """All of an entity, for a caller whom no policy's document narrows: one look an answer, which the store bounds."""

    def __init__(self, reader: Reader, entity: Entity) -> None:
        self.entity = entity
        self._reader = reader
        self._prompt = reader if isinstance(reader, Prompt) else None

    async def get(self, keys: Sequence[str]) -> Rows:
        return await self._reader.get(self.entity.name, keys)

    def question(self, key: str) -> Question[Rows | None] | None:
        return self._prompt.question(self.entity.name, key) if self._prompt else None

    async def lookup(self, field: str, values: Sequence[Any], limit: int, deadline: Deadline) -> Rows:
        return await self._reader.lookup(self.entity.name, field, values, limit)

    async def find(self, query: Query, deadline: Deadline) -> Rows:
        return await self._reader.find(self.entity.name, query)

    async def joined(self, query: JoinQuery, deadline: Deadline) -> Joined:
        return await self._reader.joined(self.entity.name, query)

    async def count(self, most: int, deadline: Deadline) -> Count:
        return await self._reader.count(self.entity.name, most=most)


class NarrowWindow:
    """As much of an entity as a sight shows. Every row that leaves it has gone through a lens."""

    def __init__(self, reader: Reader, sight: Sight, name: str, bound_to: str, key: bytes) -> None:
        lens, entity = sight.lens(name), sight.entity(name)
        assert lens is not None and entity is not None, "only what is seen has a window"
        self.entity = entity
        self._lens = lens
        self._sight = sight
        self._reader = reader
        self._prompt = reader if isinstance(reader, Prompt) else None
        self._bound = (bound_to, key)

    @cached_property
    def _pager(self) -> Pager:
        return Pager(self._reader, self._lens, *self._bound)

    async def get(self, keys: Sequence[str]) -> Rows:
        return self._seen(await self._reader.get(self.entity.name, keys))

    def question(self, key: str) -> Question[Rows | None] | None:
        asked = self._prompt.question(self.entity.name, key) if self._prompt else None
        return None if asked is None else Question(asked.send, partial(self._read_one, asked.read))

    def _read_one(self, read: Callable[[Any], Rows | None], reply: Any) -> Rows | None:
        found = read(reply)
        if found is None or not found.rows:
            return found
        row = self._lens.see(found.rows[0])
        return Rows(rows=[] if row is None else [row], watermark=found.watermark)

    def _seen(self, found: Rows) -> Rows:
        see = self._lens.see
        return Rows(rows=[seen for row in found.rows if (seen := see(row)) is not None], watermark=found.watermark)

    async def lookup(self, field: str, values: Sequence[Any], limit: int, deadline: Deadline) -> Rows:
        return await self._pager.lookup(field, values, limit, deadline)

    async def find(self, query: Query, deadline: Deadline) -> Rows:
        return await self._pager.find(query, deadline)

    # --- joined -----------------------------------------------------------------------------------

    async def joined(self, query: JoinQuery, deadline: Deadline) -> Joined:
        """One round trip, where one rule decides about the rows; else one more to find them by their field."""
        joins = [(join, self._relation(join)) for join in query.joins]
        boxes = self._lens.boxes([query.field] if query.field else ())
        cut: Cut | None = None
        marks: list[Watermark] = []
        if len(boxes) == 1 and not self._lens.is_keyed:
            query = msgspec.structs.replace(query, equals=boxes[0].values)
        elif query.field:
            found = await self._pager.lookup(query.field, query.values, query.limit, deadline)
            keys, cut, marks = [row.key for row in found.rows], found.cut, [found.watermark]
            query = msgspec.structs.replace(query, keys=keys, field=None, values=())
        answers = await asyncio.gather(
            *(self._reader.joined(self.entity.name, msgspec.structs.replace(query, joins=each))
              for each in self._rounds(joins))
        )  # fmt: skip
        return self._put_together(answers, joins, cut or answers[0].cut, marks)

    def _relation(self, join: Join) -> tuple[Relation, Lens]:
        relation = self.entity.relation(join.relation)
        target = self._sight.lens(relation.entity) if relation else None
        if relation is None or target is None:
            raise InvalidArguments(f"{self.entity.name!r} has no such relation")
        return relation, target

    def _rounds(self, joins: Sequence[tuple[Join, tuple[Relation, Lens]]]) -> list[list[Join]]:
        """What to ask for so that every relation is followed into every box of its target: once, mostly."""
        rounds: list[list[Join]] = [[]]
        for join, (relation, target) in joins:
            for number, box in enumerate(_boxes_of(relation, target)):
                if number == len(rounds):
                    rounds.append([])
                rounds[number].append(msgspec.structs.replace(join, equals=box))
        return rounds

    def _put_together(
        self,
        answers: Sequence[Joined],
        joins: Sequence[tuple[Join, tuple[Relation, Lens]]],
        cut: Cut | None,
        marks: Sequence[Watermark],
    ) -> Joined:
        """The rows of the first round that are seen, with what all rounds found for each."""
        kept = [(row, seen) for row in answers[0].rows if (seen := self._lens.see(row)) is not None]
        related = {
            join.relation: [
                _related(_groups(answers, join.relation, row), relation, target, join.limit)
                if self._lens.shows(row, relation.field)
                else Related()
                for row, _ in kept
            ]
            for join, (relation, target) in joins
        }
        watermarks = _by_entity([*marks, *(mark for answer in answers for mark in answer.watermarks)], self.entity.name)
        return Joined(rows=[seen for _, seen in kept], related=related, watermarks=watermarks, cut=cut)

    # --- count ------------------------------------------------------------------------------------

    async def count(self, most: int, deadline: Deadline) -> Count:
        """Exact up to `most`; where several rules overlap, the rows are gone through, as far as the time goes."""
        if self._lens.has_all_rows:
            return await self._reader.count(self.entity.name, most=most)
        boxes = self._lens.boxes()
        if self._lens.is_keyed or not _are_apart(boxes):
            return await self._counted(most, deadline)
        return await self._added_up(boxes, most, deadline)

    async def _added_up(self, boxes: Sequence[Box], most: int, deadline: Deadline) -> Count:
        rows, more = 0, False
        for number, box in enumerate(boxes, start=1):
            found = await self._reader.count(self.entity.name, equals=box.values, most=most)
            rows, more = rows + found.rows, more or found.more
            if rows > most or deadline.is_over:
                more = more or rows > most or number < len(boxes)
                break
        return Count(rows=min(rows, most), more=more)

    async def _counted(self, most: int, deadline: Deadline) -> Count:
        rows, query = 0, Query(limit=_COUNT_PAGE, max_bytes=_COUNT_BYTES)
        while True:
            page = await self._pager.find(query, deadline)
            rows += len(page.rows)
            is_late = page.cursor is not None and deadline.is_over
            if page.cursor is None or rows > most or is_late:
                return Count(rows=min(rows, most), more=rows > most or is_late)
            query = msgspec.structs.replace(query, after=page.cursor)


def _boxes_of(relation: Relation, target: Lens) -> list[Mapping[str, Any]]:
    """What related rows must have, box by box. A condition on the target's key is left to the lens."""
    boxes = target.boxes(() if relation.target_is_key else [relation.target_field])
    return [{}] if target.is_keyed else [box.values for box in boxes]


def _groups(answers: Sequence[Joined], relation: str, row: Row) -> list[Related]:
    """What each round found for a row by a relation."""
    return [
        group
        for answer in answers
        for other, group in zip(answer.rows, answer.related.get(relation, ()), strict=False)
        if other.key == row.key
    ]


def _related(parts: Sequence[Related], relation: Relation, target: Lens, limit: int) -> Related:
    """What one row leads to: of several boxes, in the relation's order, each once."""
    distinct = {row.key: row for part in parts for row in part.rows}
    rows = list(distinct.values())
    if len(parts) > 1:
        rows.sort(key=lambda row: row.key)
        if relation.order_by is not None:
            order = relation.order_by
            rows.sort(key=lambda row: (target.indexes.value_of(order, row.json), row.key), reverse=True)
    seen: list[Row] = [one for row in rows if (one := target.see(row)) is not None]
    cut = next((part.cut for part in parts if part.cut), None)
    return Related(rows=seen[:limit], cut="rows" if len(seen) > limit else cut)


def _are_apart(boxes: Sequence[Box]) -> bool:
    """Whether no row lies in two of them."""
    return all(
        any(other.excludes(name, value) for name, value in box.indexed)
        for number, box in enumerate(boxes)
        for other in boxes[:number]
    )


def _by_entity(marks: Sequence[Watermark], own: str) -> list[Watermark]:
    """One watermark for each entity: the entity's own, then the others by name."""
    groups: dict[str, list[Watermark]] = {}
    for mark in marks:
        groups.setdefault(mark.entity, []).append(mark)
    return [earliest(groups[name]) for name in sorted(groups, key=lambda name: (name != own, name))]
