"""Doubles for the tests of tools: a store and a state in memory that keep the contracts of the real ones.

They are for tools of your own (`MemoryReader` answers what a tool reads); what a real server does is tested
against a real server.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headgate.access.approval import ApprovalLimits, Approvals
from headgate.access.deadline import ReadingTime
from headgate.access.view import View
from headgate.access.watching import Watching
from headgate.errors import InvalidArguments, SnapshotPending, StateConflict, Unavailable, UnknownEntity
from headgate.model.approval import ApprovalChange
from headgate.model.caller import SCOPES, Caller, Grant
from headgate.model.entity import Entity, Relation
from headgate.model.pipeline import DeadLetter, PipelineInfo, Report, report_key
from headgate.model.position import Progress, Watermark
from headgate.model.question import Question
from headgate.model.row import Row, key_text
from headgate.state.base import Entry, State
from headgate.stores._index import Indexes
from headgate.stores._joins import equalities
from headgate.stores._query import Page, Place, Plan, merged, plan_of
from headgate.stores.base import Count, Join, Joined, JoinQuery, Query, Reader, Related, Rows
from headgate.subscriptions.base import Touch
from headgate.telemetry import Clock

NOW_MS = 1_795_226_475_000
"""2026-11-21T02:01:15Z: the time that everything here takes it to be unless it is told another."""


def fixed_clock(now_ms: int = NOW_MS) -> Clock:
    """A clock that stands still."""
    return lambda: now_ms


def grant_of(*scopes: str, subject: str = "tester") -> Grant:
    """A grant of these scopes; of every scope if none is named."""
    granted = frozenset(scopes or SCOPES)
    caller = Caller(subject=subject, method="local", scopes=granted)
    return Grant(caller=caller, scopes=granted, policy_version="test", rules=("test",))


class MemoryReader:
    """A `stores.base.Reader` over rows in memory.

    Rows are given as mappings and take the partition of their key's hash. Until `mark_pending` or
    `set_progress` says otherwise every partition is whole in generation 1 and as of `as_of_ms`.
    """

    def __init__(
        self,
        entities: Iterable[Entity],
        rows: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
        *,
        as_of_ms: int = NOW_MS,
    ) -> None:
        self._entities: Mapping[str, Entity] = {
            entity.name: entity for entity in sorted(entities, key=lambda entity: entity.name)
        }
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in self._entities}
        self._generations = dict.fromkeys(self._entities, 1)
        self._progress = {
            name: {number: _whole(as_of_ms) for number in range(entity.partitions)}
            for name, entity in self._entities.items()
        }
        self._letters: list[DeadLetter] = []
        for name, given in (rows or {}).items():
            for values in given:
                self.put(name, values)

    # --- what a test arranges ---------------------------------------------------------------------

    def put(self, entity: str, values: Mapping[str, Any], *, flaw: str = "") -> Row:
        """Stores a row in place of one with the same key. KeyError if it lacks a part of the key."""
        definition = self._entities[entity]
        key = key_text([values[name] for name in definition.key])
        partition = zlib.crc32(key.encode()) % definition.partitions
        row = Row(key, partition, 0, msgspec.json.encode(values), flaw)
        self._rows[entity][key] = row
        return row

    def remove(self, entity: str, key: str) -> None:
        """Takes a row away by its key text."""
        self._rows[entity].pop(key, None)

    def mark_pending(self, entity: str) -> None:
        """The entity has no whole snapshot yet: reads raise SnapshotPending."""
        self._generations[entity] = 0

    def set_progress(self, entity: str, partition: int, progress: Progress) -> None:
        """What the store knows of one partition."""
        self._progress[entity][partition] = progress

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """Adds a dead letter."""
        self._letters.append(letter)

    # --- what a tool reads ------------------------------------------------------------------------

    async def entities(self) -> Mapping[str, Entity]:
        """The definitions, sorted by name."""
        return self._entities

    def entities_now(self) -> Mapping[str, Entity] | None:
        """See `stores.base.Prompt`."""
        return self._entities

    def question(self, entity: str, key: str) -> Question[Rows | None] | None:
        """See `stores.base.Prompt`."""
        if self._generations.get(entity, 0) == 0:
            return None

        def send(told: Callable[[Any], None]) -> bool:
            stored = self._rows[entity]
            rows = Rows(rows=[stored[key]] if key in stored else [], watermark=self._watermark(entity))
            asyncio.get_running_loop().call_soon(told, rows)
            return True

        return Question(send, lambda rows: rows)

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these key texts that exist, in the order of `keys`."""
        watermark = await self.watermark(entity)
        stored = self._rows[entity]
        return Rows(rows=[stored[key] for key in keys if key in stored], watermark=watermark)

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """At most `limit` rows whose field equals any of the values, in key order. NotIndexed without an index."""
        watermark = await self.watermark(entity)
        indexes = Indexes(self._entities[entity])
        indexes.require((field,))
        wanted = {indexes.value(field, value) for value in values}
        found = [row for row in self._rows[entity].values() if indexes.value_of(field, row.json) in wanted]
        return merged(found, limit, watermark)

    async def find(self, entity: str, query: Query) -> Rows:
        """One page of matching rows. NotIndexed names the indexed fields; InvalidArguments: a bad cursor."""
        watermark = await self.watermark(entity)
        indexes = Indexes(self._entities[entity])
        plan = plan_of(indexes, query)
        page = Page(plan, indexes, query.limit, query.max_bytes)
        for place, row in self._in_order_of(plan, indexes, entity):
            if not page.offer(place, row):
                break
        return page.answer(watermark)

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to, whatever indexes the relations' entities have."""
        watermarks = [await self.watermark(entity)]
        definition = self._entities[entity]
        if query.field is None:
            found = (await self.get(entity, query.keys)).rows
        else:
            found = (await self.lookup(entity, query.field, query.values, len(self._rows[entity]) or 1)).rows
        rows = _having(Indexes(definition), found, query.equals)
        limit = len(rows) if query.field is None else query.limit
        related: dict[str, list[Related]] = {}
        for join in query.joins:
            relation = definition.relation(join.relation)
            if relation is None:
                raise InvalidArguments(f"{entity!r} has no relation {join.relation!r}")
            watermarks.append(await self.watermark(relation.entity))
            groups = [self._led_to(relation, join, row) for row in rows[:limit]]
            related[join.relation] = [
                Related(rows=group[: join.limit], cut="rows" if len(group) > join.limit else None) for group in groups
            ]
        distinct = {mark.entity: mark for mark in watermarks}
        return Joined(
            rows=rows[:limit],
            related=related,
            watermarks=list(distinct.values()),
            cut="rows" if len(rows) > limit else None,
        )

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands. UnknownEntity and SnapshotPending as a store raises them."""
        if entity not in self._entities:
            raise UnknownEntity(entity, list(self._entities))
        if self._generations[entity] == 0:
            raise SnapshotPending(f"{entity!r} is still taking its first snapshot.", entity=entity)
        return self._watermark(entity)

    def _watermark(self, entity: str) -> Watermark:
        return Watermark(entity=entity, generation=self._generations[entity], partitions=dict(self._progress[entity]))

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """How many rows there are, or have these values."""
        await self.watermark(entity)
        rows = list(self._rows[entity].values())
        if not equals:
            return Count(rows=len(rows))
        count = len(_having(Indexes(self._entities[entity]), rows, equals))
        return Count(rows=min(count, most), more=count > most)

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters of a pipeline, and how many there are in all."""
        mine = [letter for letter in self._letters if letter.pipeline == pipeline]
        mine.sort(key=lambda letter: (letter.time_ms, letter.id), reverse=True)
        return mine[:limit], len(mine)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _led_to(self, relation: Relation, join: Join, row: Row) -> list[Row]:
        """All rows that a relation leads to from a row, in its order."""
        target = self._entities[relation.entity]
        values = Indexes(msgspec.structs.replace(target, lookups=(relation.target_field,), sorted=()))
        wanted = msgspec.json.decode(row.json).get(relation.field)
        if wanted is None:
            return []
        field = relation.target_field
        rows = sorted(self._rows[target.name].values(), key=lambda each: each.key)
        found = [each for each in rows if values.value_of(field, each.json) == values.value(field, wanted)]
        if relation.order_by is not None:
            order = Indexes(msgspec.structs.replace(target, sorted=(relation.order_by,)))
            found.sort(key=lambda each: (order.value_of(str(relation.order_by), each.json), each.key), reverse=True)
        return _having(Indexes(target), found, join.equals)

    def _in_order_of(self, plan: Plan, indexes: Indexes, entity: str) -> list[tuple[Place, Row]]:
        rows = self._rows[entity].values()
        ordered = plan.indexed.field if plan.kind == "ordered" else None
        placed = [(Place(indexes.value_of(ordered, row.json) if ordered else b"", row.key), row) for row in rows]
        placed.sort(key=lambda each: each[0], reverse=plan.reverse)
        if plan.after is None:
            return placed
        after = plan.after
        return [each for each in placed if (each[0] < after if plan.reverse else each[0] > after)]


class MemoryState:
    """A `state.base.State` in memory of this process. Time passes by the clock it is given."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or fixed_clock()
        self._entries: dict[str, tuple[Entry, int | None]] = {}

    def report(self, report: Report) -> None:
        """Publishes what a running process would say of its half of a pipeline."""
        self.put(report_key(report), msgspec.json.encode(report))

    def get(self, key: str) -> Entry | None:
        """The entry, or None if there is none or its time is over."""
        entry, ends_ms = self._entries.get(key, (None, None))
        if ends_ms is not None and self._clock() >= ends_ms:
            del self._entries[key]
            return None
        return entry

    def put(self, key: str, value: bytes, *, expect: int | None = None, ttl_ms: int | None = None) -> int:
        """Writes, and answers the new version. StateConflict when another than `expect` stands there."""
        version = self._require(key, expect)
        ends_ms = None if ttl_ms is None else self._clock() + ttl_ms
        self._entries[key] = (Entry(value, version + 1), ends_ms)
        return version + 1

    def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Removes; answers whether it was there. StateConflict as for `put`."""
        self._require(key, expect)
        return self._entries.pop(key, None) is not None

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        """The entries whose keys start so, sorted by key."""
        keys = sorted(key for key in list(self._entries) if key.startswith(prefix))
        return {key: entry for key in keys if (entry := self.get(key)) is not None}

    def close(self) -> None:
        """Nothing to let go of."""

    def _require(self, key: str, expect: int | None) -> int:
        entry = self.get(key)
        version = entry.version if entry else 0
        if expect is not None and expect != version:
            raise StateConflict(f"{key!r} stands at version {version}, not {expect}: read it again and retry")
        return version


class MemoryHearer:
    """A `subscriptions.base.Hearer` that hears what a test tells it."""

    def __init__(self) -> None:
        self._told: set[Callable[[Sequence[Touch]], None]] = set()
        self._lost = asyncio.Event()

    async def hear(self, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
        """See `Hearer.hear`."""
        self._told.add(told)
        try:
            listening()
            await self._lost.wait()
        finally:
            self._told.discard(told)
        self._lost.clear()
        raise Unavailable("The test has cut the connection.")

    def tell(self, entity: str = "", keys: Sequence[str] | None = None) -> None:
        """Tells that these rows may have changed: of an entity any, or of every entity, where none are named."""
        for told in tuple(self._told):
            told([Touch(entity, None if keys is None else tuple(keys))])

    def lose(self) -> None:
        """Cuts the connection: what is told until it is made again is not heard."""
        self._lost.set()


def view_of(
    reader: Reader,
    *,
    state: State | None = None,
    pipelines: Sequence[PipelineInfo] = (),
    grant: Grant | None = None,
    clock: Clock | None = None,
    watching: Watching | None = None,
    reading: ReadingTime | None = None,
) -> View:
    """A view for a tool under test; of every scope unless a grant is given."""
    clock = clock or fixed_clock()
    state = state or MemoryState(clock)
    return View(
        reader, state, pipelines, grant or grant_of(), clock, watching=watching, reading=reading,
        approvals=Approvals(state, clock, ApprovalLimits(), _to_nobody),
    )  # fmt: skip


async def _to_nobody(_: ApprovalChange) -> None:
    """There is no record to tell of an approval."""


def _having(indexes: Indexes, rows: Sequence[Row], equals: Mapping[str, Any]) -> list[Row]:
    checks = equalities(indexes, equals)
    return [row for row in rows if all(check.holds(indexes.value_of(check.field, row.json)) for check in checks)]


def _whole(as_of_ms: int) -> Progress:
    return Progress(offset=1, fence=1, generation=1, complete=True, as_of_ms=as_of_ms)
