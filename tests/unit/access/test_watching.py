"""Rows that someone waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from headgate.access.watching import PushConfig, Watching, seen_as
from headgate.errors import TooManyWaiting, Unavailable
from headgate.model.row import Row
from headgate.stores.base import Rows
from headgate.testing import MemoryHearer, MemoryReader
from tests.unit.server.house import CUSTOMER, ROWS
from tests.unit.server.push.watched import until, within


class CountingReader(MemoryReader):
    """Counts what it is asked for, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__([CUSTOMER], {"customer": ROWS})
        self.asked: list[list[str]] = []
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        self.asked.append(list(keys))
        found = await super().get(entity, keys)
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        return found


class Note:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def changed(self, entity: str, key: str) -> None:
        self.told.append(f"{entity}/{key}")


class Place:
    """A store, its hearer, and what is watched there."""

    def __init__(self) -> None:
        self.reader = CountingReader()
        self.hearer = MemoryHearer()
        self.watching = Watching(self.reader, self.hearer)

    async def watch(self, *keys: str) -> Note:
        note = Note()
        self.watching.watch(note, "customer", None, keys)
        await self.watching.heard()
        await self.watching.look("customer", keys)
        return note

    def put(self, number: int, plan: str) -> None:
        self.reader.put("customer", {"id": number, "email": "", "plan": plan})


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await within(place.watching.close())


async def test_a_changed_row_is_told_and_others_are_not(place: Place) -> None:
    note = await place.watch("1", "2")
    place.put(1, "gold")
    place.hearer.tell("customer", ["1", "2", "3"])
    await until(lambda: note.told)
    assert note.told == ["customer/1"]


async def test_a_hint_for_nothing_tells_nobody(place: Place) -> None:
    note = await place.watch("1")
    asked = len(place.reader.asked)
    place.hearer.tell("customer")
    await until(lambda: len(place.reader.asked) > asked and place.watching._looking is None)
    assert note.told == []


async def test_a_row_that_comes_or_goes_has_changed(place: Place) -> None:
    note = await place.watch("1", "99")
    place.reader.remove("customer", "1")
    place.put(99, "free")
    place.hearer.tell("customer")
    await until(lambda: len(note.told) == 2)
    assert sorted(note.told) == ["customer/1", "customer/99"]


async def test_rows_are_read_once_for_all_who_watch_them(place: Place) -> None:
    notes = [await place.watch("1") for _ in range(50)]
    assert place.reader.asked == [["1"]]
    place.put(1, "gold")
    place.hearer.tell("customer", ["1"])
    await until(lambda: all(note.told for note in notes))
    assert place.reader.asked == [["1"], ["1"]]


async def test_what_changes_while_a_row_is_read_is_read_once_more(place: Place) -> None:
    note = await place.watch("1")
    place.reader.gate.clear()
    place.put(1, "silver")
    place.hearer.tell("customer", ["1"])
    await until(lambda: len(place.reader.asked) == 2)
    for plan in ("gold", "platinum", "free again"):
        place.put(1, plan)
        place.hearer.tell("customer", ["1"])
    place.reader.gate.set()
    await until(lambda: len(note.told) == 2)
    await until(lambda: place.watching._looking is None)
    assert len(place.reader.asked) == 3  # the three in one


async def test_a_store_that_does_not_answer_is_asked_until_it_does(place: Place) -> None:
    note = await place.watch("1")
    place.reader.failures = 2
    place.put(1, "gold")
    place.hearer.tell("customer", ["1"])
    await until(lambda: note.told)
    assert place.reader.failures == 0


async def test_after_a_lost_connection_everything_is_looked_at(place: Place) -> None:
    note = await place.watch("1", "2")
    place.hearer.lose()
    await until(lambda: not place.hearer._told)
    place.put(2, "gold")  # and nobody hears of it
    await until(lambda: note.told)
    assert note.told == ["customer/2"]


async def test_whoever_watches_no_more_is_told_no_more(place: Place) -> None:
    note, other = await place.watch("1"), await place.watch("1")
    place.watching.unwatch(note, "customer", None, ["1"])
    place.put(1, "gold")
    place.hearer.tell("customer", ["1"])
    await until(lambda: other.told)
    assert note.told == []
    place.watching.unwatch(other, "customer", None, ["1", "never watched"])
    assert place.watching._rows == {}


async def test_hints_of_an_entity_reach_those_who_wait_for_more_than_a_row(place: Place) -> None:
    hinted: list[str] = []
    await place.watching.heard()
    with place.watching.hints("customer", lambda: hinted.append("customer")):
        for entity, keys in (("order", None), ("customer", ["77"]), ("", None)):
            place.hearer.tell(entity, keys)
    place.hearer.tell("customer")
    assert hinted == ["customer", "customer"]


async def test_a_row_without_a_whole_snapshot_is_not_compared(place: Place) -> None:
    note = await place.watch("1")
    place.reader.mark_pending("customer")
    place.hearer.tell("customer")
    await until(lambda: place.watching._looking is None)
    assert note.told == []


async def test_where_nothing_is_heard_nothing_can_be_waited_for() -> None:
    with pytest.raises(Unavailable):
        await Watching(MemoryReader([CUSTOMER]), None).heard()


def test_places_are_bounded_for_each_caller_and_for_all() -> None:
    watching = Watching(MemoryReader([CUSTOMER]), None, PushConfig(waits_per_caller=2, waits=3))
    with watching.waiting("ada"), watching.waiting("ada"):
        with pytest.raises(TooManyWaiting), watching.waiting("ada"):
            pass
        with watching.waiting("grace"), pytest.raises(TooManyWaiting), watching.waiting("mary"):
            pass
    with watching.waiting("ada"), watching.waiting("ada"):
        pass
    assert not watching._waiting


def test_a_flaw_is_seen_too() -> None:
    row = Row("1", 0, 0, b"{}")
    assert len({seen_as(None), seen_as(row), seen_as(Row("1", 0, 0, b"{}", "schema_mismatch"))}) == 3
    assert seen_as(row) == seen_as(Row("1", 3, 7, b"{}"))  # where it lies is nobody's business
