"""MCP's methods as stdio has them: no HTTP before the SDK, and the same page behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import MCPError

from tests.unit.server.house import House, open_house
from tests.unit.server.piped import client_of


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, local_scopes=["data:read"]) as opened:
        yield opened


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_each_call_is_the_local_users_and_recorded(house: House, mode: str) -> None:
    async with client_of(house, mode) as client:
        tools = await client.list_tools()
        row = await client.call_tool("lookup_customer", {"email": "c6@shop.example"})
        await client.list_resources()
        await client.list_resource_templates()
        await client.read_resource("headgate://entity/customer/6")
    assert "list_pipelines" not in [tool.name for tool in tools.tools]
    assert row.structured_content["rows"][0]["values"]["id"] == 6
    events = house.events()
    greeted = [("server/discover", "")] if mode == "auto" else [("initialize", ""), ("notifications/initialized", "")]
    assert [(event.method, event.name) for event in events] == [
        *greeted,
        ("tools/list", ""),
        ("tools/call", "lookup_customer"),
        ("resources/list", ""),
        ("resources/templates/list", ""),
        ("resources/read", "headgate://entity/customer/6"),
    ]
    assert {(event.door, event.status, event.client_name, event.client_version) for event in events} == {
        ("stdio", "answered", "laptop", "2")
    }
    assert {event.caller.subject if event.caller else "" for event in events} == {"tester"}
    assert events[-1].positions == {"customer": {"0": 1}}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_the_local_user_may_not_is_refused_and_recorded(house: House, mode: str) -> None:
    async with client_of(house, mode) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("list_pipelines", {})
    assert refused.value.data["code"] == "insufficient_scope"
    assert refused.value.data["scopes"] == ["pipelines:read"]
    assert [(event.status, event.error_code) for event in house.events() if event.name] == [
        ("refused", "insufficient_scope")
    ]


async def test_wrong_arguments_are_a_tools_answer(house: House) -> None:
    async with client_of(house, "auto") as client:
        result = await client.call_tool("lookup_customer", {"nonsense": 1})
    assert result.is_error
    assert "customer_id" in getattr(result.content[0], "text", "")
    assert result.meta is not None
    assert result.meta["headgate/error"]["code"] == "invalid_arguments"


async def test_without_an_outbox_there_is_no_answer(house: House) -> None:
    async with client_of(house, "auto") as client:
        house.rooms.outbox.close()
        with pytest.raises(MCPError) as refused:
            await client.call_tool("lookup_customer", {"customer_id": 1})
    assert refused.value.data["code"] == "outbox_failed"
    assert "c1@shop.example" not in str(refused.value)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_only_what_is_built_is_offered(house: House, mode: str) -> None:
    async with client_of(house, mode) as client:
        offered = client.server_capabilities
    assert offered.tools is not None
    assert offered.prompts is not None
    assert offered.completions is not None
    assert offered.logging is not None
    assert offered.resources is not None
    changes = {offered.resources.subscribe, offered.resources.list_changed, offered.tools.list_changed}
    assert changes == {mode == "auto"}, "older clients hear of changes nowhere"
    assert (offered.extensions or {}).keys() == ({"io.modelcontextprotocol/tasks"} if mode == "auto" else set())


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_an_older_clients_subscription_is_taken_for_what_there_is(house: House) -> None:
    async with client_of(house, "legacy") as client:
        await client.session.subscribe_resource("headgate://entity/customer/1")
        with pytest.raises(MCPError) as refused:
            await client.session.subscribe_resource("docs://none")
    assert refused.value.data["code"] == "unknown_resource"
    taken = [event for event in house.events() if event.method == "resources/subscribe"]
    assert [(event.name, event.status) for event in taken] == [
        ("headgate://entity/customer/1", "answered"),
        ("docs://none", "refused"),
    ]
