"""What a call says before it is answered, and that it ends when its client leaves: progress, notices, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mcp_types as types
import pytest

from tests.unit.server.house import House, open_house
from tests.unit.server.piped import client_of
from tests.unit.server.served import DEADLINE_S, served
from tests.unit.server.talkers import Talkers
from tests.unit.server.visiting import call_of, legacy

LEVEL = "io.modelcontextprotocol/logLevel"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


def told(name: str, era: str, token: str, **meta: Any) -> dict[str, Any]:
    """Arguments of `client.post` for a call that says more in its `_meta`."""
    call = call_of(name, {}, token) if era == "modern" else legacy("tools/call", {"name": name}, token=token)
    call["json"]["params"].setdefault("_meta", {}).update(meta)
    return call


def messages(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_progress_and_notices_come_on_the_calls_own_stream(house: House, era: str) -> None:
    house = Talkers().house(house)
    meta = {"progressToken": "p1", **({LEVEL: "info"} if era == "modern" else {})}
    async with served(house) as at, httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{at.url}/mcp", **told("tell", era, house.token(), **meta))
    progress, notice, more, result = messages(answer.text)
    assert progress["params"] == {"progressToken": "p1", "progress": 1, "total": 2, "message": "half"}
    assert notice["method"] == "notifications/message"
    assert notice["params"] == {"level": "warning", "logger": "headgate", "data": {"large": True}}
    assert more["params"]["progress"] == 2
    assert result["result"]["content"][0]["text"] == "told"
    assert [event.status for event in house.events()] == ["answered"]


async def test_who_asks_for_neither_progress_nor_notices_gets_none(house: House) -> None:
    house = Talkers().house(house)
    async with served(house) as at, httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{at.url}/mcp", **told("tell", "modern", house.token()))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"][0]["text"] == "told"


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_that_leaves_ends_its_call_and_that_is_recorded(house: House, era: str) -> None:
    talkers = Talkers()
    house = talkers.house(house)
    async with served(house) as at, httpx.AsyncClient(timeout=60) as client:
        call = told("wait", era, house.token(), progressToken=1)
        async with client.stream("POST", f"{at.url}/mcp", **call) as answer:
            assert answer.status_code == 200
            await asyncio.wait_for(talkers.waiting.wait(), DEADLINE_S)
        await asyncio.wait_for(talkers.stopped.wait(), DEADLINE_S)
    assert [(event.name, event.status, event.error_code) for event in house.events()] == [
        ("wait", "failed", "cancelled")
    ]


async def test_a_stop_ends_calls_and_records_them(house: House) -> None:
    talkers = Talkers()
    house = talkers.house(house)
    async with served(house) as at, httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(client.post(f"{at.url}/mcp", **told("wait", "modern", house.token())))
        await asyncio.wait_for(talkers.waiting.wait(), DEADLINE_S)
    assert talkers.stopped.is_set()
    await asyncio.gather(asking, return_exceptions=True)
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "cancelled")]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_on_stdio_a_call_is_taken_back_by_its_client(house: House, mode: str) -> None:
    talkers = Talkers()
    house = talkers.house(house)
    async with client_of(house, mode) as client:
        asking = asyncio.create_task(client.call_tool("wait", {}))
        await asyncio.wait_for(talkers.waiting.wait(), DEADLINE_S)
        asking.cancel()
        await asyncio.wait_for(talkers.stopped.wait(), DEADLINE_S)
        assert (await client.call_tool("tell", {})).content[0].type == "text"
    [event] = [event for event in house.events() if event.name == "wait"]
    assert (event.status, event.error_code) == ("failed", "cancelled")
    assert "notifications/cancelled" in [event.method for event in house.events()]


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_an_older_client_on_stdio_says_once_which_notices_it_wants(house: House) -> None:
    house = Talkers().house(house)
    heard: list[str] = []

    async def hear(message: types.LoggingMessageNotificationParams) -> None:
        heard.append(message.level)

    async with client_of(house, "legacy", logging_callback=hear) as client:
        await client.call_tool("tell", {})
        await client.set_logging_level("debug")
        await client.call_tool("tell", {})
        await client.set_logging_level("error")
        await client.call_tool("tell", {})
    assert heard == ["warning", "debug", "warning"]
