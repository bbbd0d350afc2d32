"""What readers get, from which index, page by page."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from headgate.errors import InvalidArguments, NotIndexed
from headgate.stores.base import Query, Range, Reader
from tests.contracts.stores.cases import Store, customer, keys

BALANCES = {1: "12.50", 2: "-3", 3: None, 4: "100000000000000000000.01", 5: "12.5", 6: "0.00", 7: "-3.1"}
BY_BALANCE = ["3", "7", "2", "6", "1", "5", "4"]


def ledger() -> list[dict[str, Any]]:
    """Customers with balances, plans and times."""
    seen = {1: "2026-01-01T00:00:00.5Z", 2: "2026-01-01T00:00:00Z", 3: "2025-12-31T23:59:59Z", 4: "2026-01-01 00:00:01"}
    plans = ["free", "vip"]
    return [
        customer(
            number,
            balance=balance,
            plan=plans[number % 2],
            number=number * 10,
            paid=number < 4,
            seen=seen.get(number),
            email=None if number == 7 else f"c{number}@x",
        )
        for number, balance in BALANCES.items()
    ]


async def every_page(reader: Reader, query: Query) -> list[str]:
    """All keys of a query, a page after the other; no page but the last is without a reason."""
    found: list[str] = []
    while True:
        page = await reader.find("customer", query)
        found += keys(page.rows)
        assert (page.cut is None) == (page.cursor is None)
        if page.cursor is None:
            return found
        query = msgspec.structs.replace(query, after=page.cursor)


CASES: list[tuple[Query, list[str]]] = [
    (Query(), ["1", "2", "3", "4", "5", "6", "7"]),
    (Query(direction="desc"), ["7", "6", "5", "4", "3", "2", "1"]),
    (Query(order="balance"), BY_BALANCE),
    (Query(order="balance", direction="desc"), BY_BALANCE[::-1]),
    (Query(order="seen"), ["5", "6", "7", "3", "2", "1", "4"]),
    (Query(equals={"balance": "12.500"}), ["1", "5"]),
    (Query(equals={"balance": 12.5}, direction="desc"), ["5", "1"]),
    (Query(equals={"balance": None}), ["3"]),
    (Query(equals={"balance": "no number"}), []),
    (Query(equals={"number": "40"}), ["4"]),
    (Query(equals={"number": 40.0}), ["4"]),
    (Query(equals={"number": "1e999999999"}), []),
    (Query(equals={"paid": "true"}), ["1", "2", "3"]),
    (Query(equals={"paid": False}), ["4", "5", "6", "7"]),
    (Query(equals={"email": None}), ["7"]),
    (Query(equals={"email": "\ud800"}), []),
    (Query(equals={"seen": "2026-01-01 00:00:00+00:00"}), ["2"]),
    (Query(ranges={"balance": Range(lt=0)}), ["7", "2"]),
    (Query(ranges={"balance": Range(le="-3")}), ["7", "2"]),
    (Query(ranges={"balance": Range(gt=-3, lt="12.5")}), ["6"]),
    (Query(ranges={"balance": Range(ge=12.5)}), ["1", "5", "4"]),
    (Query(ranges={"balance": Range(gt=5, lt=1)}), []),
    (Query(ranges={"balance": Range(ge=0, gt=0, le=20, lt=13)}), ["1", "5"]),
    (Query(ranges={"seen": Range(ge="2026-01-01")}), ["2", "1", "4"]),
    (Query(ranges={"balance": Range(ge=0)}, equals={"plan": "vip"}), ["1", "5"]),
    (Query(ranges={"balance": Range(ge=0)}, equals={"plan": "vip"}, order="balance", direction="desc"), ["5", "1"]),
    (Query(equals={"plan": "free", "paid": False}), ["4", "6"]),
    (Query(equals={"plan": "free", "paid": False, "balance": 0}, order="seen"), ["6"]),
    (Query(equals={"balance": 12.5}, ranges={"balance": Range(lt=5)}), []),
    (Query(equals={"balance": 12.5}, order="balance", direction="desc"), ["5", "1"]),
    (Query(ranges={"balance": Range(lt=20), "seen": Range(lt="2026-01-01T00:00:00.5")}, order="seen"), ["2"]),
    (Query(ranges={"balance": Range()}), BY_BALANCE[1:]),
]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_finds_exactly_what_was_asked_for_in_order(store: Store, limit: int) -> None:
    store.feed().show(*ledger())
    reader = store.reader()
    for query, expected in CASES:
        assert await every_page(reader, msgspec.structs.replace(query, limit=limit)) == expected, query


async def test_the_last_page_is_not_cut(store: Store) -> None:
    store.feed().show(*ledger())
    reader = store.reader()
    page = await reader.find("customer", Query(limit=7))
    assert (len(page.rows), page.cut, page.cursor) == (7, None, None)
    page = await reader.find("customer", Query(limit=6))
    assert (len(page.rows), page.cut) == (6, "rows")


async def test_bytes_bound_a_page_that_has_a_row_at_least(store: Store) -> None:
    store.feed().show(*(customer(number, note="x" * 1000) for number in range(1, 6)))
    reader = store.reader()
    page = await reader.find("customer", Query(max_bytes=2500))
    assert (keys(page.rows), page.cut) == (["1", "2"], "bytes")
    for query in (Query(max_bytes=1), Query(max_bytes=1, order="balance", direction="desc")):
        page = await reader.find("customer", query)
        assert (len(page.rows), page.cut) == (1, "bytes")
        assert sorted(await every_page(reader, query)) == ["1", "2", "3", "4", "5"]


async def test_a_page_that_would_look_too_far_ends_with_a_cursor(store: Store) -> None:
    """Two order filters: one index is read, the other filter is checked on its rows."""
    feed = store.feed()
    for start in range(0, 10_400, 400):
        feed.put(*(customer(number, balance=number, seen=f"{number:06d}") for number in range(start, start + 400)))
    assert feed.complete()
    reader = store.reader()
    rare = Query(order="balance", ranges={"seen": Range(ge="010395")})
    page = await reader.find("customer", rare)
    assert (page.rows, page.cut) == ([], "time")
    assert await every_page(reader, rare) == [str(number) for number in range(10_395, 10_400)]
    near = Query(order="balance", ranges={"seen": Range(ge="002000")}, limit=3)
    page = await reader.find("customer", near)
    assert (keys(page.rows), page.cut) == (["2000", "2001", "2002"], "rows")


async def test_a_cursor_stays_good_while_rows_come_and_go(store: Store) -> None:
    feed = store.feed()
    feed.show(*(customer(number, balance=number) for number in range(10, 20)))
    reader = store.reader()
    page = await reader.find("customer", Query(order="balance", limit=4))
    feed.apply(feed.write(1, {"11": customer(11, balance=99)}, ["13", "15"]))
    feed.put(customer(21, balance=1))
    page = await reader.find("customer", Query(order="balance", limit=4, after=page.cursor))
    assert keys(page.rows) == ["14", "16", "17", "18"]


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "k6EwxAChMQ", "=" * 9, "\ud800"])
async def test_what_is_no_cursor_is_refused(store: Store, cursor: str) -> None:
    store.feed().show(*ledger())
    with pytest.raises(InvalidArguments):
        await store.reader().find("customer", Query(after=cursor))


async def test_the_cursor_of_another_query_is_refused(store: Store) -> None:
    store.feed().show(*ledger())
    reader = store.reader()
    cursor = (await reader.find("customer", Query(order="balance", limit=2))).cursor
    for other in (
        Query(),
        Query(order="seen"),
        Query(order="balance", direction="desc"),
        Query(equals={"plan": "vip"}),
    ):
        with pytest.raises(InvalidArguments):
            await reader.find("customer", msgspec.structs.replace(other, after=cursor))
    page = await reader.find("customer", Query(order="balance", limit=1, after=cursor))
    assert keys(page.rows) == BY_BALANCE[2:3]
    with pytest.raises(InvalidArguments):
        await reader.find("customer", Query(limit=0))


async def test_a_field_without_index_is_named_with_those_that_have_one(store: Store) -> None:
    store.feed().show(*ledger())
    reader = store.reader()
    for query in (Query(equals={"note": 1}), Query(equals={"nothing": 1, "plan": "vip"})):
        with pytest.raises(NotIndexed, match="balance, email, number, paid, plan, seen"):
            await reader.find("customer", query)
    for query in (Query(order="plan"), Query(ranges={"number": Range(ge=1)})):
        with pytest.raises(NotIndexed, match="balance, seen"):
            await reader.find("customer", query)
    with pytest.raises(NotIndexed, match="email"):
        await reader.lookup("customer", "note", ["x"], 1)


async def test_look_ups_by_several_values_in_key_order(store: Store) -> None:
    store.feed().show(*ledger())
    reader = store.reader()
    found = await reader.lookup("customer", "number", ["30", 10, 10.0, "20", 99], 9)
    assert (keys(found.rows), found.cut) == (["1", "2", "3"], None)
    found = await reader.lookup("customer", "plan", ["free", "vip"], 5)
    assert (keys(found.rows), found.cut) == (["1", "2", "3", "4", "5"], "rows")
    found = await reader.lookup("customer", "balance", ["12.5", None], 9)
    assert keys(found.rows) == ["1", "3", "5"]
    assert (await reader.lookup("customer", "plan", [], 9)).rows == []


async def test_long_and_odd_texts_are_found_by_their_whole_value(store: Store) -> None:
    texts = ["é" * 300, "é" * 300 + "!", "a\x00b", "a", "a\x01", "", "n", " a"]
    store.feed().show(*(customer(number, email=text, seen=text) for number, text in enumerate(texts)))
    reader = store.reader()
    for number, text in enumerate(texts):
        assert keys((await reader.lookup("customer", "email", [text], 9)).rows) == [str(number)]
        assert keys((await reader.find("customer", Query(equals={"seen": text}))).rows) == [str(number)]
    order = [str(texts.index(text)) for text in sorted(texts)]
    assert keys((await reader.find("customer", Query(order="seen"))).rows) == order


async def test_get_answers_in_the_order_of_the_keys(store: Store) -> None:
    store.feed().show(*ledger())
    asked = ["7", "none", "", "\ud800", "ü", "x" * 5000, "2", "2", "1\x00"]
    assert keys((await store.reader().get("customer", asked)).rows) == ["7", "2", "2"]
    assert (await store.reader().get("customer", [])).rows == []


async def test_random_values_order_as_numbers(store: Store) -> None:
    dice = random.Random(7)
    numbers = {number: dice.choice([-1, 1]) * dice.random() * 10 ** dice.randint(-20, 20) for number in range(300)}
    store.feed().show(*(customer(key, balance=repr(number)) for key, number in numbers.items()))
    expected = [str(key) for key in sorted(numbers, key=lambda key: numbers[key])]
    assert await every_page(store.reader(), Query(order="balance", limit=70)) == expected
