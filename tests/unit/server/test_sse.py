"""The deprecated HTTP+SSE transport: the same page and identity for each message, bounded, and closed by a stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.client.sse import sse_client

from headgate.server.request import HttpSettings
from headgate.server.sse import MOST_OF_ONE
from tests.unit.server.house import House, open_house
from tests.unit.server.served import DEADLINE_S, served
from tests.unit.server.talkers import Talkers
from tests.unit.server.visiting import bearer

HELLO = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "9"}}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


class Stream:
    """An open stream, read as its events come."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def data(self) -> str:
        """The data of the next event."""
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                if line.startswith("data: "):
                    return line.removeprefix("data: ")
        raise AssertionError("the stream ended")

    async def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.data())
        return found

    async def ends(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def stream_of(client: httpx.AsyncClient, token: str) -> AsyncIterator[tuple[Stream, str]]:
    async with client.stream("GET", "/sse", headers={"accept": "text/event-stream", **bearer(token)}) as answer:
        assert answer.status_code == 200
        stream = Stream(answer)
        yield stream, await stream.data()


def request(rpc_id: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params}


async def test_the_official_client_is_served_and_each_message_recorded(house: House) -> None:
    async with served(house) as at:
        transport = sse_client(f"{at.url}/sse", headers=bearer(house.token("data:read")))
        async with asyncio.timeout(DEADLINE_S), Client(transport, mode="legacy") as client:
            tools = (await client.list_tools()).tools
            row = await client.call_tool("lookup_customer", {"customer_id": 4})
    assert "lookup_customer" in [tool.name for tool in tools]
    assert row.structured_content["rows"][0]["values"]["email"] == "c4@shop.example"
    events = house.events()
    assert [(event.method, event.status) for event in events] == [
        ("GET", "answered"),
        ("initialize", "answered"),
        ("notifications/initialized", "answered"),
        ("tools/list", "answered"),
        ("tools/call", "answered"),
    ]
    assert {(event.client_name, event.protocol_version) for event in events[1:]} == {("mcp", "2025-11-25")}


async def test_the_first_revision_is_spoken_with_progress_and_notices_on_the_stream(house: House) -> None:
    house = Talkers().house(house)
    token = house.token()
    async with (
        served(house) as at,
        httpx.AsyncClient(base_url=at.url, headers=bearer(token), timeout=60) as client,
        stream_of(client, token) as (stream, where),
    ):
        assert (await client.post(where, json=request(1, "initialize", **HELLO))).status_code == 202
        assert (await stream.message())["result"]["protocolVersion"] == "2024-11-05"
        await client.post(where, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        await client.post(where, json=request(2, "logging/setLevel", level="debug"))
        assert (await stream.message())["result"] == {}
        await client.post(where, json=request(3, "tools/call", name="tell", _meta={"progressToken": 7}))
        told = [await stream.message() for _ in range(5)]
    assert [message.get("method", "") for message in told] == [
        "notifications/progress", "notifications/message", "notifications/message", "notifications/progress", "",
    ]  # fmt: skip
    assert told[-1]["result"]["content"][0]["text"] == "told"


async def test_a_session_is_of_use_to_nobody_else(house: House) -> None:
    token = house.token("data:read")
    ping = request(1, "ping")
    async with served(house) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as client:
        async with stream_of(client, token) as (_, where):
            stranger = await client.post(where, json=ping)
            other = await client.post(where, json=ping, headers=bearer(house.token("data:read", subject="eve")))
            none = await client.post("/messages?session_id=" + "0" * 32, json=ping, headers=bearer(token))
            modern = await client.post(
                where,
                json=request(1, "ping", _meta={"io.modelcontextprotocol/protocolVersion": "2026-07-28"}),
                headers=bearer(token),
            )
        assert (await client.get("/sse")).status_code == 401
    assert [answer.status_code for answer in (stranger, other, none, modern)] == [401, 404, 404, 400]
    assert [(event.method, event.status) for event in house.events()] == [
        ("GET", "answered"), ("ping", "refused"), ("ping", "refused"), ("", "refused"),
    ]  # fmt: skip


async def test_no_byte_of_a_stream_leaves_before_its_event_is_durable(house: House) -> None:
    async with served(house) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as client:
        house.rooms.outbox.close()
        answer = await client.get("/sse", headers=bearer(house.token()))
    assert (answer.status_code, answer.json()["error"]["data"]["code"]) == (503, "outbox_failed")


async def test_a_caller_has_so_many_streams_and_no_more(house: House) -> None:
    token = house.token()
    async with (
        served(house) as at,
        httpx.AsyncClient(base_url=at.url, timeout=60) as client,
        AsyncExitStack() as streams,
    ):
        for _ in range(MOST_OF_ONE):
            await streams.enter_async_context(stream_of(client, token))
        refused = await client.get("/sse", headers=bearer(token))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        await streams.enter_async_context(stream_of(client, house.token(subject="eve")))


async def test_a_client_that_leaves_ends_its_calls(house: House) -> None:
    talkers = Talkers()
    house = talkers.house(house)
    token = house.token()
    async with served(house) as at, httpx.AsyncClient(base_url=at.url, headers=bearer(token), timeout=60) as client:
        async with stream_of(client, token) as (stream, where):
            await client.post(where, json=request(1, "initialize", **HELLO))
            await stream.message()
            await client.post(where, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
            await client.post(where, json=request(2, "tools/call", name="wait", arguments={}))
            await asyncio.wait_for(talkers.waiting.wait(), DEADLINE_S)
        await asyncio.wait_for(talkers.stopped.wait(), DEADLINE_S)
    [event] = [event for event in house.events() if event.name == "wait"]
    assert (event.status, event.error_code) == ("failed", "cancelled")


async def test_a_stop_ends_streams_at_once(house: House) -> None:
    async with (
        served(house) as at,
        httpx.AsyncClient(base_url=at.url, timeout=60) as client,
        stream_of(client, house.token()) as (stream, _),
    ):
        at.stop.set()
        await stream.ends()


async def test_where_several_processes_serve_the_port_it_is_refused_in_words(house: House) -> None:
    token = house.token()
    settings = HttpSettings(workers=lambda: (2, 2))
    async with served(house, settings) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as client:
        opening = await client.get("/sse", headers=bearer(token))
        posting = await client.post("/messages?session_id=" + "0" * 32, json=request(1, "ping"), headers=bearer(token))
        assert (await client.get("/sse")).status_code == 401
    for answer in (opening, posting):
        assert answer.status_code == 501
        assert "use Streamable HTTP at /mcp" in answer.json()["error"]["message"]
    assert [(event.method, event.status, event.error_code) for event in house.events()] == [
        ("GET", "refused", "invalid_request"), ("ping", "refused", "invalid_request"),
    ]  # fmt: skip
