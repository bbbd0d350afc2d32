"""Rows, indexes, dead letters and progress change together, for the last claimant alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from headgate.errors import Refused, StoreError
from headgate.model.change import Sequence
from headgate.model.position import Progress
from headgate.model.row import key_text
from headgate.stores.base import Query, Writer
from tests.contracts.stores.cases import CUSTOMER, GENERATION, ORDER, Feed, Store, customer, keys, letter, values


async def test_a_claim_raises_the_fence_and_keeps_the_rest(store: Store) -> None:
    feed = store.feed()
    assert feed.progress == {0: Progress(fence=1), 1: Progress(fence=1)}
    feed.put(customer(1), as_of_ms=5)
    again = store.writer(CUSTOMER).claim("customer", [1])
    assert again == {1: msgspec.structs.replace(feed.progress[1], fence=2)}


async def test_a_zombie_changes_nothing(store: Store) -> None:
    zombie = store.feed()
    zombie.show(customer(1, plan="free"))
    successor = Feed(store.writer(CUSTOMER), CUSTOMER)
    with pytest.raises(Refused):
        zombie.put(customer(1, plan="lost"))
    successor.put(customer(2))
    rows = await store.reader().get("customer", ["1", "2"])
    assert {key: row["plan"] for key, row in values(rows.rows).items()} == {"1": "free", "2": "free"}
    assert rows.watermark.partitions == successor.progress


async def test_a_batch_that_comes_again_changes_nothing(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="old"))
    batch = feed.write(1, {"1": customer(1, plan="new")})
    feed.apply(batch)
    feed.apply(feed.write(1, {"1": customer(1, plan="newest")}))
    with pytest.raises(Refused):
        feed.writer.apply([batch])
    rows = await store.reader().get("customer", ["1"])
    assert values(rows.rows)["1"]["plan"] == "newest"
    assert rows.watermark.partitions == feed.progress


async def test_one_refused_partition_refuses_the_whole_step(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1), customer(2))
    before = dict(feed.progress)
    stale = msgspec.structs.replace(
        feed.write(1, {"1": customer(1, plan="x")}, letters=[letter(1, 1)]), expected=Progress()
    )
    with pytest.raises(Refused):
        feed.writer.apply([feed.write(0, {"2": customer(2, plan="x")}), stale])
    reader = store.reader()
    found = await reader.find("customer", Query())
    assert {row["plan"] for row in values(found.rows).values()} == {"free"}
    assert found.watermark.partitions == before
    assert await reader.dead_letters("shop", 10) == ([], 0)


async def test_what_was_never_claimed_is_refused(store: Store) -> None:
    feed = store.feed()
    other = store.silent_writer(msgspec.structs.replace(CUSTOMER, partitions=3))
    with pytest.raises(Refused):
        other.apply([feed.write(0, {"2": customer(2)})])
    with pytest.raises(StoreError):
        other.apply([msgspec.structs.replace(feed.write(0), entity="nobody")])


async def test_every_field_of_progress_comes_back(store: Store) -> None:
    feed = store.feed()
    feed.show()
    feed.apply(
        feed.write(
            0, offset=2**60, high_water=Sequence(2**63 - 1, 2**62 + 1), as_of_ms=123, epoch=3, target=7, ended=True
        )
    )
    assert (await store.reader().watermark("customer")).partitions[0] == feed.progress[0]
    assert feed.writer.claim("customer", [0])[0] == msgspec.structs.replace(feed.progress[0], fence=2)


async def test_claims_at_once_give_each_its_own_fence(store: Store) -> None:
    store.feed()
    with ThreadPoolExecutor(4) as pool:
        fences = list(pool.map(claim_often, [store.silent_writer(CUSTOMER) for _ in range(4)]))
    taken = [fence for some in fences for fence in some]
    assert sorted(taken) == list(range(2, 2 + len(taken)))


async def test_writers_that_race_lose_nothing(store: Store) -> None:
    """Each adds one to a row that it has read; what was not refused is counted."""
    store.feed().show(customer(1, number=0))
    with ThreadPoolExecutor(3) as pool:
        done = sum(pool.map(add_often, [store.silent_writer(CUSTOMER) for _ in range(3)]))
    found = await store.reader().get("customer", ["1"])
    assert values(found.rows)["1"]["number"] == done > 0
    assert found.watermark.partitions[1].offset == 2 + done


def claim_often(writer: Writer) -> list[int]:
    """The fences of many claims."""
    return [writer.claim("customer", [1])[1].fence for _ in range(25)]


def add_often(writer: Writer) -> int:
    """How many additions were taken."""
    done = 0
    for _ in range(40):
        feed = Feed(writer, CUSTOMER)
        for _ in range(2):
            row = writer.read("customer", GENERATION, ["1"])["1"]
            number = json.loads(row.json)["number"]
            try:
                feed.apply(feed.write(1, {"1": customer(1, number=number + 1)}))
            except Refused:
                break
            done += 1
    return done


async def test_a_look_up_follows_the_stored_row(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, email="old@x"), customer(3, email="old@x"))
    feed.put(customer(1, email="new@x"))
    reader = store.reader()
    assert keys((await reader.lookup("customer", "email", ["old@x"], 9)).rows) == ["3"]
    assert keys((await reader.lookup("customer", "email", ["new@x"], 9)).rows) == ["1"]
    feed.apply(feed.write(1, deletes=["1", "99"]))
    assert keys((await reader.lookup("customer", "email", ["new@x", "old@x"], 9)).rows) == ["3"]
    assert keys((await reader.find("customer", Query(order="balance"))).rows) == ["3"]
    assert (await reader.count("customer")).rows == 1


@pytest.mark.parametrize("taker_first", [True, False])
async def test_a_unique_value_moves_between_partitions(store: Store, taker_first: bool) -> None:
    feed = store.feed()
    feed.show(customer(1, email="the@one"), customer(2))
    give = (1, {"1": customer(1, email="other@one")})
    take = (0, {"2": customer(2, email="the@one")})
    for partition, puts in (take, give) if taker_first else (give, take):
        feed.apply(feed.write(partition, puts))
    found = await store.reader().lookup("customer", "email", ["the@one"], 9)
    assert keys(found.rows) == ["2"]


async def test_a_flaw_marks_the_row_and_a_put_heals_it(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="kept"))
    feed.apply(feed.write(1, flaws={"1": "schema_mismatch", "3": "change_undecodable"}))
    reader = store.reader()
    flawed = (await reader.get("customer", ["1", "3"])).rows
    assert [row.flaw for row in flawed] == ["schema_mismatch", "change_undecodable"]
    assert values(flawed)["1"]["plan"] == "kept" and flawed[1].json == b"{}"
    assert keys((await reader.find("customer", Query())).rows) == ["1", "3"]
    assert keys((await reader.lookup("customer", "plan", ["kept"], 9)).rows) == ["1"]
    feed.put(customer(1, plan="healed"), customer(3, plan="healed"))
    assert [row.flaw for row in (await reader.lookup("customer", "plan", ["healed"], 9)).rows] == ["", ""]
    assert (await reader.count("customer")).rows == 2


async def test_a_flaw_in_the_step_of_a_put_marks_what_was_put(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="old"), customer(3, plan="old"))
    feed.apply(feed.write(1, {"1": customer(1, plan="new")}, ["3"], {"1": "a", "3": "b"}))
    rows = (await store.reader().get("customer", ["1", "3"])).rows
    assert [(row.flaw, row.json == b"{}") for row in rows] == [("a", False), ("b", True)]
    assert values(rows)["1"]["plan"] == "new"


async def test_a_truncate_takes_one_partitions_rows(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(number, plan="p", number=number) for number in range(1, 7)))
    feed.apply(feed.write(1, {"3": customer(3, plan="p")}, epoch=1, flaws={"5": "x"}))
    reader = store.reader()
    left = ["2", "3", "4", "5", "6"]
    assert keys((await reader.find("customer", Query())).rows) == left
    assert keys((await reader.get("customer", ["1", "3", "5"])).rows) == ["3", "5"]
    assert keys((await reader.lookup("customer", "plan", ["p"], 9)).rows) == ["2", "3", "4", "6"]
    assert keys((await reader.find("customer", Query(order="balance"))).rows) == ["5", "2", "3", "4", "6"]
    assert (await reader.get("customer", ["5"])).rows[0].json == b"{}"
    assert (await reader.count("customer")).rows == 5
    assert set(feed.writer.read("customer", GENERATION, ["1", "2", "3"])) == {"2", "3"}


async def test_a_row_that_comes_back_after_a_truncate_is_whole(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="p", balance="5"))
    feed.apply(feed.write(1, epoch=1))
    feed.put(customer(1, plan="p", balance="5"))
    reader = store.reader()
    assert keys((await reader.lookup("customer", "plan", ["p"], 9)).rows) == ["1"]
    assert keys((await reader.find("customer", Query(equals={"balance": 5}))).rows) == ["1"]
    assert (await reader.count("customer")).rows == 1


async def test_read_tells_what_is_stored_in_a_generation(store: Store) -> None:
    feed = store.feed()
    feed.put(customer(1), customer(2))
    found = feed.writer.read("customer", GENERATION, ["1", "2", "3"])
    assert {key: (row.key, row.partition) for key, row in found.items()} == {"1": ("1", 1), "2": ("2", 0)}
    assert feed.writer.read("customer", GENERATION + 1, ["1"]) == {}
    assert feed.writer.read("customer", GENERATION, []) == {}


async def test_dead_letters_are_kept_whole_newest_first(store: Store) -> None:
    feed = store.feed()
    feed.apply(feed.write(0, letters=[letter(1, 100), letter(2, 300), letter(3, 200)]))
    feed.apply(feed.write(1, letters=[letter(1, 400, message="again"), letter(9, 1, pipeline="other")]))
    reader = store.reader()
    newest, total = await reader.dead_letters("shop", 2)
    assert list(newest) == [letter(1, 400, message="again"), letter(2, 300)]
    assert total == 3
    assert feed.writer.drop_dead_letters("shop", [letter(1, 0).id, letter(1, 0).id, "customer/gone/0/0"]) == 1
    assert feed.writer.drop_dead_letters("shop", []) == 0
    assert await reader.dead_letters("shop", 9) == ([letter(2, 300), letter(3, 200)], 2)


async def test_composite_keys_and_an_entity_without_indexes(store: Store) -> None:
    feed = store.feed(ORDER)
    key = key_text(["a,b/ü", 7])
    feed.apply(feed.write(0, {key: {"order": "a,b/ü", "line": 7}, "b,1": {"order": "b", "line": 1}}))
    assert feed.complete()
    reader = store.reader()
    assert values((await reader.get("order line", [key])).rows) == {key: {"order": "a,b/ü", "line": 7}}
    assert keys((await reader.find("order line", Query())).rows) == sorted([key, "b,1"])


async def test_a_row_is_kept_as_it_was_written(store: Store) -> None:
    feed = store.feed()
    feed.show()
    raw = '{"id": 1,  "balance":12345678901234567890.123456789, "note":"a|b.c\\u0000ü"}'.encode()
    feed.apply(msgspec.structs.replace(feed.write(1), puts={"1": raw}))
    (row,) = (await store.reader().get("customer", ["1"])).rows
    assert row.json == raw
