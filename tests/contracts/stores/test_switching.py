"""What readers see before, during and after a switch; definitions; two builds side by side."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import msgspec
import pytest

from headgate.errors import SnapshotPending, UnknownEntity
from headgate.stores.base import Query
from tests.contracts.stores.cases import CUSTOMER, GENERATION, ORDER, Feed, Store, customer, keys, values

NEWER = msgspec.structs.replace(CUSTOMER, lookups=("email", "note"), sorted=("balance",), partitions=3)


async def test_before_anything_was_written(store: Store) -> None:
    reader = store.reader()
    assert await reader.entities() == {}
    assert await reader.dead_letters("shop", 5) == ([], 0)
    with pytest.raises((SnapshotPending, UnknownEntity)):
        await reader.get("customer", ["1"])
    store.feed().show(customer(1))
    assert keys((await reader.get("customer", ["1"])).rows) == ["1"]


async def test_an_unknown_entity_names_those_there_are(store: Store) -> None:
    store.writer(ORDER, CUSTOMER)
    with pytest.raises(UnknownEntity, match="customer, order line"):
        await store.reader().find("nobody", Query())


async def test_a_snapshot_is_pending_until_every_partition_is_whole(store: Store) -> None:
    feed, reader = store.feed(), store.reader()
    feed.put(customer(1), customer(2))
    assert not feed.writer.switch("customer", GENERATION)
    feed.apply(feed.write(0, complete=True))
    assert not feed.writer.switch("customer", GENERATION)
    for question in (reader.get("customer", ["1"]), reader.find("customer", Query()), reader.count("customer"),
                     reader.lookup("customer", "plan", ["x"], 1), reader.watermark("customer")):  # fmt: skip
        with pytest.raises(SnapshotPending):
            await question
    feed.apply(feed.write(1, complete=True))
    assert feed.writer.switch("customer", GENERATION)
    assert feed.writer.switch("customer", GENERATION)
    found = await reader.find("customer", Query())
    assert keys(found.rows) == ["1", "2"]
    assert (found.watermark.generation, found.watermark.partitions) == (GENERATION, feed.progress)


async def test_an_older_generation_never_comes_back(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1))
    for number in range(2):
        feed.apply(feed.write(number, generation=GENERATION - 1, complete=True))
    assert not feed.writer.switch("customer", GENERATION - 1)
    assert keys((await store.reader().find("customer", Query())).rows) == ["1"]


async def test_the_generation_that_is_filled_is_not_seen(store: Store) -> None:
    feed, reader = store.feed(), store.reader()
    feed.show(customer(1, plan="old"), customer(2, plan="old"))
    feed.put(customer(1, plan="new"), generation=GENERATION + 1, complete=False)
    assert values((await reader.find("customer", Query())).rows)["1"]["plan"] == "old"
    assert keys((await reader.lookup("customer", "plan", ["new"], 9)).rows) == []
    assert (await reader.count("customer")).rows == 2
    assert feed.complete(GENERATION + 1)
    assert keys((await reader.find("customer", Query())).rows) == ["1"]
    assert (await reader.count("customer")).rows == 1


async def test_a_new_build_is_filled_beside_the_old_and_takes_over(store: Store) -> None:
    old = store.feed()
    old.show(customer(1, note="n"))
    reader = store.reader()
    new = store.feed(NEWER)
    assert new.progress[0].offset == 0
    assert (await reader.entities())["customer"] == CUSTOMER
    old.put(customer(1, note="n", plan="vip"))
    assert keys((await reader.lookup("customer", "plan", ["vip"], 9)).rows) == ["1"]
    new.put(customer(1, note="n"), customer(5, note="n"))
    assert not new.complete(), "readers would go back: the old build is further"
    assert new.complete()
    assert keys((await reader.lookup("customer", "note", ["n"], 9)).rows) == ["1", "5"]
    assert set((await reader.watermark("customer")).partitions) == {0, 1, 2}
    assert not old.writer.switch("customer", GENERATION), "the build that was defined last has taken over"


async def test_a_definition_that_comes_back_is_seen_once_it_is_no_older_than_what_was_seen_meanwhile(
    store: Store,
) -> None:
    old = store.feed()
    old.show(customer(1, plan="old"))
    new = store.feed(NEWER)
    new.show(customer(1, plan="old"))
    new.put(customer(1, plan="newer"))
    reader = store.reader()
    old.writer.define([CUSTOMER])
    assert not old.writer.switch("customer", GENERATION)
    assert values((await reader.find("customer", Query())).rows)["1"]["plan"] == "newer"
    old.put(customer(1, plan="newer"), complete=True)
    assert old.writer.switch("customer", GENERATION)
    assert values((await reader.find("customer", Query())).rows)["1"]["plan"] == "newer"


async def test_a_definition_is_replaced_within_a_second(store: Store) -> None:
    feed, reader = store.feed(), store.reader()
    assert await reader.entities() == {"customer": CUSTOMER}
    described = msgspec.structs.replace(CUSTOMER, description="who buys")
    feed.writer.define([described, ORDER])
    deadline_s = time.monotonic() + 60
    while await reader.entities() != {"customer": described, "order line": ORDER}:
        assert time.monotonic() < deadline_s
    assert list(await reader.entities()) == ["customer", "order line"]


async def test_readers_never_see_half_a_switch(store: Store) -> None:
    """Each generation's rows carry its number, and money moves between partitions in single steps."""
    feed, reader = store.feed(), store.reader()
    numbers = range(6)
    feed.show(*(customer(number, note=GENERATION, balance=100, plan="p") for number in numbers))
    stop = threading.Event()
    writing = asyncio.create_task(asyncio.to_thread(churn, feed, stop))
    try:
        generations: set[int] = set()
        while len(generations) < 4 and not writing.done():
            for rows in (
                await reader.find("customer", Query(order="balance")),
                await reader.get("customer", [str(number) for number in numbers]),
                await reader.lookup("customer", "plan", ["p"], 9),
            ):
                found = values(rows.rows)
                assert {row["note"] for row in found.values()} == {rows.watermark.generation}
                assert sum(row["balance"] for row in found.values()) == 600
                assert len(found) == 6
                generations.add(rows.watermark.generation)
            assert (await reader.count("customer")).rows == 6
    finally:
        stop.set()
        await writing
    assert len(generations) >= 4


def churn(feed: Feed, stop: threading.Event) -> None:
    """Fills one generation after the other, moving money in each, and sweeps the old ones."""
    for generation in itertools.count(GENERATION + 1):
        for step in range(4):
            amounts = [100 + step, 100 - step, 100, 100, 100, 100]
            rows = [customer(key, note=generation, balance=amount, plan="p") for key, amount in enumerate(amounts)]
            feed.put(*rows, generation=generation, complete=False)
        feed.complete(generation)
        for step in range(4):
            amounts = [100 + step, 100, 100, 100 - step, 100, 100]
            feed.put(*(customer(key, note=generation, balance=x, plan="p") for key, x in enumerate(amounts)))
        feed.writer.sweep("customer", 100)
        if stop.is_set():
            return
