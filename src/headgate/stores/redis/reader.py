"""Reads Redis: each answer is one command or one script, and so one instant."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from headgate.connections._multiplexed import Script, replied, shared
from headgate.connections._wire import Command, packed_command
from headgate.connections.redis import Config
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Watermark
from headgate.model.question import Question
from headgate.model.row import decode_row
from headgate.stores._catalog import Catalog, Pointer, decode_progress, is_live, live_epochs, watermark_of
from headgate.stores._joins import equalities, join_plan, joined_of
from headgate.stores._query import Page, equality, merged, plan_of
from headgate.stores._showing import Seen, Showing, known_or_decoded
from headgate.stores.base import Count, Joined, JoinQuery, Query, Reader, Rows
from headgate.stores.redis import scripts
from headgate.stores.redis.keys import Keys, SpaceKeys
from headgate.stores.redis.scan import (
    Answer,
    Scan,
    answer_of,
    bounds_of,
    checked,
    filled,
    filter_of,
    join_arguments,
    lookup_scan,
    page_scans,
    rows_of,
    step_arguments,
)

_CATALOG, _SCAN, _JOIN, _COUNT, _LETTERS = map(
    Script, (scripts.CATALOG, scripts.SCAN, scripts.JOIN, scripts.COUNT, scripts.LETTERS)
)
_decode_letter = msgspec.msgpack.Decoder(DeadLetter).decode


def open_reader(target: Config) -> Reader:
    """A reader. Connects on first use, on the event loop of that use, and must be used on that loop alone."""
    return RedisReader(target)


class RedisReader:
    """Reads at the pointer that it knows, and once more when the answer brings another."""

    def __init__(self, target: Config, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._keys = Keys(target.prefix)
        self._link = shared(target)
        self._showing = Showing(self._catalog, monotonic_s)
        self._places: dict[str, _Place] = {}

    def entities(self) -> Coroutine[Any, Any, Mapping[str, Entity]]:
        """The definitions; asked for once a second at most."""
        return self._showing.entities()

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these keys, by one MGET."""
        return await self._showing.read(entity, partial(self._get, entity, keys))

    def entities_now(self) -> Mapping[str, Entity] | None:
        """See `Prompt`."""
        return self._showing.entities_now()

    def question(self, entity: str, key: str) -> Question[Rows | None] | None:
        """See `Prompt`."""
        seen = self._showing.find_now(entity)
        if seen is None:
            return None
        place = self._place(entity, seen)
        return Question(partial(self._link.post, place.asking(key)), partial(place.row_of, key))

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """The rows under these values."""

        async def attempt(seen: Seen) -> Rows | None:
            indexes = seen.definition.indexes
            indexes.require((field,))
            exact = list(dict.fromkeys(equality(indexes, field, value) for value in values))
            scan = lookup_scan(self._space(entity, seen), indexes, exact, limit)
            answer = await self._scan(entity, seen, scan)
            return answer and merged(checked(indexes, exact, answer), limit, answer.watermark)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def find(self, entity: str, query: Query) -> Rows:
        """One page. A second, longer look at the index is taken where the first found too few rows."""

        async def attempt(seen: Seen) -> Rows | None:
            return await self._find(entity, query, seen)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands."""
        return (await self.get(entity, ())).watermark

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to, by one script."""

        async def attempt(seen: Seen) -> Joined | None:
            return await self._joined(entity, query, seen)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """How many rows there are by the count that is kept with them; with values, by their entries."""

        async def attempt(seen: Seen) -> Count | None:
            return await (self._count(entity, equals, most, seen) if equals else self._count_all(entity, seen))

        return await self._showing.read(entity, attempt, newest_definition=bool(equals))

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters."""
        keys = [self._keys.letter_times(pipeline), self._keys.letters(pipeline)]
        packed, total = await self._link.run(_LETTERS, keys, [limit])
        return [_decode_letter(one) for one in packed if one], total

    async def close(self) -> None:
        """Closes the connection."""
        await self._link.close()

    async def _catalog(self, known: Catalog) -> Catalog:
        keys = [self._keys.definitions, self._keys.current]
        definitions, current, pointers = await self._link.run(_CATALOG, keys, [self._keys.pointer("")])
        places = [(_place_of(name), packed) for name, packed in _flat(definitions)]
        return Catalog(
            {place: known_or_decoded(known, place, packed) for place, packed in places},
            {name.decode(): build.decode() for name, build in _flat(current)},
            {name.decode(): Pointer.parse(text.decode()) for name, text in _flat(pointers)},
        )

    async def _get(self, entity: str, keys: Sequence[str], seen: Seen) -> Rows | None:
        place = self._place(entity, seen)
        return place.rows_of(keys, await self._link.ask("MGET", *place.keys, *map(place.space.row, keys)))

    async def _find(self, entity: str, query: Query, seen: Seen) -> Rows | None:
        indexes = seen.definition.indexes
        plan = plan_of(indexes, query)
        rows: Rows | None = None
        for scan in page_scans(self._space(entity, seen), indexes, plan, query):
            answer = await self._scan(entity, seen, scan)
            if answer is None:
                return None
            page = filled(Page(plan, indexes, query.limit, query.max_bytes), plan, answer)
            rows = page.answer(answer.watermark)
            if not page.is_stopped:
                break
        return rows

    async def _scan(self, entity: str, seen: Seen, scan: Scan) -> Answer | None:
        found = await self._run(_SCAN, {entity: seen}, scan.arguments())
        if found[0] != seen.pointer.text().encode():
            return None
        return answer_of(_watermark(entity, seen, found[1]), found[2])

    async def _joined(self, entity: str, query: JoinQuery, seen: Seen) -> Joined | None:
        plan = join_plan(seen.definition, query, self._showing.find)
        spaces = {entity: seen, **{name: self._showing.find(name) for name in plan.targets if name != entity}}
        own, places = self._space(entity, seen), list(spaces)
        arguments = [*join_arguments(own, seen.definition.indexes, plan, query), len(plan.steps)]
        for step in plan.steps:
            target = spaces[step.target]
            arguments.append(places.index(step.target) + 1)
            space = self._space(step.target, target)
            arguments += step_arguments(own, space, target.definition.indexes, step)
        found = await self._run(_JOIN, spaces, arguments, counted=True)
        if found[0] != [each.pointer.text().encode() for each in spaces.values()]:
            return None
        watermarks = [_watermark(*each, packed) for each, packed in zip(spaces.items(), found[1], strict=True)]
        groups = [[rows_of(flat) for flat in group] for group in found[3]]
        return joined_of(plan, query, rows_of(found[2]), groups, watermarks)

    async def _count_all(self, entity: str, seen: Seen) -> Count | None:
        places, counts_at = self._place_keys(entity, seen), self._space(entity, seen).counts
        asked: list[Command] = [("MULTI",), ("MGET", *places), ("HGETALL", counts_at), ("EXEC",)]
        (pointer, *stored), counts = (await self._link.ask_all(asked))[-1]
        if pointer != seen.pointer.text().encode():
            return None
        return Count(rows=_live_count(_flat(counts), live_epochs([decode_progress(one) for one in stored])))

    async def _count(self, entity: str, equals: Mapping[str, Any], most: int, seen: Seen) -> Count | None:
        space, indexes = self._space(entity, seen), seen.definition.indexes
        parts: list[Any] = []
        for interval in equalities(indexes, equals):
            _, low, high = bounds_of(space, indexes, interval)
            parts += [*filter_of(space, indexes, interval), low, high]
        found = await self._run(_COUNT, {entity: seen}, [space.counts, most, len(equals), *parts])
        if found[0] != seen.pointer.text().encode():
            return None
        return Count(rows=min(found[1], most), more=found[1] > most or found[2] == 1)

    async def _run(
        self, script: Script, spaces: Mapping[str, Seen], arguments: Sequence[Any], *, counted: bool = False
    ) -> list[Any]:
        """A script's reply; where it reads any number of spaces, it is told how many."""
        keys: list[bytes] = []
        opening: list[Any] = [len(spaces)] if counted else []
        for entity, seen in spaces.items():
            keys += self._place_keys(entity, seen)
            opening += [seen.pointer.text().encode(), seen.pointer.partitions, self._space(entity, seen).rows]
        reply: list[Any] = await self._link.run(script, keys, [*opening, *arguments])
        return reply

    def _place_keys(self, entity: str, seen: Seen) -> list[bytes]:
        return self._place(entity, seen).keys

    def _space(self, entity: str, seen: Seen) -> SpaceKeys:
        return self._place(entity, seen).space

    def _place(self, entity: str, seen: Seen) -> _Place:
        place = self._places.get(entity)
        if place is None or place.seen.pointer != seen.pointer:
            place = self._places[entity] = _Place(self._keys, entity, seen)
        return place


class _Place:
    """Where what readers see of an entity lies, and its newest watermark: that changes far less often than it is read.

    `keys` are those of the pointer, then of the progress of each partition.
    """

    def __init__(self, keys: Keys, entity: str, seen: Seen) -> None:
        self.seen = seen
        self.pointer = seen.pointer.text().encode()
        self.keys = [
            keys.pointer(entity),
            *keys.progress(entity, seen.pointer.space.build, range(seen.pointer.partitions)),
        ]
        self.space = keys.space(entity, seen.pointer.space)
        self._entity = entity
        self._asking = packed_command(("MGET", *self.keys, b"")).removesuffix(b"$0\r\n\r\n")
        self._packed: list[bytes | None] | None = None
        self._watermark = Watermark(entity=entity, generation=0, partitions={})

    def asking(self, key: str) -> bytes:
        """An MGET of the place and of the row of this key, as it is sent: what `row_of` reads the reply to."""
        row = self.space.row(key)
        return b"%b$%d\r\n%b\r\n" % (self._asking, len(row), row)

    def row_of(self, key: str, reply: Any) -> Rows | None:
        """As `rows_of`, of one key, of a reply that may be an error."""
        found: list[bytes | None] = replied(reply)
        if found[0] != self.pointer:
            return None
        watermark, packed = self.watermark(found[1:-1]), found[-1]
        row = None if packed is None else decode_row(key, packed)
        rows = [row] if row is not None and is_live(row, watermark.partitions) else []
        return Rows(rows=rows, watermark=watermark)

    def rows_of(self, keys: Sequence[str], found: list[bytes | None]) -> Rows | None:
        """What an MGET of `keys` and the rows of these keys has found; None if the pointer has moved."""
        if found[0] != self.pointer:
            return None
        first = len(self.keys)
        watermark = self.watermark(found[1:first])
        rows = [decode_row(key, packed) for key, packed in zip(keys, found[first:], strict=True) if packed is not None]
        return Rows(rows=[row for row in rows if is_live(row, watermark.partitions)], watermark=watermark)

    def watermark(self, packed: list[bytes | None]) -> Watermark:
        """The watermark of an answer with this progress, one for each partition. The same one for the same progress."""
        if packed != self._packed:
            self._watermark = watermark_of(self._entity, self.seen.pointer, [decode_progress(one) for one in packed])
            self._packed = packed
        return self._watermark


def _watermark(entity: str, seen: Seen, stored: Sequence[bytes]) -> Watermark:
    return watermark_of(entity, seen.pointer, [decode_progress(packed or None) for packed in stored])


def _flat(items: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of HGETALL's flat reply."""
    return zip(items[::2], items[1::2], strict=True)


def _place_of(name: bytes) -> tuple[str, str]:
    build, _, entity = name.decode().partition("/")
    return entity, build


def _live_count(counts: Iterator[tuple[bytes, bytes]], epochs: Mapping[int, int]) -> int:
    stamps = ((*map(int, stamp.split(b".")), int(count)) for stamp, count in counts)
    return sum(count for partition, epoch, count in stamps if epoch >= epochs.get(partition, 0))
