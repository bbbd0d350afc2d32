"""How data flows, and why it does not."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.errors import InvalidArguments, UnknownPipeline
from headgate.model.pipeline import UNRECORDED
from headgate.testing import NOW_MS, MemoryState, grant_of
from tests.unit.tools.shop import call, fault, letter, progress, reader, report, running, shop_view, tool


async def test_the_list_says_what_flows_where_and_how_fast() -> None:
    result = await call("list_pipelines", {})
    assert result.structured == {
        "status_filter": "all",
        "pipelines": [
            {
                "pipeline_id": "shop",
                "status": "running",
                "desired": "running",
                "source": "sqlite: shop.db",
                "destination": "sqlite",
                "entities": ["customer", "order", "order_line"],
                "events_per_s": 80.0,
                "lag_ms": 50_000,
                "faults": [],
            }
        ],
    }
    assert result.text == "shop: running; sqlite (shop.db) to sqlite; 80 changes/s applied; lag 50 s"


@pytest.mark.parametrize("state", ["running", "paused", "error", "snapshotting"])
async def test_the_filter_keeps_one_status(state: Any) -> None:
    shared = MemoryState()
    shared.report(report("capture"))
    shared.report(report("materialize", state))
    view = shop_view(state=shared)
    assert len((await call("list_pipelines", {"status_filter": state}, view)).structured["pipelines"]) == 1
    other = await call("list_pipelines", {"status_filter": "stopped"}, view)
    assert other.structured["pipelines"] == []
    assert other.text == f"No pipeline is stopped. There are: 1 {state}."


async def test_a_pipeline_that_nobody_runs_is_stopped() -> None:
    result = await call("list_pipelines", {"status_filter": "stopped"}, shop_view(state=MemoryState()))
    assert [each["pipeline_id"] for each in result.structured["pipelines"]] == ["shop"]


async def test_an_unknown_filter_names_the_ones_there_are() -> None:
    with pytest.raises(InvalidArguments, match="status_filter must be one of 'running', 'paused'"):
        await tool("list_pipelines").run(shop_view(), {"status_filter": "broken"})


async def test_the_detail_sets_the_sources_throughput_beside_ours() -> None:
    result = await call("get_pipeline_detail", {"pipeline_id": "shop"})
    detail = result.structured
    assert detail["capture"]["events_per_s"] == 120.0 and detail["materialize"]["events_per_s"] == 80.0
    assert detail["capture"]["bytes_per_s"] == 9_000.0 and detail["materialize"]["bytes_per_s"] == 6_000.0
    assert detail["materialize"]["lag_records"] == 4_000 and detail["materialize"]["lag_ms"] == 50_000
    assert detail["materialize"]["batch_size"] == 500 and detail["materialize"]["flush_interval_ms"] == 20.0
    assert detail["capture"]["last_event"] == "2026-11-21T02:01:14Z"
    assert detail["source"] == {"kind": "sqlite", "where": "shop.db", "tables": ["main.customers", "main.orders"]}
    assert detail["freshness"]["state"] == "fresh" and detail["snapshot"] is None and detail["faults"] == []
    assert "lag 4000 records, 50 s" in result.text


async def test_the_detail_shows_the_snapshots_progress() -> None:
    store, state = reader(), running()
    store.mark_pending("order")
    state.report(report("capture", "snapshotting", snapshot_done=1_200, snapshot_total=5_000))
    result = await call("get_pipeline_detail", {"pipeline_id": "shop"}, shop_view(store, state))
    assert result.structured["status"] == "snapshotting"
    assert result.structured["snapshot"] == {"rows_done": 1_200, "rows_total": 5_000}
    assert result.structured["freshness"]["state"] == "snapshotting"
    assert "1200 of about 5000 rows read" in result.text


async def test_what_the_detail_shows_needs_no_right_to_the_data() -> None:
    result = await call("get_pipeline_detail", {"pipeline_id": "shop"}, shop_view(grant=grant_of("pipelines:read")))
    assert result.structured["freshness"]["state"] == "fresh"


async def test_errors_are_the_faults_and_the_dead_letters() -> None:
    store, state = reader(), running()
    store.add_dead_letter(letter(1))
    store.add_dead_letter(letter(2))
    store.add_dead_letter(letter(3, pipeline="other"))
    state.report(report("materialize", "error", fault=fault()))
    result = await call("get_pipeline_errors", {"pipeline_id": "shop"}, shop_view(store, state))
    errors = result.structured
    assert errors["status"] == "error"
    assert errors["faults"] == [
        {
            "half": "materialize",
            "code": "schema_mismatch",
            "message": "The table was altered: mend the entity.",
            "since": "2026-11-21T02:00:15Z",
        }
    ]
    assert [each["offset"] for each in errors["dead_letters"]] == [2, 1]
    assert errors["dead_letters"][0]["id"] == "order/shop.main.orders/0/2"
    assert errors["dead_letters"][0]["key"] == {"id": "9007199254740993"}
    assert errors["dead_letters_total"] == 2 and "truncated" not in errors
    assert "raw payload" not in str(errors) and "raw payload" not in result.text


async def test_more_dead_letters_than_asked_for_are_counted() -> None:
    store = reader()
    for number in range(5):
        store.add_dead_letter(letter(number))
    result = await call("get_pipeline_errors", {"pipeline_id": "shop", "limit": 2}, shop_view(store))
    assert result.structured["dead_letters_total"] == 5
    assert result.structured["truncated"] == {"reason": "rows", "returned": 2, "cursor": None}
    assert "5 dead letters" in result.text and "the newest 2 follow" in result.text


async def test_large_dead_letters_are_bounded_in_bytes() -> None:
    store = reader()
    for number in range(5):
        store.add_dead_letter(letter(number, key=b'{"id":"%s"}' % (b"x" * 100_000)))
    result = await call("get_pipeline_errors", {"pipeline_id": "shop"}, shop_view(store))
    assert result.structured["truncated"] == {"reason": "bytes", "returned": 2, "cursor": None}


@pytest.mark.parametrize(("key", "shown"), [(None, None), (b"\xff not json", "\ufffd not json")])
async def test_a_key_that_is_no_json_is_shown_as_text(key: bytes | None, shown: str | None) -> None:
    store = reader()
    store.add_dead_letter(letter(key=key))
    result = await call("get_pipeline_errors", {"pipeline_id": "shop"}, shop_view(store))
    assert result.structured["dead_letters"][0]["key"] == shown


async def test_a_pipeline_without_errors_says_so() -> None:
    result = await call("get_pipeline_errors", {"pipeline_id": "shop"})
    assert result.text == "shop is running and has no errors."


@pytest.mark.parametrize("name", ["get_pipeline_detail", "get_pipeline_errors"])
async def test_an_unknown_pipeline_names_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownPipeline, match="Pipelines: shop"):
        await call(name, {"pipeline_id": "shopp"})
    with pytest.raises(UnknownPipeline, match="none yet"):
        await call(name, {"pipeline_id": "shop"}, shop_view(grant=grant_of("data:read")))
    with pytest.raises(InvalidArguments, match="pipeline_id is required"):
        await tool(name).run(shop_view(), {})


async def test_why_orders_are_slow_is_told_by_these_tools_alone() -> None:
    """The list points at a pipeline, the detail at a half, the errors at what to mend."""
    store, state = reader(), running()
    store.set_progress("order", 0, progress(NOW_MS - 90_000))
    store.add_dead_letter(letter())
    state.report(report("materialize", "error", lag_records=12_000, lag_ms=90_000, fault=fault()))
    view = shop_view(store, state)
    [listed] = (await call("list_pipelines", {"status_filter": "error"}, view)).structured["pipelines"]
    assert listed["faults"] == ["schema_mismatch"] and listed["lag_ms"] == 90_000
    detail = await call("get_pipeline_detail", {"pipeline_id": listed["pipeline_id"]}, view)
    assert detail.structured["materialize"]["status"] == "error"
    assert detail.structured["materialize"]["lag_records"] == 12_000
    assert detail.structured["freshness"]["state"] == "stopped" and detail.structured["dead_letters"] == 1
    errors = await call("get_pipeline_errors", {"pipeline_id": listed["pipeline_id"]}, view)
    assert "mend the entity" in errors.text and "schema_mismatch" in errors.text


async def test_calls_without_a_record_are_said() -> None:
    state = running()
    assert "unrecorded_calls" not in (await call("list_pipelines", {}, shop_view(state=state))).structured
    state.put(f"{UNRECORDED}w-1", b"3")
    state.put(f"{UNRECORDED}w-2", b"4")
    result = await call("list_pipelines", {}, shop_view(state=state))
    assert result.structured["unrecorded_calls"] == 7
    assert "WITHOUT A RECORD: 7 calls" in result.text
