"""Reads PostgreSQL: each answer is one pipeline of statements in one snapshot, and so one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from headgate.connections.postgres import Config
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress, Watermark
from headgate.model.row import Row
from headgate.stores._catalog import Catalog, Pointer, decode_progress, is_live, live_epochs, watermark_of
from headgate.stores._joins import equalities, join_plan, joined_of
from headgate.stores._query import SCAN_BUDGET, Page, Place, Plan, equality, merged, plan_of
from headgate.stores._showing import Seen, Showing, known_or_decoded
from headgate.stores.base import Count, Joined, JoinQuery, Query, Reader, Rows
from headgate.stores.postgres import questions
from headgate.stores.postgres.sessions import Found, Question, Sessions

_FIRST_LOOK = 1_000
_MOST_BYTES = 8 << 20
_decode_letter = msgspec.msgpack.Decoder(DeadLetter).decode


def open_reader(target: Config) -> Reader:
    """A reader. Connects on first use, on the event loop of that use, and must be used on that loop alone."""
    return PostgresReader(Sessions(target))


class PostgresReader:
    """Reads at the pointer that it knows, and once more when the answer brings another."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._showing = Showing(self._catalog)

    async def entities(self) -> Mapping[str, Entity]:
        """The definitions; asked for once a second at most."""
        return await self._showing.entities()

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these keys."""

        async def attempt(seen: Seen) -> Rows | None:
            answer = await self._ask({entity: seen}, [questions.by_key(entity, seen, keys)])
            if answer is None:
                return None
            [watermark], [found] = answer
            rows = [Row(*columns) for columns in found]
            return Rows(rows=[row for row in rows if is_live(row, watermark.partitions)], watermark=watermark)

        return await self._showing.read(entity, attempt)

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """The rows under these values."""

        async def attempt(seen: Seen) -> Rows | None:
            indexes = seen.definition.indexes
            indexes.require((field,))
            exact = list(dict.fromkeys(equality(indexes, field, value) for value in values))
            answer = await self._ask({entity: seen}, [questions.by_value(entity, seen, exact, limit + 1)])
            if answer is None:
                return None
            [watermark], [found] = answer
            rows = [(exact[place - 1], Row(*columns)) for place, *columns in found]
            matching = [row for interval, row in rows if interval.holds(indexes.value_of(field, row.json))]
            return merged(matching, limit, watermark)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def find(self, entity: str, query: Query) -> Rows:
        """One page. A second, longer look at the index is taken where the first found too few rows."""

        async def attempt(seen: Seen) -> Rows | None:
            return await self._find(entity, query, seen)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to: a statement for the rows and one for each relation, in one pipeline."""

        async def attempt(seen: Seen) -> Joined | None:
            return await self._joined(entity, query, seen)

        return await self._showing.read(entity, attempt, newest_definition=True)

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands."""

        async def attempt(seen: Seen) -> Watermark | None:
            answer = await self._ask({entity: seen}, [])
            return answer and answer[0][0]

        return await self._showing.read(entity, attempt)

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """How many rows there are by the count that is kept with them; with values, by their entries."""

        async def attempt(seen: Seen) -> Count | None:
            return await (self._count(entity, equals, most, seen) if equals else self._count_all(entity, seen))

        return await self._showing.read(entity, attempt, newest_definition=bool(equals))

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters."""
        answer = await self._sessions.ask(questions.letters(pipeline, limit))
        if answer is None:
            return [], 0
        newest, [(total,)] = answer
        return [_decode_letter(packed) for (packed,) in newest], total

    async def close(self) -> None:
        """Closes the connections."""
        await self._sessions.close()

    async def _catalog(self, known: Catalog) -> Catalog:
        answer = await self._sessions.ask(questions.CATALOG)
        if answer is None:
            return Catalog()
        definitions, current, pointers = answer
        return Catalog(
            {
                (entity, build): known_or_decoded(known, (entity, build), packed)
                for entity, build, packed in definitions
            },
            dict(current),
            {entity: Pointer.parse(text) for entity, text in pointers},
        )

    async def _ask(
        self, spaces: Mapping[str, Seen], asked: Sequence[Question]
    ) -> tuple[list[Watermark], list[Found]] | None:
        """Where these entities stand and what the questions find; None when readers now see something else."""
        answer = await self._sessions.ask([questions.standing(list(spaces)), *asked])
        if answer is None:
            return None
        standing, *found = answer
        if {entity: pointer for entity, pointer, *_ in standing} != {
            entity: seen.pointer.text() for entity, seen in spaces.items()
        }:
            return None
        return [_watermark(entity, seen, standing) for entity, seen in spaces.items()], found

    async def _find(self, entity: str, query: Query, seen: Seen) -> Rows | None:
        indexes = seen.definition.indexes
        plan = plan_of(indexes, query)
        rows: Rows | None = None
        for entries in _looks(plan, query):
            walk = questions.walk(entity, seen, plan, entries, max(query.max_bytes, _MOST_BYTES))
            answer = await self._ask({entity: seen}, [walk])
            if answer is None:
                return None
            [watermark], [found] = answer
            page = _filled(Page(plan, indexes, query.limit, query.max_bytes), found, entries, watermark)
            rows = page.answer(watermark)
            if not page.is_stopped:
                break
        return rows

    async def _joined(self, entity: str, query: JoinQuery, seen: Seen) -> Joined | None:
        plan = join_plan(seen.definition, query, self._showing.find)
        spaces = {entity: seen, **{name: self._showing.find(name) for name in plan.targets if name != entity}}
        asked = [questions.sources(entity, seen, plan, query)]
        asked += [questions.related(entity, seen, plan, query, step, spaces[step.target]) for step in plan.steps]
        answer = await self._ask(spaces, asked)
        if answer is None:
            return None
        watermarks, [found, *groups] = answer
        rows = [Row(*columns) for *columns, _ in found]
        places = [place for *_, place in found]
        return joined_of(plan, query, rows, [_grouped(group, places) for group in groups], watermarks)

    async def _count(self, entity: str, equals: Mapping[str, Any], most: int, seen: Seen) -> Count | None:
        checks = equalities(seen.definition.indexes, equals)
        answer = await self._ask({entity: seen}, [questions.count(entity, seen, checks, most)])
        if answer is None:
            return None
        [[(count,)]] = answer[1]
        return Count(rows=min(count, most), more=count > most)

    async def _count_all(self, entity: str, seen: Seen) -> Count | None:
        answer = await self._ask({entity: seen}, [questions.counts(entity, seen)])
        if answer is None:
            return None
        [watermark], [found] = answer
        epochs = live_epochs(list(watermark.partitions.values()))
        return Count(rows=sum(rows for partition, epoch, rows in found if epoch >= epochs.get(partition, 0)))


def _watermark(entity: str, seen: Seen, standing: Found) -> Watermark:
    stored = {partition: packed for name, _, partition, packed in standing if name == entity and packed is not None}
    progress = [
        decode_progress(stored[number]) if number in stored else Progress() for number in range(seen.pointer.partitions)
    ]
    return watermark_of(entity, seen.pointer, progress)


def _looks(plan: Plan, query: Query) -> Sequence[int]:
    """How many entries to look at: as many as rows where the indexes decide all, else more, and then still more."""
    is_decided = all(other.only is not None for other in plan.others)
    return (query.limit + 1 if is_decided else _FIRST_LOOK), SCAN_BUDGET


def _filled(page: Page, found: Found, entries: int, watermark: Watermark) -> Page:
    """The page with what a walk found; a walk that saw as many entries as it may, or bytes, may not be at its end."""
    place: Place | None = None
    for value, key, partition, epoch, json, flaw in found:
        if json is None:
            break
        place = Place(value, key)
        row = Row(key, partition, epoch, json, flaw)
        if is_live(row, watermark.partitions) and not page.offer(place, row):
            return page
    else:
        if len(found) < entries:
            return page
    if place is not None:
        page.stop(place)
    return page


def _grouped(found: Found, places: Sequence[int]) -> list[list[Row]]:
    """The related rows of each source row: their places tell whose they are."""
    by_place = {place: [Row(*columns) for *columns, _ in rows] for place, rows in groupby(found, lambda row: row[-1])}
    return [by_place.get(place, []) for place in places]
