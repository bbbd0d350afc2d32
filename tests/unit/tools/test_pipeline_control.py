"""The tools that change a pipeline's life: what they ask of its processes, and what they say of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headgate.access.control import Control
from headgate.errors import Forbidden, InvalidArguments, UnknownPipeline
from headgate.model.pipeline import LetterRequest, letter_requests, resnapshot_requests
from headgate.testing import MemoryState, fixed_clock, grant_of
from tests.unit.tools.shop import call, fault, letter, reader, report, running, shop_view, tool

ASKING = ["pause_pipeline", "resume_pipeline", "restart_pipeline"]
LETTERS = ["retry_dead_letters", "drop_dead_letters"]


def control(state: MemoryState) -> Control:
    return Control(state, "shop", fixed_clock())


async def test_pausing_says_what_will_be_seen_and_what_the_source_keeps() -> None:
    state = running()
    result = await call("pause_pipeline", {"pipeline_id": "shop"}, shop_view(state=state))
    assert result.structured == {
        "pipeline_id": "shop", "asked": "pause", "is_news": True, "status": "running", "desired": "paused",
    }  # fmt: skip
    assert "list_pipelines" in result.text and "WAL" in result.text
    assert control(state).desired().paused
    again = await call("pause_pipeline", {"pipeline_id": "shop"}, shop_view(state=state))
    assert (again.structured["is_news"], again.structured["desired"]) == (False, "paused")
    back = await call("resume_pipeline", {"pipeline_id": "shop"}, shop_view(state=state))
    assert (back.structured["is_news"], back.structured["desired"]) == (True, "running")


async def test_restarting_counts() -> None:
    state = running()
    for _ in range(2):
        assert (await call("restart_pipeline", {"pipeline_id": "shop"}, shop_view(state=state))).structured["is_news"]
    assert control(state).desired().restarts == 2


async def test_a_pipeline_that_nobody_runs_is_told_so() -> None:
    result = await call("resume_pipeline", {"pipeline_id": "shop"}, shop_view(state=MemoryState()))
    assert "No process runs this pipeline" in result.text


async def test_what_is_wanted_shows_beside_what_is() -> None:
    state = running()
    control(state).pause()
    (summary,) = (await call("list_pipelines", {}, shop_view(state=state))).structured["pipelines"]
    assert (summary["status"], summary["desired"]) == ("running", "paused")
    detail = await call("get_pipeline_detail", {"pipeline_id": "shop"}, shop_view(state=state))
    assert detail.structured["desired"] == "paused" and "resume_pipeline" in detail.text


async def test_a_table_is_asked_for_once_until_it_is_begun() -> None:
    state = running()
    state.put("table/shop/main.orders", b"{}")
    given = {"pipeline_id": "shop", "table": "main.orders"}
    assert (await call("resnapshot_table", given, shop_view(state=state))).structured["is_news"]
    assert not (await call("resnapshot_table", given, shop_view(state=state))).structured["is_news"]
    assert list(state.scan(resnapshot_requests("shop"))) == ["resnapshot/shop/main.orders"]
    with pytest.raises(InvalidArguments, match=r"main\.orders"):
        await call("resnapshot_table", {"pipeline_id": "shop", "table": "nothing"}, shop_view(state=state))


@pytest.mark.parametrize("name", LETTERS)
async def test_letters_are_asked_for(name: str) -> None:
    state, store = running(), reader()
    store.add_dead_letter(letter(1))
    given = {"pipeline_id": "shop", "ids": [letter(1).id]}
    result = await call(name, given, shop_view(store, state))
    assert (result.structured["asked"], result.structured["dead_letters_total"]) == (name.split("_")[0], 1)
    await call(name, {"pipeline_id": "shop", "all": True}, shop_view(store, state))
    entries = state.scan(letter_requests("shop")).values()
    asked = [msgspec.json.decode(entry.value, type=LetterRequest) for entry in entries]
    assert sorted((each.ids, each.every) for each in asked) == [((), True), ((letter(1).id,), False)]


@pytest.mark.parametrize("given", [{}, {"ids": ["x"], "all": True}, {"ids": []}, {"all": False}])
@pytest.mark.parametrize("name", LETTERS)
async def test_either_ids_or_all(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        await tool(name).run(shop_view(), {"pipeline_id": "shop", **given})


async def test_a_pipeline_that_stands_still_does_it_later() -> None:
    result = await call("drop_dead_letters", {"pipeline_id": "shop", "all": True}, shop_view(state=MemoryState()))
    assert "It is stopped, and does so once it runs." in result.text


@pytest.mark.parametrize("name", [*ASKING, "resnapshot_table", *LETTERS])
async def test_asking_needs_the_scope_and_is_no_read(name: str) -> None:
    assert tool(name).scopes == {"pipelines:read", "pipelines:write"}
    assert not tool(name).annotations.read_only
    assert tool(name).annotations.destructive == (name == "drop_dead_letters")
    assert tool(name).annotations.idempotent == (name != "restart_pipeline")
    given: dict[str, Any] = {"pipeline_id": "shop"}
    given |= {"table": "x"} if name == "resnapshot_table" else {"all": True} if name in LETTERS else {}
    with pytest.raises(Forbidden):
        await tool(name).run(shop_view(grant=grant_of("pipelines:read", "data:read")), given)
    with pytest.raises(UnknownPipeline):
        await tool(name).run(shop_view(), {**given, "pipeline_id": "nowhere"})


async def test_the_detail_shows_each_process_and_its_share() -> None:
    state = MemoryState()
    state.report(report("capture"))
    for number in (1, 2):
        state.report(report("materialize", process=f"m{number}", partitions=number, events_per_s=5.0, lag_records=7))
    result = await call("get_pipeline_detail", {"pipeline_id": "shop"}, shop_view(state=state))
    members = result.structured["materialize"]["members"]
    assert [(member["process"], member["partitions"]) for member in members] == [("m1", 1), ("m2", 2)]
    assert "m2: running, 2 partitions" in result.text


async def test_an_entity_that_stands_still_is_listed_and_its_data_is_stopped() -> None:
    state = MemoryState()
    halted = msgspec.structs.replace(fault(), entity="order", letter="order/shop.main.orders/0/7")
    state.report(report("capture"))
    state.report(report("materialize", tables=(halted,)))
    view = shop_view(reader(as_of_ms=1), state)
    (listed,) = (await call("get_pipeline_errors", {"pipeline_id": "shop"}, view)).structured["faults"]
    assert (listed["entity"], listed["dead_letter"]) == ("order", "order/shop.main.orders/0/7")
    assert (await view.freshness([await view.watermark("order")])).state == "stopped"
    assert (await view.freshness([await view.watermark("customer")])).state == "stale"
    (summary,) = (await call("list_pipelines", {}, view)).structured["pipelines"]
    assert (summary["status"], summary["faults"]) == ("running", ["schema_mismatch"])
