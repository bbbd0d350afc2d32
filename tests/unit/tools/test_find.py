"""Rows by conditions, in order, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.errors import CallError, InvalidArguments, NotIndexed, SnapshotPending, UnknownEntity
from headgate.testing import NOW_MS
from headgate.tools.base import Result
from tests.unit.tools.shop import Draft202012Validator, call, reader, shop_view, tool


def ids(result: Result) -> list[int]:
    """The found rows' ids, in their order."""
    return [row["values"]["id"] for row in result.structured["rows"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"where": {"status": "open"}}, [5, 6, 7, 8]),
        ({"where": {"status": "open", "customer_id": "7"}}, [5, 7]),
        ({"where": {"status": None}}, []),
        ({"where": {"total": {"gt": 20.5, "le": "50.5"}}}, [3, 4, 5]),
        ({"where": {"total": {"ge": 20.5, "lt": "50.50"}}}, [2, 3, 4]),
        ({"where": {"total": 20.5}}, [2]),
        ({"where": {"placed_at": {"ge": "2026-11-06"}, "status": "open"}}, [6, 7, 8]),
        ({"order_by": "total", "descending": True, "limit": 3}, [8, 7, 6]),
        ({"order_by": "placed_at", "where": {"status": "paid"}}, [1, 2, 3, 4]),
    ],
)
async def test_conditions_and_order(arguments: dict[str, Any], expected: list[int]) -> None:
    assert ids(await call("find", {"entity": "order", **arguments})) == expected


async def test_decimals_order_by_value_and_not_by_text() -> None:
    store = reader()
    store.put("order", {"id": 100, "total": "100.50"})
    result = await call("find", {"entity": "order", "order_by": "total", "descending": True}, shop_view(store))
    assert ids(result) == [100, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_pages_join_without_gap_or_overlap() -> None:
    arguments: dict[str, Any] = {"entity": "order", "order_by": "total", "descending": True, "limit": 3}
    seen: list[int] = []
    page = await call("find", arguments)
    while "truncated" in page.structured:
        cut = page.structured["truncated"]
        assert (cut["reason"], cut["returned"]) == ("rows", 3)
        assert f'cursor "{cut["cursor"]}"' in page.text
        seen += ids(page)
        page = await call("find", {**arguments, "cursor": cut["cursor"]})
    assert seen + ids(page) == [8, 7, 6, 5, 4, 3, 2, 1]


async def test_a_page_is_bounded_in_bytes_and_goes_on_after_the_cut() -> None:
    store = reader()
    for number in range(20, 26):
        store.put("order", {"id": number, "status": "x" * 100_000, "placed_at": f"2027-01-{number}T00:00:00Z"})
    view = shop_view(store)
    arguments = {"entity": "order", "where": {"placed_at": {"gt": "2027"}}, "order_by": "placed_at"}
    first = await call("find", arguments, view)
    assert ids(first) == [20, 21]
    assert first.structured["truncated"]["reason"] == "bytes"
    assert "bound on an answer's bytes" in first.text
    second = await call("find", {**arguments, "cursor": first.structured["truncated"]["cursor"]}, view)
    assert ids(second) == [22, 23]


async def test_nothing_found_is_said() -> None:
    result = await call("find", {"entity": "order", "where": {"status": "lost"}})
    assert result.structured == {"entity": "order", "rows": []}
    assert result.text == "No 'order' row matches."


async def test_flaws_and_staleness_are_said() -> None:
    store = reader(as_of_ms=NOW_MS - 75_000)
    store.put("order", {"id": 1, "status": "paid"}, flaw="change_undecodable")
    result = await call("find", {"entity": "order", "limit": 1}, shop_view(store))
    assert result.structured["rows"][0]["flaw"] == "change_undecodable"
    assert result.text.startswith("Note: this data may be out of date: it shows the source as of 2026-11-21T02:00:00Z")
    assert "Do not trust headgate://entity/order/1" in result.text


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"entity": "odrer"}, UnknownEntity, "customer, order, order_line"),
        ({"entity": "order", "where": {"id": 7}}, NotIndexed, "its key (id) is asked for by lookup"),
        ({"entity": "order", "where": {"status": {"gt": "a"}}}, NotIndexed, "a range or an order: placed_at, total"),
        ({"entity": "order", "order_by": "status"}, NotIndexed, "a range or an order: placed_at, total"),
        ({"entity": "order", "where": {"sttus": "a"}}, InvalidArguments, "customer_id, placed_at, status, total"),
        ({"entity": "order", "where": {"total": {"above": 1}}}, InvalidArguments, "some of gt, ge, lt, le"),
        ({"entity": "order", "where": {"total": {}}}, InvalidArguments, "some of gt, ge, lt, le"),
        ({"entity": "order", "where": {"total": {"gt": 1, "ge": 1}}}, InvalidArguments, "one lower and one upper"),
        ({"entity": "order", "where": {"total": {"gt": "much"}}}, InvalidArguments, "has a bound that must be a num"),
        ({"entity": "order", "where": {"total": [1]}}, InvalidArguments, "where.total must be a number"),
        ({"entity": "order", "where": {"customer_id": 1.5}}, InvalidArguments, "customer_id must be a whole number"),
        ({"entity": "order", "where": "status"}, InvalidArguments, "where must be an object"),
        ({"entity": "order", "descending": True}, InvalidArguments, "descending needs order_by"),
        ({"entity": "order", "limit": 0}, InvalidArguments, "limit must be at least 1"),
        ({"entity": "order", "limit": 1001}, InvalidArguments, "limit must be at most 1000"),
        ({"entity": "order", "limit": "many"}, InvalidArguments, "limit must be a whole number"),
        ({"entity": "order", "cursor": "nonsense"}, InvalidArguments, "cursor"),
        ({"entity": "order", "offset": 3}, InvalidArguments, "'offset' is no argument of this tool"),
    ],
)
async def test_what_does_not_fit_is_said_in_words_to_act_on(
    arguments: dict[str, Any], error: type[CallError], said: str
) -> None:
    with pytest.raises(error) as raised:
        await tool("find").run(shop_view(), arguments)
    assert said in raised.value.message


async def test_a_cursor_holds_for_its_own_query_alone() -> None:
    first = await call("find", {"entity": "order", "order_by": "total", "limit": 2})
    cursor = first.structured["truncated"]["cursor"]
    with pytest.raises(InvalidArguments, match="another query"):
        await call("find", {"entity": "order", "order_by": "placed_at", "limit": 2, "cursor": cursor})


async def test_an_entity_without_a_snapshot_is_not_empty() -> None:
    store = reader()
    store.mark_pending("order")
    with pytest.raises(SnapshotPending):
        await call("find", {"entity": "order"}, shop_view(store))


def test_the_schema_refuses_what_the_tool_refuses() -> None:
    validator = Draft202012Validator(tool("find").input_schema)
    assert validator.is_valid({"entity": "order", "where": {"status": "paid", "total": {"ge": 1}}})
    assert not validator.is_valid({"where": {}})
    assert not validator.is_valid({"entity": "order", "where": {"total": {"above": 1}}})
    assert not validator.is_valid({"entity": "order", "limit": 0})
