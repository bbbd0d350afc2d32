"""Random work against a plain dictionary: whatever comes, the store answers as the dictionary does."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.stores.base import Query, Reader
from tests.contracts.stores.cases import GENERATION, Feed, Store, customer, values

KEYS = st.integers(0, 7)
EMAILS = ["a@x", "b@x", "c@x", None]
PLANS = ["free", "vip"]
ROW = st.fixed_dictionaries(
    {
        "email": st.sampled_from(EMAILS),
        "plan": st.sampled_from(PLANS),
        "balance": st.sampled_from([None, "-1", "0", "0.0", "1.5", 1.5, "20"]),
    }
)
STEP = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(KEYS, ROW), min_size=1, max_size=4)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("flaw"), KEYS),
    st.tuples(st.just("truncate"), st.integers(0, 1)),
    st.tuples(st.just("claim"), st.none()),
    st.tuples(st.just("again"), st.none()),
    st.tuples(st.just("next"), st.none()),
    st.tuples(st.just("sweep"), st.integers(1, 5)),
)
_examples = itertools.count()


class Model:
    """A dictionary per generation."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.seen: dict[str, tuple[dict[str, Any], str]] = {}
        self.generation = GENERATION

    def do(self, step: tuple[str, Any]) -> None:
        name, argument = step
        getattr(self, f"do_{name}")(argument)

    def do_put(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        whole = {key: customer(key, **fields) for key, fields in rows}
        self.feed.put(*whole.values())
        self.seen |= {str(key): (row, "") for key, row in whole.items()}

    def do_delete(self, key: int) -> None:
        self.feed.apply(self.feed.write(self.feed.partition(key), deletes=[str(key)]))
        self.seen.pop(str(key), None)

    def do_flaw(self, key: int) -> None:
        self.feed.apply(self.feed.write(self.feed.partition(key), flaws={str(key): "bad"}))
        self.seen[str(key)] = (self.seen.get(str(key), ({}, ""))[0], "bad")

    def do_truncate(self, partition: int) -> None:
        epoch = self.feed.progress[partition].epoch + 1
        self.feed.apply(self.feed.write(partition, epoch=epoch))
        self.seen = {key: row for key, row in self.seen.items() if self.feed.partition(key) != partition}

    def do_claim(self, _: None) -> None:
        self.feed.progress = self.feed.writer.claim("customer", range(2))

    def do_again(self, _: None) -> None:
        """A snapshot that is left half done: nobody ever sees its rows."""
        rows = [json.loads(row.json) for row in self.feed.writer.read("customer", self.generation, ["1", "2"]).values()]
        self.generation += 1
        self.feed.put(*(row for row in rows if row), generation=self.generation, complete=False)
        self.do_next(None)

    def do_next(self, _: None) -> None:
        """A new snapshot of what is there, without the flaws."""
        self.generation += 1
        self.seen = {key: (row, "") for key, (row, _) in self.seen.items() if row}
        self.feed.put(*(row for row, _ in self.seen.values()), generation=self.generation, complete=False)
        assert self.feed.complete(self.generation)

    def do_sweep(self, limit: int) -> None:
        while self.feed.writer.sweep("customer", limit):
            pass


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(steps=st.lists(STEP, min_size=1, max_size=25))
def test_answers_as_a_dictionary_does(place: tuple[str, Any], steps: list[tuple[str, Any]]) -> None:
    asyncio.run(compare(Store(*place).beside(f"r{next(_examples)}"), steps))


async def compare(store: Store, steps: list[tuple[str, Any]]) -> None:
    try:
        model = Model(store.feed())
        model.feed.show()
        reader = store.reader()
        for place, step in enumerate(steps):
            model.do(step)
            if place % 5 == 4 or place == len(steps) - 1:
                await check(reader, model)
    finally:
        await store.close()


async def check(reader: Reader, model: Model) -> None:
    wanted = model.seen
    whole = await reader.find("customer", Query())
    assert values(whole.rows) == {key: row for key, (row, _) in wanted.items()}
    assert [row.key for row in whole.rows] == sorted(wanted)
    assert {row.key: row.flaw for row in whole.rows} == {key: flaw for key, (_, flaw) in wanted.items()}
    assert whole.watermark.partitions == model.feed.progress
    assert (await reader.count("customer")).rows == len(wanted)
    got = await reader.get("customer", [str(key) for key in range(8)])
    assert [row.key for row in got.rows] == sorted(wanted)
    for field, choices in (("email", EMAILS), ("plan", PLANS)):
        for choice in choices:
            found = await reader.lookup("customer", field, [choice], 99)
            assert [row.key for row in found.rows] == sorted(
                k for k, (row, _) in wanted.items() if row.get(field) == choice
            )
    by_balance = sorted(wanted, key=lambda key: (_amount(wanted[key][0]), key))
    query = Query(order="balance", limit=3)
    found_keys: list[str] = []
    while True:
        page = await reader.find("customer", query)
        found_keys += [row.key for row in page.rows]
        if page.cursor is None:
            break
        query = msgspec.structs.replace(query, after=page.cursor)
    assert found_keys == by_balance


def _amount(row: dict[str, Any]) -> Decimal:
    amount = row.get("balance")
    return Decimal("-Infinity") if amount is None else Decimal(str(amount))
