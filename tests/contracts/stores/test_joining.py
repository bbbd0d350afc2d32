"""Rows with what they lead to, of one snapshot; and counts of values."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.errors import InvalidArguments, NotIndexed, SnapshotPending
from headgate.stores.base import Join, Joined, JoinQuery, Reader
from tests.contracts.stores.cases import GENERATION, Store, customer, keys
from tests.contracts.stores.inside import stored_entries
from tests.contracts.stores.selling import BUY, BUYER, ENTITIES, RELATIONS, Till, buy, buyer, open_till


def shown(found: Joined, relation: str) -> list[list[str]]:
    """The keys of the rows that each row leads to."""
    return [keys(group.rows) for group in found.related[relation]]


def cuts(found: Joined, relation: str) -> list[str | None]:
    return [group.cut for group in found.related[relation]]


def of(*relations: str, **more: Any) -> list[Join]:
    return [Join(relation=name, **more) for name in relations]


async def test_the_latest_come_first_and_no_more_than_were_asked_for(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(buyer(1), buyer(2), buyer(3))
    tills["buy"].put(*(buy(f"b{n:02d}", 1 + n % 2, placed=f"2026-01-{n:02d}T00:00:00Z") for n in range(1, 11)))
    tills["buy"].put(buy("null", 1, placed=None), buy("a", 1, placed="2026-01-10 00:00:00"))
    found = await store.reader().joined("buyer", JoinQuery(keys=["2", "1", "3", "9"], joins=of("latest", limit=3)))
    assert keys(found.rows) == ["2", "1", "3"]
    assert shown(found, "latest") == [["b09", "b07", "b05"], ["b10", "a", "b08"], []]
    assert cuts(found, "latest") == ["rows", "rows", None]
    assert [mark.entity for mark in found.watermarks] == ["buyer", "buy"]
    assert [mark.partitions for mark in found.watermarks] == [tills["buyer"].progress, tills["buy"].progress]
    whole = await store.reader().joined("buyer", JoinQuery(keys=["1"], joins=of("latest", "buys", limit=7)))
    assert shown(whole, "latest") == [["b10", "a", "b08", "b06", "b04", "b02", "null"]]
    assert shown(whole, "buys") == [["a", "b02", "b04", "b06", "b08", "b10", "null"]]
    assert cuts(whole, "latest") == cuts(whole, "buys") == [None]


async def test_values_of_any_type_lead_to_their_like(store: Store) -> None:
    tills = open_till(store)
    long = "é" * 300
    odd = ["a\x00b", "a\x01", "ÿ\x01\x03", "", "n", long, long + "!", "\U0001f600", "7"]
    tills["buyer"].put(*(buyer(place, code=text) for place, text in enumerate(odd)))
    tills["buyer"].put(
        buyer(20, amount="12.50", mark="AB-cd", favourite="x y/ü,1"), buyer(21, amount=12345678901234567890)
    )
    tills["buy"].put(*(buy(f"k{place}", 99, code=text, amount=1) for place, text in enumerate(odd)))
    tills["buy"].put(buy("m", 99, amount=12.5, mark="ab-CD"), buy("n", 99, amount="12345678901234567890.0"))
    tills["buy"].apply(
        tills["buy"].write(0, {"x%20y%2F%C3%BC%2C1": buy("x y/ü,1", 20), "wrong": buy("wrong", 20, amount="12.500")})
    )
    reader = store.reader()
    found = await reader.joined("buyer", JoinQuery(keys=[str(n) for n in range(9)], joins=of("coded", "dearest")))
    assert shown(found, "coded") == shown(found, "dearest") == [[f"k{place}"] for place in range(9)]
    found = await reader.joined("buyer", JoinQuery(keys=["20", "21"], joins=of("priced", "marked", "favourite")))
    assert shown(found, "priced") == [["m", "wrong"], ["n"]]
    assert shown(found, "marked") == [["m"], []]
    assert shown(found, "favourite") == [["x%20y%2F%C3%BC%2C1"], []]
    back = await reader.joined("buy", JoinQuery(keys=["x%20y%2F%C3%BC%2C1", "m"], joins=of("buyer")))
    assert shown(back, "buyer") == [["20"], []]


async def test_an_entity_may_lead_to_itself(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(buyer(1), buyer(2, boss=1), buyer(3, boss=1, plan="vip"), buyer(4, boss="3"))
    found = await store.reader().joined("buyer", JoinQuery(keys=["1", "4"], joins=of("team", "boss")))
    assert shown(found, "team") == [["2", "3"], []]
    assert shown(found, "boss") == [[], ["3"]]
    assert [mark.entity for mark in found.watermarks] == ["buyer"]


async def test_rows_by_value_and_only_those_that_have_others(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(*(buyer(n, plan="vip" if n % 2 else "free", boss=n % 3) for n in range(1, 9)))
    tills["buy"].put(
        *(buy(f"b{n}", n % 4, placed=f"{n:02d}", state="paid" if n % 3 else "open", amount=n % 2) for n in range(12))
    )
    reader = store.reader()
    query = JoinQuery(field="plan", values=["vip", "free", "vip"], equals={"boss": "1"}, joins=of("latest"))
    found = await reader.joined("buyer", query)
    assert (keys(found.rows), found.cut) == (["1", "4", "7"], None)
    assert shown(found, "latest") == [["b9", "b5", "b1"], [], []]
    found = await reader.joined("buyer", msgspec.structs.replace(query, limit=2, equals={}))
    assert (keys(found.rows), found.cut, len(found.related["latest"])) == (["1", "2"], "rows", 2)
    paid = of("latest", equals={"state": "paid"}, limit=2) + of("buys", equals={"amount": "1.0", "state": "open"})
    found = await reader.joined("buyer", JoinQuery(keys=["1", "2", "3"], joins=paid))
    assert shown(found, "latest") == [["b5", "b1"], ["b10", "b2"], ["b11", "b7"]]
    assert shown(found, "buys") == [["b9"], [], ["b3"]]
    by_key = await reader.joined("buyer", JoinQuery(keys=["1", "2"], equals={"plan": "vip"}, joins=of("boss")))
    assert (keys(by_key.rows), shown(by_key, "boss")) == (["1"], [["1"]])
    to_key = await reader.joined("buyer", JoinQuery(keys=["4"], joins=of("boss", equals={"plan": "free"})))
    assert shown(to_key, "boss") == [[]]
    none = await reader.joined("buyer", JoinQuery(field="plan", values=[], joins=of("boss")))
    assert (none.rows, none.related) == ([], {"boss": []})


async def test_without_relations_it_is_a_look_up(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(buyer(1), buyer(2))
    reader = store.reader()
    found = await reader.joined("buyer", JoinQuery(keys=["2", "none", "", "\ud800", "x\x001", "1\x00", "1", "2"]))
    assert (keys(found.rows), found.related) == (["2", "1", "2"], {})
    assert [mark.entity for mark in found.watermarks] == ["buyer"]


async def test_bytes_bound_an_answer_that_has_a_row_at_least(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(*(buyer(n, code="x" * 1_000) for n in (1, 2, 3)))
    tills["buy"].put(*(buy(f"{by}{n}", by, code="y" * 1_000, placed=n) for by in (1, 2) for n in range(3)))
    reader = store.reader()

    async def asked(most: int, *relations: str) -> Joined:
        return await reader.joined("buyer", JoinQuery(keys=["1", "2"], joins=of(*relations), max_bytes=most))

    found = await asked(1, "latest")
    assert (keys(found.rows), found.cut) == (["1"], "bytes")
    assert (shown(found, "latest"), cuts(found, "latest")) == ([[]], ["bytes"])
    found = await asked(4_700, "latest", "boss")
    assert (keys(found.rows), found.cut) == (["1", "2"], None)
    assert (shown(found, "latest"), cuts(found, "latest")) == ([["12", "11"], []], ["bytes", "bytes"])
    assert cuts(found, "boss") == ["bytes", "bytes"]
    found = await asked(6_000, "latest")
    assert (shown(found, "latest"), cuts(found, "latest")) == ([["12", "11", "10"], []], [None, "bytes"])
    by_value = JoinQuery(field="plan", values=["free"], max_bytes=2_500, joins=of("latest"))
    found = await reader.joined("buyer", by_value)
    assert (keys(found.rows), found.cut) == (["1", "2"], "bytes")


async def test_a_lead_follows_its_row(store: Store) -> None:
    tills = open_till(store)
    tills["buyer"].put(buyer(1, code="a"), buyer(2, code="b"))
    tills["buy"].put(buy("x", 1, code="a", placed=1), buy("y", 2, code="b", placed=2))
    reader = store.reader()

    async def seen() -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
        found = await reader.joined("buyer", JoinQuery(keys=["1", "2"], joins=of("coded", "latest", "dearest")))
        return shown(found, "coded"), shown(found, "latest"), shown(found, "dearest")

    assert await seen() == ([["x"], ["y"]],) * 3
    tills["buyer"].put(buyer(1, code="b"))
    assert await seen() == ([["y"], ["y"]], [["x"], ["y"]], [["y"], ["y"]])
    tills["buy"].put(buy("x", 2, code="b", placed=3, amount=5))
    assert await seen() == ([["x", "y"], ["x", "y"]], [[], ["x", "y"]], [["x", "y"], ["x", "y"]])
    tills["buy"].apply(tills["buy"].write(tills["buy"].partition("y"), deletes=["y"]))
    tills["buyer"].put(buyer(2, code=None))
    assert await seen() == ([["x"], []], [[], ["x"]], [["x"], []])
    partition = tills["buy"].partition("x")
    tills["buy"].apply(tills["buy"].write(partition, epoch=1))
    assert await seen() == ([[], []],) * 3
    flawed = tills["buyer"].partition(1)
    tills["buyer"].apply(tills["buyer"].write(flawed, flaws={"1": "bad"}))
    found = await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("coded")))
    assert found.rows[0].flaw == "bad"


async def test_what_can_not_be_followed_is_said(store: Store) -> None:
    writer = store.writer(*ENTITIES)
    till = Till(writer, BUYER)
    till.show(buyer(1))
    reader = store.reader()
    with pytest.raises(SnapshotPending) as refusal:
        await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("latest")))
    assert refusal.value.details["entity"] == "buy"
    Till(writer, BUY).show()
    with pytest.raises(InvalidArguments, match="boss, buys, coded"):
        await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("nowhere")))
    with pytest.raises(InvalidArguments):
        await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("buys", limit=0)))
    with pytest.raises(NotIndexed, match="plan"):
        await reader.joined("buyer", JoinQuery(field="code", values=["x"]))
    with pytest.raises(NotIndexed, match="state"):
        await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("buys", equals={"placed": 1})))


async def test_a_new_order_waits_until_its_index_is_whole(store: Store) -> None:
    plain = msgspec.structs.replace(BUY, groups=())
    writer = store.writer(BUYER, plain)
    Till(writer, BUYER).show(buyer(1))
    Till(writer, plain).show(buy("x", 1, placed=1))
    reader = store.reader()
    assert shown(await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("buys"))), "buys") == [["x"]]
    with pytest.raises(SnapshotPending, match="order"):
        await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("latest")))
    assert plain.build != BUY.build
    Till(store.writer(BUY), BUY).show(buy("x", 1, placed=1))
    assert shown(await reader.joined("buyer", JoinQuery(keys=["1"], joins=of("latest"))), "latest") == [["x"]]


async def test_both_sides_are_of_one_instant(store: Store) -> None:
    """One step moves what is bought from a buyer to the other and counts it in both rows."""
    tills = open_till(store)
    reader, stop = store.reader(), threading.Event()
    move(tills, 0)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(keep_moving, tills, stop)
        try:
            steps: set[int] = set()
            while len(steps) < 20 and not writing.done():
                found = await reader.joined("buyer", JoinQuery(keys=["1", "2"], joins=of("latest", "coded")))
                step = json.loads(found.rows[0].json)["step"]
                expected = [["a", "b"], []] if step % 2 else [[], ["a", "b"]]
                assert [sorted(group) for group in shown(found, "latest")] == expected
                assert shown(found, "coded") == expected
                steps.add(step)
        finally:
            stop.set()
        writing.result()
    assert len(steps) == 20


def move(tills: Mapping[str, Till], step: int) -> None:
    owner = 1 if step % 2 else 2
    rows = [buyer(n, step=step, code=f"{step}-{n}") for n in (1, 2)]
    buys = [buy(name, owner, placed=f"{step:06d}", code=f"{step}-{owner}") for name in ("a", "b")]
    writes = [
        tills[name].write(number, {str(row["id"]): row for row in each if tills[name].partition(row["id"]) == number})
        for name, each in (("buyer", rows), ("buy", buys))
        for number in range(tills[name].entity.partitions)
    ]
    tills["buyer"].writer.apply(writes)
    for write in writes:
        tills[write.entity].progress[write.partition] = write.progress


def keep_moving(tills: Mapping[str, Till], stop: threading.Event) -> None:
    for step in itertools.count(1):
        move(tills, step)
        if stop.is_set():
            return


async def test_what_relations_need_goes_with_its_rows(store: Store) -> None:
    tills = open_till(store)
    before = stored_entries(store)
    buyers = [buyer(n, code=f"c{n}", amount=n, favourite="x", mark=f"{n}", boss=1) for n in range(30)]
    buys = [buy(f"b{n}", n, code=f"c{n}", placed=n, amount=n, mark=f"{n}") for n in range(30)]
    tills["buyer"].put(*buyers)
    tills["buy"].put(*buys)
    for name, rows in (("buyer", buyers), ("buy", buys)):
        till = tills[name]
        till.put(*rows, generation=GENERATION + 1, complete=False)
        assert till.complete(GENERATION + 1)
        while till.writer.sweep(name, 50):
            pass
        for number in range(till.entity.partitions):
            till.apply(till.write(number, epoch=1))
        while till.writer.sweep(name, 50):
            pass
    assert stored_entries(store) <= before + 2 * len(ENTITIES) * 3


# --- counts ---------------------------------------------------------------------------------------


async def test_counts_of_values(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(n, plan="vip" if n % 3 else "free", paid=n % 2 == 0, balance=n % 5) for n in range(60)))
    reader = store.reader()

    async def count(most: int = 1_000, **equals: Any) -> tuple[int, bool]:
        found = await reader.count("customer", equals, most)
        return found.rows, found.more

    assert await count() == (60, False)
    assert await count(most=5) == (60, False), "without values the count is at hand"
    assert await count(plan="vip") == (40, False)
    assert await count(plan="none") == (0, False)
    assert await count(plan="vip", paid="true") == (20, False)
    assert await count(balance="2.0") == (12, False)
    assert await count(balance=2, paid=False, plan="vip") == (4, False)
    assert await count(most=40, plan="vip") == (40, False)
    assert await count(most=39, plan="vip") == (39, True)
    feed.apply(feed.write(1, {"3": customer(3, plan="vip")}, epoch=1))
    assert await count(plan="vip") == (21, False)
    assert await count(plan="vip", paid=True) == (20, False)
    assert await count(balance=1) == (6, False)
    with pytest.raises(NotIndexed):
        await count(note="x")


async def test_a_count_that_would_look_too_far_says_so(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(n, plan="p", paid=True) for n in range(400)))
    found = await store.reader().count("customer", {"plan": "p", "paid": True}, 300)
    assert found.more and found.rows <= 300
    assert not (await store.reader().count("customer", {"plan": "p", "paid": True}, 400)).more


# --- whatever comes -------------------------------------------------------------------------------

_examples = itertools.count()
_CODES = st.sampled_from([None, "", "a", "a\x00", "a\x01", "é" * 250])
_AMOUNTS = st.sampled_from([None, 1, "1.0", 1.0, "-2", "1e3", "1000"])
_IDS = st.sampled_from([None, 1, 2, 3])
_BUYER_ROW = st.fixed_dictionaries(
    {"code": _CODES, "amount": _AMOUNTS, "boss": _IDS, "favourite": st.sampled_from([None, "a", "b/"])}
)
_BUY_ROW = st.fixed_dictionaries(
    {"buyer": _IDS, "code": _CODES, "amount": _AMOUNTS, "placed": st.sampled_from([None, "2026-01-01", "2026-01-02"])}
)
_STEP = st.one_of(
    st.tuples(st.just("buyer"), st.integers(1, 3), _BUYER_ROW),
    st.tuples(st.just("buy"), st.sampled_from(["a", "b/", "c"]), _BUY_ROW),
    st.tuples(st.just("gone"), st.sampled_from(["a", "b/", "c"]), st.none()),
    st.tuples(st.just("truncate"), st.integers(0, 2), st.none()),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(steps=st.lists(_STEP, min_size=1, max_size=25))
def test_relations_lead_where_values_are_equal(place: tuple[str, Any], steps: list[tuple[Any, Any, Any]]) -> None:
    asyncio.run(compare(Store(*place).beside(f"j{next(_examples)}"), steps))


async def compare(store: Store, steps: Sequence[tuple[Any, Any, Any]]) -> None:
    try:
        tills = open_till(store)
        reader = store.reader()
        rows: dict[str, dict[str, Any]] = {"buyer": {}, "buy": {}}
        for name, key, fields in steps:
            do(tills, rows, name, key, fields)
        await check(reader, rows)
    finally:
        await store.close()


def do(tills: Mapping[str, Till], rows: dict[str, dict[str, Any]], name: str, key: Any, fields: Any) -> None:
    till = tills["buyer" if name == "buyer" else "buy"]
    if name == "truncate":
        till.apply(till.write(key, epoch=till.progress[key].epoch + 1))
        rows["buy"] = {each: row for each, row in rows["buy"].items() if till.partition(row["id"]) != key}
        return
    text = str(key).replace("/", "%2F")
    puts = {text: {"id": key, **fields}} if fields is not None else {}
    till.apply(till.write(till.partition(key), puts, deletes=[] if puts else [text]))
    rows[till.entity.name].pop(text, None)
    rows[till.entity.name] |= puts


async def check(reader: Reader, rows: Mapping[str, Mapping[str, Any]]) -> None:
    for entity in ENTITIES:
        names = [relation.name for relation in entity.relations]
        asked = sorted(rows[entity.name])
        found = await reader.joined(entity.name, JoinQuery(keys=asked, joins=of(*names)))
        assert keys(found.rows) == asked
        for name in names:
            assert shown(found, name) == [led_to(rows, name, rows[entity.name][key]) for key in asked], name


def led_to(rows: Mapping[str, Mapping[str, Any]], name: str, row: Mapping[str, Any]) -> list[str]:
    """By looking at every row."""
    relation = RELATIONS[name]
    wanted = row.get(relation.field)
    if wanted is None:
        return []
    numeric = relation.target_type in ("integer", "decimal")
    others = rows[relation.entity]
    found = sorted(key for key, other in others.items() if same(numeric, other.get(relation.target_field), wanted))
    if relation.order_by is None:
        return found
    order = relation.order_by
    return sorted(found, key=lambda key: (rank(others[key].get(order), order), key), reverse=True)


def same(numeric: bool, one: Any, other: Any) -> bool:
    if one is None or not numeric:
        return bool(one == other)
    return Decimal(str(one)) == Decimal(str(other))


def rank(value: Any, field: str) -> tuple[bool, Any]:
    if value is None:
        return False, 0
    return True, Decimal(str(value)) if field == "amount" else value
