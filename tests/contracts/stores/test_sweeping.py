"""What nobody reads goes, and nothing else."""

from __future__ import annotations

import threading

import pytest

from headgate.errors import Refused
from headgate.stores.base import Query
from tests.contracts.stores.cases import CUSTOMER, GENERATION, Feed, Store, customer, keys, values
from tests.contracts.stores.inside import stored_entries
from tests.contracts.stores.test_switching import NEWER

MANY = 700


def swept(feed: Feed, limit: int = 100) -> int:
    """Sweeps until nothing is left; answers how much went."""
    removed = 0
    while chunk := feed.writer.sweep("customer", limit):
        assert chunk <= limit
        removed += chunk
    return removed


async def test_nothing_goes_while_all_is_read(store: Store) -> None:
    feed = store.feed()
    feed.put(customer(1))
    assert swept(feed) == 0
    feed.show(customer(2))
    assert swept(feed) == 0
    feed.put(customer(3), generation=GENERATION + 1, complete=False)
    assert swept(feed) == 0, "one generation is seen, the other filled"
    assert keys((await store.reader().find("customer", Query())).rows) == ["1", "2"]
    assert feed.complete(GENERATION + 1)
    assert keys((await store.reader().find("customer", Query())).rows) == ["3"]


async def test_a_generation_that_was_left_goes(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(number, plan="old") for number in range(MANY)))
    feed.put(customer(1), generation=GENERATION + 1, complete=False)
    feed.put(customer(1), customer(2), generation=GENERATION + 2, complete=False)
    assert feed.complete(GENERATION + 2)
    assert swept(feed) >= MANY + 1
    assert feed.writer.read("customer", GENERATION, ["5"]) == {}
    assert keys((await store.reader().find("customer", Query())).rows) == ["1", "2"]
    alone = await fresh_entries(store, customer(1), customer(2), generation=GENERATION + 2)
    assert stored_entries(store) == alone


async def test_rows_of_an_old_epoch_go(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(number) for number in range(MANY)))
    feed.apply(feed.write(1, epoch=1))
    feed.put(customer(1, plan="back"), customer(3, plan="back"))
    assert swept(feed) >= MANY // 2 - 2
    reader = store.reader()
    assert (await reader.count("customer")).rows == MANY // 2 + 2
    assert keys((await reader.lookup("customer", "plan", ["back"], 9)).rows) == ["1", "3"]
    assert len((await reader.find("customer", Query(order="balance", limit=1000))).rows) == MANY // 2 + 2


async def test_a_build_that_was_left_goes_and_its_writer_is_turned_away(store: Store) -> None:
    old = store.feed()
    old.show(*(customer(number) for number in range(MANY)))
    new = store.feed(NEWER)
    new.put(customer(1))
    assert swept(new) == 0, "the old build is still read"
    assert new.complete()
    assert swept(old) == 0, "a writer never sweeps its own build"
    assert swept(new) >= MANY
    with pytest.raises(Refused):
        old.put(customer(1))
    claimed = old.writer.claim("customer", [0, 1])
    assert all((one.offset, one.generation, one.complete) == (0, 0, False) for one in claimed.values())
    assert all(one.fence > old.progress[number].fence for number, one in claimed.items())
    old.writer.define([CUSTOMER])
    assert not old.writer.switch("customer", GENERATION)
    assert keys((await store.reader().find("customer", Query())).rows) == ["1"]


async def test_a_sweep_beside_a_writer_takes_nothing_that_was_written(store: Store) -> None:
    feed, sweeper = store.feed(), store.silent_writer(CUSTOMER)
    feed.show(*(customer(number, plan="old", balance=1) for number in range(MANY)))
    feed.apply(feed.write(0, epoch=1), feed.write(1, epoch=1))
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            sweeper.sweep("customer", 40)

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for start in range(0, MANY, 20):
            feed.put(*(customer(number, plan="old", balance=1) for number in range(start, start + 20)))
    finally:
        stop.set()
        thread.join()
    swept(feed)
    reader = store.reader()
    wanted = sorted(str(number) for number in range(MANY))
    for query in (
        Query(limit=1000),
        Query(equals={"plan": "old"}, limit=1000),
        Query(equals={"balance": 1}, limit=1000),
    ):
        found = await reader.find("customer", query)
        assert keys(found.rows) == wanted
        assert set(values(found.rows)) == set(wanted)
    assert (await reader.count("customer")).rows == MANY


async def fresh_entries(store: Store, *rows: dict[str, object], generation: int) -> int:
    """How much an untouched store holds that only ever had these rows."""
    other = store.beside()
    try:
        feed = Feed(other.writer(CUSTOMER), CUSTOMER)
        feed.put(*rows, generation=generation, complete=False)
        assert feed.complete(generation)
        return stored_entries(other)
    finally:
        await other.close()
