"""How fresh each entity is, and why."""

from __future__ import annotations

import pytest

from headgate.errors import UnknownEntity
from headgate.testing import NOW_MS, MemoryReader, MemoryState, view_of
from headgate.tools.base import Result
from tests.unit.tools.shop import call, progress, reader, shop_view


def states(result: Result) -> dict[str, str]:
    """entity → state."""
    return {each["entity"]: each["freshness"]["state"] for each in result.structured["entities"]}


async def test_every_state_is_told_apart() -> None:
    store = reader()
    store.mark_pending("customer")
    store.set_progress("order", 0, progress(NOW_MS - 75_000))
    store.set_progress("order_line", 0, progress(0))
    result = await call("check_data_freshness", {}, shop_view(store))
    assert states(result) == {"customer": "snapshotting", "order": "stale", "order_line": "unknown"}
    stopped = await call("check_data_freshness", {"entity": "order"}, shop_view(store, MemoryState()))
    assert states(stopped) == {"order": "stopped"}
    assert "because its pipeline, or this part of it, does not run" in stopped.text


async def test_a_clock_that_is_ahead_is_said() -> None:
    store = reader()
    store.set_progress("order", 0, progress(NOW_MS + 60_000))
    result = await call("check_data_freshness", {"entity": "order"}, shop_view(store))
    assert states(result) == {"order": "unknown"}
    assert "its source's clock is ahead of this server's" in result.text


async def test_the_answer_names_time_bound_and_position() -> None:
    store = reader()
    store.set_progress("order", 0, progress(NOW_MS - 75_000, offset=42))
    result = await call("check_data_freshness", {"entity": "order"}, shop_view(store))
    [order] = result.structured["entities"]
    assert order["freshness"] == {
        "state": "stale",
        "as_of": "2026-11-21T02:00:00Z",
        "staleness_ms": 75_000,
        "bound_ms": 30_000,
    }
    assert order["position"] == {"0": 42} and order["pipeline"] == "shop"
    assert order["explanation"].startswith("Note: this data may be out of date")


async def test_fresh_data_says_by_how_much() -> None:
    result = await call("check_data_freshness", {"entity": "order"})
    assert result.text == "order: fresh, 500 ms behind its source at most (bound 30 s)."


async def test_without_entities_it_says_so() -> None:
    result = await call("check_data_freshness", {}, view_of(MemoryReader([])))
    assert result.structured == {"entities": []} and result.text == "There is no entity yet."


async def test_an_unknown_entity_names_the_known_ones() -> None:
    with pytest.raises(UnknownEntity, match="customer, order, order_line"):
        await call("check_data_freshness", {"entity": "x"})
