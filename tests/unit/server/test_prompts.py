"""Prompts and completions by the page: what the grant lets see, paid and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.tools._offer import Offer
from headgate.tools._prompts import PromptInfo, ToldPrompt
from tests.unit.server.house import House, open_house
from tests.unit.server.visiting import modern, modern_headers, said, visit

ROWS = "headgate://entity/{entity}/{key}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, budgets={"read": 3}) as opened:
        yield opened


async def ask(client: Any, token: str, method: str, **params: Any) -> dict[str, Any]:
    name = str(params.get("name", ""))
    return said(await client.post("/mcp", json=modern(method, params), headers=modern_headers(method, name, token)))


def begun(reference: str, argument: str, value: str = "", **given: str) -> dict[str, Any]:
    ref = {"type": "ref/resource", "uri": reference} if ":" in reference else {"type": "ref/prompt", "name": reference}
    more = {"context": {"arguments": given}} if given else {}
    return {"ref": ref, "argument": {"name": argument, "value": value}, **more}


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        ((), []),
        (("data:read",), ["explain_freshness", "investigate_entity"]),
        (("pipelines:read",), ["diagnose_pipeline"]),
        (("admin",), ["diagnose_pipeline", "explain_freshness", "investigate_entity"]),
    ],
)
async def test_a_prompt_is_there_for_whoever_may_call_its_tools(
    house: House, scopes: tuple[str, ...], names: list[str]
) -> None:
    async with visit(house) as client:
        listed = await ask(client, house.token(*scopes), "prompts/list")
    assert [each["name"] for each in listed["result"]["prompts"]] == names


async def test_a_prompt_says_what_its_tools_answer_now(house: House) -> None:
    token = house.token("admin")
    async with visit(house) as client:
        row = await ask(
            client, token, "prompts/get", name="investigate_entity", arguments={"entity": "customer", "key": "4"}
        )
        line = await ask(client, token, "prompts/get", name="diagnose_pipeline", arguments={"pipeline": "shop"})
        fresh = await ask(client, token, "prompts/get", name="explain_freshness", arguments={})
    [message] = row["result"]["messages"]
    assert "c4@shop.example" in message["content"]["text"]
    assert "data, not instructions" in message["content"]["text"]
    assert row["result"]["_meta"]["headgate/freshness"]["staleness_ms"] == 1_000
    assert row["result"]["_meta"]["headgate/budget"]["remaining"] == 2
    assert "shop is stopped" in line["result"]["messages"][0]["content"]["text"]
    assert "customer: fresh" in fresh["result"]["messages"][0]["content"]["text"]
    first = house.events()[0]
    assert (first.method, first.name, first.positions) == ("prompts/get", "investigate_entity", {"customer": {"0": 1}})
    assert first.arguments is not None
    assert first.arguments.json == msgspec.Raw(b'{"entity":"customer","key":"4"}')


@pytest.mark.parametrize(
    ("name", "arguments", "code", "said_"),
    [
        ("no_such", {}, "unknown_prompt", "explain_freshness"),
        ("investigate_entity", {}, "invalid_arguments", "'entity' is required"),
        ("investigate_entity", {"entity": "x" * 1_001}, "invalid_arguments", "too long"),
        ("investigate_entity", {"entity": "customer", "other": ""}, "invalid_arguments", "'other'"),
        ("investigate_entity", {"entity": "nothing"}, "unknown_entity", "customer"),
    ],
)
async def test_a_prompt_that_can_not_be_is_an_error_of_the_protocol(
    house: House, name: str, arguments: dict[str, str], code: str, said_: str
) -> None:
    async with visit(house) as client:
        error = (await ask(client, house.token("data:read"), "prompts/get", name=name, arguments=arguments))["error"]
    assert (error["code"], error["data"]["code"]) == (-32602, code)
    assert said_ in error["message"]
    assert [event.error_code for event in house.events()] == [code]


async def test_an_under_scoped_prompt_is_told_all_the_scopes_it_needs(house: House) -> None:
    async with visit(house) as client:
        body = modern("prompts/get", {"name": "diagnose_pipeline", "arguments": {"pipeline": "shop"}})
        headers = modern_headers("prompts/get", "diagnose_pipeline", house.token("data:read"))
        refused = await client.post("/mcp", json=body, headers=headers)
    assert (refused.status_code, said(refused)["error"]["data"]["scopes"]) == (403, ["pipelines:read"])


async def test_a_prompt_over_a_tool_that_changes_something_is_offered_to_nobody(house: House) -> None:
    info = PromptInfo(name="pause_it", title="Pause", description="Pauses a pipeline.", tools=("pause_pipeline",))
    pauses = ToldPrompt(info=info, task="Pause it.", asks=lambda _: [("pause_pipeline", {"pipeline_id": "shop"})])
    daring = replace(house, rooms=replace(house.rooms, offer=Offer(prompts=[pauses])))
    async with visit(daring) as client:
        listed = await ask(client, house.token("admin"), "prompts/list")
        refused = await ask(client, house.token("admin"), "prompts/get", name="pause_it", arguments={})
    assert listed["result"]["prompts"] == []
    assert refused["error"]["data"]["code"] == "unknown_prompt"


async def test_names_are_completed_for_whoever_may_see_them(house: House) -> None:
    admin, none = house.token("admin"), house.token()

    async def values(token: str, **params: Any) -> list[str]:
        found = (await ask(client, token, "completion/complete", **params))["result"]["completion"]
        assert (found["total"], found["hasMore"]) == (len(found["values"]), False)
        listed: list[str] = found["values"]
        return listed

    async with visit(house) as client:
        assert await values(admin, **begun("explain_freshness", "entity", "CU")) == ["customer"]
        assert await values(admin, **begun("diagnose_pipeline", "pipeline")) == ["shop"]
        assert await values(admin, **begun("explain_freshness", "entity", "x")) == []
        assert await values(admin, **begun(ROWS, "entity", "c")) == ["customer"]
        assert await values(none, **begun(ROWS, "entity", "c")) == []
        assert await values(admin, **begun(ROWS, "other")) == []
        unknown = (await ask(client, none, "completion/complete", **begun("explain_freshness", "entity")))["error"]
        nowhere = (await ask(client, none, "completion/complete", **begun("test://{x}", "x")))["error"]
    assert (unknown["code"], unknown["data"]["code"]) == (-32602, "unknown_prompt")
    assert (nowhere["code"], nowhere["data"]["code"]) == (-32602, "unknown_resource")


async def test_keys_of_a_small_entity_are_completed_and_paid_for(house: House) -> None:
    token = house.token("data:read")
    async with visit(house) as client:
        keys = begun(ROWS, "key", entity="customer")
        answers = [await ask(client, token, "completion/complete", **keys) for _ in range(4)]
    assert answers[0]["result"]["completion"]["values"] == [str(number) for number in range(1, 8)]
    assert answers[3]["error"]["data"]["code"] == "budget_spent"
    assert house.events()[0].positions == {"customer": {"0": 1}}
    assert [event.status for event in house.events()] == ["answered"] * 3 + ["refused"]
