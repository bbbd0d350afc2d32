"""`tools/list`: encoded once for all who see the same, put into what the SDK says, whole and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import mcp_types as types
import msgspec
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp_types import methods as surface

from headgate.model.caller import Caller
from headgate.model.entity import Entity
from headgate.server import wire
from headgate.server.http import Door, HttpSettings
from headgate.server.listing import LIST_TOOLS, ToolLists
from headgate.testing import MemoryReader
from headgate.tools._arguments import Arguments
from headgate.tools.base import Tool, discover
from tests.unit.server.house import CUSTOMER, NOW_MS, House, open_house
from tests.unit.server.piped import client_of
from tests.unit.server.served import served
from tests.unit.server.visiting import OLD, VERSION, bearer, legacy, modern, modern_headers, said, visit

ENVELOPE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
REVISIONS = [VERSION, OLD, "2025-06-18", "2025-03-26", "2024-11-05"]


def entities(many: int) -> dict[str, Entity]:
    return {
        f"thing_{n}": msgspec.structs.replace(CUSTOMER, name=f"thing_{n}", description='Ünï "x"') for n in range(many)
    }


def by_the_sdk(tools: Mapping[str, Tool], version: str) -> list[dict[str, Any]]:
    """The list as the SDK's models alone would write it."""
    shown = wire.list_of_tools(tuple(tools.values()), {}).model_dump(by_alias=True, mode="json", exclude_none=True)
    found: list[dict[str, Any]] = surface.serialize_server_result(LIST_TOOLS, version, {**shown, **ENVELOPE})["tools"]
    return found


def asking(version: str, token: str) -> dict[str, Any]:
    if version == VERSION:
        return {"json": modern(LIST_TOOLS), "headers": modern_headers(LIST_TOOLS, "", token)}
    return legacy(LIST_TOOLS, token=token, version=version)


@pytest.mark.parametrize("version", REVISIONS)
async def test_it_is_what_the_sdk_would_say_in_each_revision(tmp_path: Path, version: str) -> None:
    known = entities(30)
    with open_house(tmp_path, MemoryReader(known.values(), {}, as_of_ms=NOW_MS)) as house:
        token = house.token("admin")
        async with visit(house) as client:
            answers = [await client.post("/mcp", **asking(version, token)) for _ in range(2)]
    for answer in answers:
        result = said(answer)["result"]
        assert result["tools"] == by_the_sdk(discover(known), version)
        assert result["_meta"]["headgate/request_id"] == answer.headers["x-request-id"]
        if version == VERSION:
            assert int(answer.headers["content-length"]) == len(answer.content)
            assert (result["ttlMs"], result["cacheScope"]) == (5_000, "private")


async def test_an_id_that_looks_like_the_gap_is_only_an_id(house: House) -> None:
    body = {**modern(LIST_TOOLS), "id": '"tools":[]'}
    async with visit(house) as client:
        answer = await client.post("/mcp", json=body, headers=modern_headers(LIST_TOOLS, "", house.token("admin")))
    assert said(answer)["id"] == '"tools":[]'
    assert len(said(answer)["result"]["tools"]) == len(discover({"customer": CUSTOMER}))


async def test_who_may_call_nothing_of_data_sees_nothing_of_it(house: House) -> None:
    async with visit(house) as client:
        for scopes in (("admin",), (), ("data:read",)):  # what was encoded for one is not shown to the other
            answer = await client.post("/mcp", **asking(VERSION, house.token(*scopes)))
            names = {tool["name"] for tool in said(answer)["result"]["tools"]}
            assert ("lookup_customer" in names) is bool(scopes)


@pytest.mark.parametrize(("mode", "version"), [("auto", VERSION), ("legacy", OLD)])
async def test_it_comes_whole_over_stdio(house: House, mode: str, version: str) -> None:
    async with client_of(house, mode) as client:
        listed = [(await client.list_tools(cache_mode="refresh")).tools for _ in range(2)]
    names = {each.name for each in listed[0]}
    assert {"lookup_customer", "describe_data"} <= names
    shown = {name: tool for name, tool in discover({"customer": CUSTOMER}).items() if name in names}
    expected = by_the_sdk(shown, version)
    assert listed == 2 * [[types.Tool.model_validate(each, by_name=False) for each in expected]]


async def test_it_comes_whole_over_http_and_sse(house: House) -> None:
    token = house.token("admin")
    async with (
        served(house) as server,
        Client(sse_client(f"{server.url}/sse", headers=bearer(token)), mode="legacy") as client,
    ):
        tools = (await client.list_tools()).tools
    assert [each.name for each in tools] == list(discover({"customer": CUSTOMER}))
    assert all(each.input_schema for each in tools)


async def test_it_is_encoded_once_for_all_who_see_the_same(house: House) -> None:
    lists, tools = ToolLists(), tuple(discover(entities(50)).values())
    first, *others = await asyncio.gather(*(lists.encoded(tuple(tools), VERSION) for _ in range(16)))
    assert all(each is first for each in others)
    assert lists.size == len(first)
    assert await lists.encoded(tools[1:], VERSION) != first
    toolbox = house.rooms.toolbox
    callers = [Caller(subject=name, method="jwt", scopes=frozenset({"data:read"})) for name in ("ada", "bob")]
    grants = [house.rooms.policy.decide(caller) for caller in callers]
    one, other = [await toolbox.lists.encoded(tuple((await toolbox.allowed(each)).values()), OLD) for each in grants]
    assert one is other


async def test_others_go_on_while_it_is_encoded() -> None:
    tools = tuple(discover(entities(200)).values())
    making = asyncio.ensure_future(ToolLists().encoded(tools, VERSION))
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= len(tools) // 4
    assert msgspec.json.decode(await making) == by_the_sdk({tool.name: tool for tool in tools}, VERSION)


async def test_a_new_edition_s_tools_are_there_before_the_models_of_their_arguments() -> None:
    """A model of pydantic's takes most of a millisecond, and all of an edition's tools are made in one turn."""
    before = len(Arguments.__subclasses__())
    tools = discover(entities(300))
    assert len(Arguments.__subclasses__()) == before
    assert "thing_7_id" in tools["lookup_thing_7"].input_schema["properties"]
    assert len(Arguments.__subclasses__()) == before + 1


async def test_it_keeps_no_more_than_it_may_the_newest() -> None:
    kinds = [tuple(discover(entities(many)).values()) for many in (1, 2, 3)]
    size = len(await ToolLists().encoded(kinds[2], VERSION))
    lists = ToolLists(most_bytes=2 * size - 1)
    made = [await lists.encoded(tools, VERSION) for tools in kinds]
    assert len(made[2]) <= lists.size <= 2 * size - 1
    assert await lists.encoded(kinds[2], VERSION) is made[2]
    assert await lists.encoded(kinds[0], VERSION) == made[0]
    tiny = ToolLists(most_bytes=1)
    assert await tiny.encoded(kinds[0], VERSION) == made[0]
    assert tiny.size == 0


async def test_a_refusal_is_left_as_it_is(house: House) -> None:
    async with visit(house) as client:
        paged = {"json": modern(LIST_TOOLS, {"cursor": "2"}), "headers": modern_headers(LIST_TOOLS, "", house.token())}
        answer = await client.post("/mcp", **paged)
    assert said(answer)["error"]["data"]["code"] == "invalid_arguments"
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_older_clients_answer_is_one_whole_stream(house: House) -> None:
    door = Door(house.rooms, HttpSettings())
    transport = httpx.ASGITransport(door, client=("192.0.2.7", 5_000))
    async with door.running(), httpx.AsyncClient(transport=transport, base_url="http://localhost:8765") as client:
        answer = await client.post("/mcp", **asking(OLD, house.token("admin")))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    assert answer.text.count("data: {") == 1
