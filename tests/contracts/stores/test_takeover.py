"""Writers that take over from each other, at random: what one of them remembers of rows never outlives its turn.

Whatever comes, the store answers as a dictionary does, and keeps not one entry more than a store that only ever had
the rows that are left.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.errors import Refused
from headgate.stores.base import Query, Write
from tests.contracts.stores.cases import CUSTOMER, GENERATION, Feed, Store, customer, keys, values
from tests.contracts.stores.inside import stored_entries

KEYS = st.integers(0, 3)
EMAILS = ["a@x", "b@x", None, "ü@x"]
BALANCES = [None, "-1", "0.0", 1.5, "20"]
ROW = st.fixed_dictionaries(
    {
        "email": st.sampled_from(EMAILS),
        "plan": st.sampled_from(["free", "vip"]),
        "number": st.sampled_from([1, 1.0, True, "1"]),
        "balance": st.sampled_from(BALANCES),
    }
)
PUT = st.tuples(st.just("put"), st.lists(st.tuples(KEYS, ROW), min_size=1, max_size=4))
STEP = st.one_of(
    PUT,
    PUT,
    st.tuples(st.just("several"), st.lists(st.lists(st.tuples(KEYS, ROW), min_size=1, max_size=3), max_size=4)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("take_over"), st.none()),
    st.tuples(st.just("flaw"), KEYS),
    st.tuples(st.just("truncate"), st.integers(0, 1)),
    st.tuples(st.just("take_over"), st.none()),
    st.tuples(st.just("zombie"), PUT),
    st.tuples(st.just("sweep"), st.booleans()),
    st.tuples(st.just("generation"), st.none()),
)
_examples = itertools.count()


class Two:
    """Two writers of one store, and what it must hold."""

    def __init__(self, store: Store) -> None:
        self.feeds = [store.feed(), Feed(store.silent_writer(CUSTOMER), CUSTOMER)]
        self.seen: dict[str, tuple[dict[str, Any], str]] = {}
        self.feed.show()

    @property
    def feed(self) -> Feed:
        """That of the writer whose turn it is."""
        return self.feeds[1]

    def do(self, step: tuple[str, Any]) -> None:
        """One step, on the store and on the dictionary."""
        getattr(self, f"do_{step[0]}")(step[1])

    def do_put(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        self.feed.apply(*self._writes(rows))

    def do_several(self, steps: Sequence[Sequence[tuple[int, dict[str, Any]]]]) -> None:
        """Steps behind each other, the next one asked for while the last one is under way."""

        def each() -> Iterator[Sequence[Write]]:
            for rows in steps:
                writes = self._writes(rows)
                yield writes
                self.feed.progress |= {write.partition: write.progress for write in writes}

        self.feed.writer.apply_each(each())

    def do_delete(self, key: int) -> None:
        self.feed.apply(self.feed.write(self.feed.partition(key), deletes=[str(key)]))
        self.seen.pop(str(key), None)

    def do_flaw(self, key: int) -> None:
        self.feed.apply(self.feed.write(self.feed.partition(key), flaws={str(key): "bad"}))
        self.seen[str(key)] = (self.seen.get(str(key), ({}, ""))[0], "bad")

    def do_truncate(self, partition: int) -> None:
        self.feed.apply(self.feed.write(partition, epoch=self.feed.progress[partition].epoch + 1))
        self.seen = {key: row for key, row in self.seen.items() if self.feed.partition(key) != partition}

    def do_take_over(self, _: None) -> None:
        self.feeds.reverse()
        self.feed.progress = self.feed.writer.claim("customer", range(2))

    def do_zombie(self, step: tuple[str, Any]) -> None:
        """The other writer's turn is over: nothing that it does counts."""
        other = self.feeds[0]
        before = dict(self.seen)
        writes = self._writes(step[1], other)
        self.seen = before
        with pytest.raises(Refused):
            other.writer.apply(writes)

    def do_sweep(self, by_the_other: bool) -> None:
        while self.feeds[0 if by_the_other else 1].writer.sweep("customer", 3):
            pass

    def do_generation(self, _: None) -> None:
        """A new snapshot of what is there."""
        generation = self.feed.progress[0].generation + 1
        self.seen = {key: (row, "") for key, (row, _) in self.seen.items() if row}
        self.feed.put(*(row for row, _ in self.seen.values()), generation=generation, complete=False)
        assert self.feed.complete(generation)

    def _writes(self, rows: Sequence[tuple[int, dict[str, Any]]], feed: Feed | None = None) -> list[Write]:
        feed = feed or self.feed
        whole = {str(key): customer(key, **fields) for key, fields in rows}
        self.seen |= {key: (row, "") for key, row in whole.items()}
        parts = [{key: row for key, row in whole.items() if feed.partition(key) == number} for number in range(2)]
        return [feed.write(number, part) for number, part in enumerate(parts) if part]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(steps=st.lists(STEP, min_size=8, max_size=30))
def test_what_a_writer_remembers_never_outlives_its_turn(place: tuple[str, Any], steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_compare(place, steps))


async def _compare(place: tuple[str, Any], steps: list[tuple[str, Any]]) -> None:
    number = next(_examples)
    stores = [Store(*place).beside(f"{name}{number}") for name in ("tried", "clean")]
    try:
        two = Two(stores[0])
        for step in steps:
            two.do(step)
        await _check(stores[0], two)
        two.do_generation(None)
        two.do_sweep(False)
        assert stored_entries(stores[0]) == _stored_anew(stores[1], two)
    finally:
        for store in stores:
            await store.close()


async def _check(store: Store, two: Two) -> None:
    reader, wanted = store.reader(), two.seen
    found = await reader.find("customer", Query(limit=100))
    assert values(found.rows) == {key: row for key, (row, _) in wanted.items()}
    assert {row.key: row.flaw for row in found.rows} == {key: flaw for key, (_, flaw) in wanted.items()}
    assert (await reader.count("customer")).rows == len(wanted)
    for email in EMAILS:
        same = await reader.lookup("customer", "email", [email], 100)
        assert keys(same.rows) == sorted(key for key, (row, _) in wanted.items() if row.get("email") == email)
    ordered = await reader.find("customer", Query(order="balance", limit=100))
    assert sorted(keys(ordered.rows)) == sorted(wanted)


def _stored_anew(store: Store, two: Two) -> int:
    """How many entries a store keeps that only ever had these rows, of the same generation."""
    feed = store.feed()
    generation = two.feed.progress[0].generation
    feed.put(*(row for row, _ in two.seen.values()), generation=generation, complete=False)
    assert feed.complete(generation)
    return stored_entries(store)


def _left_over(store: Store, feed: Feed) -> int:
    """How many entries are kept once every row is deleted and swept away."""
    mine = {number: [str(key) for key in range(10) if feed.partition(key) == number] for number in range(2)}
    feed.apply(*(feed.write(number, deletes=keys) for number, keys in mine.items()))
    assert feed.writer.read("customer", GENERATION, [str(key) for key in range(10)]) == {}
    return stored_entries(store)


@pytest.mark.parametrize("forgotten", ["put", "deleted", "swept"])
def test_what_another_has_done_meanwhile_is_not_forgotten(store: Store, forgotten: str) -> None:
    """The first writer has put a row; the second has changed it; the first takes over again and changes it too."""
    first, second = store.feed(), store.silent_writer(CUSTOMER)
    first.put(customer(1, plan="zeroth"))
    empty = _left_over(store, first)
    first.put(customer(1, plan="first"))
    other = Feed(second, CUSTOMER)
    if forgotten == "put":
        other.put(customer(1, plan="second", number=7))
    elif forgotten == "deleted":
        other.apply(other.write(1, deletes=["1"]))
    else:
        other.apply(other.write(1, epoch=1))
        assert second.sweep("customer", 10) == 1
    again = Feed(first.writer, CUSTOMER)
    again.put(customer(1, plan="third"))
    epochs = 1 if forgotten == "swept" else 0  # each has a count of its own
    assert _left_over(store, again) == empty + epochs


async def test_a_sweep_by_another_is_noticed(store: Store) -> None:
    """The fence stays where it is: only the layout tells."""
    feed, other = store.feed(), store.silent_writer(CUSTOMER)
    feed.show(customer(1, plan="old"), customer(2))
    feed.apply(feed.write(1, epoch=1))
    assert other.sweep("customer", 10) == 1
    feed.put(customer(1, plan="old"))
    reader = store.reader()
    assert keys((await reader.find("customer", Query())).rows) == ["1", "2"]
    assert keys((await reader.lookup("customer", "plan", ["old"], 9)).rows) == ["1"]


def test_steps_behind_a_refused_one_are_not_done(store: Store) -> None:
    """The one that was refused names its partition; the writer that claims anew goes on."""
    feed, other = store.feed(), store.silent_writer(CUSTOMER)
    feed.put(customer(1), customer(2))
    other.claim("customer", [1])
    good = feed.write(0, {"4": customer(4)})
    late = msgspec.structs.replace(
        feed.write(0, {"6": customer(6)}),
        expected=good.progress,
        progress=msgspec.structs.replace(good.progress, offset=good.progress.offset + 1),
    )
    with pytest.raises(Refused) as refusal:
        feed.writer.apply_each(iter([[good], [feed.write(1, {"3": customer(3)})], [late]]))
    assert refusal.value.details["partition"] == 1
    claimed = Feed(feed.writer, CUSTOMER)
    assert claimed.progress[0].offset == good.progress.offset
    assert set(claimed.writer.read("customer", good.progress.generation, ["3", "4", "6"])) == {"4"}
