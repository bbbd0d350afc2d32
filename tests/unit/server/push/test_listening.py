"""`subscriptions/listen` by the official client: over HTTP on a real socket, and on a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.client.subscriptions import Subscription
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged

from headgate.access.policy import Edition, Policy
from headgate.access.revocations import Mark
from headgate.access.watching import PushConfig
from headgate.audit.event import CallEvent
from headgate.model.entity import Entity, Field
from headgate.server.push.listener import Listener
from headgate.server.push.push import Push
from headgate.tools.base import discover
from tests.unit.server.piped import client_of
from tests.unit.server.push.watched import Watched, client_at, policy_of, until, visitor, watched, within
from tests.unit.server.served import served
from tests.unit.server.visiting import modern, modern_headers

KEY = b"a key of thirty-two bytes at least"
ONE, TWO, ABSENT = (f"headgate://entity/customer/{key}" for key in (1, 2, 99))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path, local=True) as opened:
        yield opened


async def next_of(subscription: Subscription) -> Any:
    return await within(anext(subscription))


def listened(place: Watched) -> list[CallEvent]:
    """The events of streams that have ended."""
    return [event for event in place.house.events() if event.method == "subscriptions/listen"]


def opened(place: Watched) -> list[dict[str, Any]]:
    """The events of streams that were about to open."""
    intents = (json.loads(body) for body in place.house.bodies() if b"dev.headgate.intent.v1" in body)
    return [intent["data"] for intent in intents if intent["data"]["opens"] == "stream"]


def listeners(place: Watched) -> list[Listener]:
    return list(place.house.rooms.push._listeners)


# --- rows ----------------------------------------------------------------------------------------


async def test_changed_rows_are_told_and_no_others(place: Watched) -> None:
    async with visitor(place) as client, client.listen(resource_subscriptions=[ONE, ABSENT]) as stream:
        assert stream.honored.resource_subscriptions == [ONE, ABSENT]
        place.put(2, "gold")
        place.put(1, "gold")
        assert await next_of(stream) == ResourceUpdated(ONE)
        place.put(99, "new")
        assert await next_of(stream) == ResourceUpdated(ABSENT)
        place.remove(1)
        assert await next_of(stream) == ResourceUpdated(ONE)
        assert not listeners(place)[0].take()


async def test_on_a_pipe_it_is_the_same(place: Watched) -> None:
    async with client_of(place.house) as client:
        async with client.listen(resource_subscriptions=[ONE], tools_list_changed=True) as stream:
            place.put(1, "gold")
            assert await next_of(stream) == ResourceUpdated(ONE)
        await until(lambda: not listeners(place))
    await until(lambda: listened(place))
    [event] = listened(place)
    assert (event.door, event.status, event.notices, event.reason) == ("stdio", "answered", 1, "client left")
    assert len(opened(place)) == 1


async def test_what_is_no_row_never_changes(place: Watched) -> None:
    uris = ["docs://troubleshooting", "headgate://entity/none/1", "headgate://entity/customer", "\u00fc://x", ONE]
    async with visitor(place) as client, client.listen(resource_subscriptions=uris) as stream:
        assert stream.honored.resource_subscriptions == uris
        place.hearer.tell()
        place.put(1, "gold")
        assert await next_of(stream) == ResourceUpdated(ONE)


async def test_a_slow_listener_is_told_of_each_row_once(place: Watched) -> None:
    async with visitor(place) as client, client.listen(resource_subscriptions=[ONE, TWO]) as stream:
        [listener] = listeners(place)
        await place.house.rooms.push.close()  # nobody releases it but this test
        listener.hold(held=True)
        for number in range(100):
            place.put(1 + number % 2, f"plan {number}")
            await until(lambda: place.house.rooms.watching and place.house.rooms.watching._looking is None)
        assert len(listener._pending_uris) == 2
        listener.hold(held=False)
        assert {await next_of(stream), await next_of(stream)} == {ResourceUpdated(ONE), ResourceUpdated(TWO)}
        assert listener.told == 2


async def test_every_frame_names_its_stream_and_the_first_one_is_the_acknowledgement(place: Watched) -> None:
    asked = {"notifications": {"resourceSubscriptions": [ONE], "toolsListChanged": True, "unknown": ["x"]}}
    body = modern("subscriptions/listen", asked, rpc_id="mine/1")
    frames: list[dict[str, Any]] = []
    async with served(place.house) as server, httpx.AsyncClient(timeout=60) as client:
        headers = modern_headers("subscriptions/listen")
        async with client.stream("POST", f"{server.url}/mcp", json=body, headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    frames.append(json.loads(line.removeprefix("data: ")))
                    if len(frames) == 1:
                        assert opened(place), "the opening is on the disk before the first byte"
                        place.put(1, "gold")
                    elif len(frames) == 2:
                        place.house.rooms.push.drain()
    named = {"io.modelcontextprotocol/subscriptionId": "mine/1"}
    first, second, last = frames
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"] == {
        "_meta": named, "notifications": {"toolsListChanged": True, "resourceSubscriptions": [ONE]},
    }  # fmt: skip
    assert second == {
        "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"_meta": named, "uri": ONE},
    }  # fmt: skip
    assert last["id"] == "mine/1"
    assert last["result"]["_meta"].items() >= named.items()


# --- the record ----------------------------------------------------------------------------------


async def test_the_opening_and_the_end_are_recorded(place: Watched) -> None:
    async with visitor(place) as client:
        async with client.listen(resource_subscriptions=[ONE]) as stream:
            place.put(1, "gold")
            await next_of(stream)
            [intent] = opened(place)
            assert listened(place) == []
        await until(lambda: listened(place))
        [event] = listened(place)
    assert (event.status, event.error_code, event.reason, event.notices) == ("answered", "", "client left", 1)
    assert intent["call"] == event.id
    assert intent["name"] == "subscriptions/listen"
    assert intent["arguments"]["sha256"] == (event.arguments and event.arguments.sha256)
    assert event.arguments is not None
    assert ONE in bytes(event.arguments.json or b"").decode()


async def test_without_an_outbox_no_stream_opens(place: Watched) -> None:
    async with visitor(place) as client:
        place.house.rooms.outbox.close()
        with pytest.raises(MCPError) as refused:
            async with client.listen(resource_subscriptions=[ONE]):
                pass
    assert refused.value.data["code"] == "outbox_failed"
    assert listeners(place) == []


# --- bounds --------------------------------------------------------------------------------------


async def test_streams_and_uris_are_bounded(tmp_path: Path) -> None:
    bounds = PushConfig(listeners_per_caller=2, listeners=3, uris_per_listener=2)
    with watched(tmp_path, bounds, local=True) as place:
        grace = place.house.token("data:read", subject="grace")
        async with served(place.house) as server, client_at(server.url) as here, client_at(server.url, grace) as there:

            async def refused(client: Client, **wanted: Any) -> str:
                with pytest.raises(MCPError) as error:
                    async with client.listen(**wanted):
                        pass
                return str(error.value.data["code"])

            assert await refused(here, resource_subscriptions=[ONE, TWO, ABSENT]) == "invalid_arguments"
            async with here.listen(resource_subscriptions=[ONE]):
                async with here.listen(tools_list_changed=True):
                    assert await refused(here, tools_list_changed=True) == "too_many_waiting"
                    async with there.listen(tools_list_changed=True):
                        assert await refused(there, tools_list_changed=True) == "too_many_waiting"
                    await until(lambda: len(listeners(place)) == 2)
                await until(lambda: len(listeners(place)) == 1)
                async with here.listen(tools_list_changed=True):
                    pass
        await until(lambda: not listeners(place))
        refusals = [event.error_code for event in listened(place) if event.status == "refused"]
    assert sorted(refusals) == ["invalid_arguments", "too_many_waiting", "too_many_waiting"]


async def test_a_stream_costs_a_read(tmp_path: Path) -> None:
    with watched(tmp_path, budgets={"read": {"calls": 1, "per_s": 86_400}}) as place:
        token = place.house.token("data:read")
        async with visitor(place, token) as client:
            async with client.listen(resource_subscriptions=[ONE]):
                pass
            with pytest.raises(MCPError) as refused:
                async with client.listen(resource_subscriptions=[ONE]):
                    pass
    assert refused.value.data["code"] == "budget_spent"


# --- who may hear --------------------------------------------------------------------------------


async def test_a_drain_ends_streams_gracefully_and_opens_no_more(place: Watched) -> None:
    async with visitor(place) as client:
        async with client.listen(resource_subscriptions=[ONE]) as stream:
            place.house.rooms.push.drain()
            with pytest.raises(StopAsyncIteration):  # and not SubscriptionLost
                await next_of(stream)
        with pytest.raises(MCPError) as refused:
            async with client.listen(resource_subscriptions=[ONE]):
                pass
    assert refused.value.data["code"] == "unavailable"
    assert [event.reason for event in listened(place) if event.status == "answered"] == ["stopping"]


async def test_a_revoked_credential_ends_its_streams_and_no_others(tmp_path: Path) -> None:
    with watched(tmp_path) as place:
        tokens = [place.house.token("data:read", subject=subject) for subject in ("ada", "grace")]
        async with (
            served(place.house) as server,
            client_at(server.url, tokens[0]) as ada,
            client_at(server.url, tokens[1]) as grace,
            ada.listen(resource_subscriptions=[ONE]) as hers,
            grace.listen(resource_subscriptions=[ONE]) as others,
        ):
            place.house.keys.revocations.revoke(Mark("subject", "ada"), ttl_ms=60_000)
            with pytest.raises(StopAsyncIteration):
                await next_of(hers)
            place.put(1, "gold")
            assert await next_of(others) == ResourceUpdated(ONE)
        [ended] = [event for event in listened(place) if event.caller and event.caller.subject == "ada"]
    assert ended.reason == "credential ended"


async def test_without_the_scope_for_data_rows_never_change(tmp_path: Path) -> None:
    with watched(tmp_path) as place:
        async with (
            visitor(place, place.house.token("pipelines:read")) as client,
            client.listen(resource_subscriptions=[ONE], tools_list_changed=True) as stream,
        ):
            assert stream.honored.resource_subscriptions == [ONE]
            place.put(1, "gold")
            await until(lambda: place.house.rooms.watching and place.house.rooms.watching._looking is None)
            [listener] = listeners(place)
            assert not listener._bound
            assert listener.take() is None


async def test_a_change_of_what_is_hidden_is_none(tmp_path: Path) -> None:
    policy = Policy(policy_of(fields={"plan": "hide"}), KEY)
    with watched(tmp_path, policy=policy, local=True) as place:
        async with visitor(place) as client, client.listen(resource_subscriptions=[ONE, TWO]) as stream:
            place.put(1, "gold")
            place.remove(2)
            assert await next_of(stream) == ResourceUpdated(TWO)
            [listener] = listeners(place)
            assert listener.take() is None


async def test_a_changed_policy_holds_for_open_streams(tmp_path: Path) -> None:
    policy = Policy(policy_of(fields={}), KEY)
    with watched(tmp_path, policy=policy, local=True) as place:
        async with visitor(place) as client, client.listen(resource_subscriptions=[ONE, TWO]) as stream:
            [listener] = listeners(place)

            async def adopt(edition: Edition) -> None:
                policy.adopt(edition)
                await until(lambda: listener.grant.policy_version == policy.version)

            await adopt(policy_of())  # no customers any more: to this caller they are gone
            assert {await next_of(stream), await next_of(stream)} == {ResourceUpdated(ONE), ResourceUpdated(TWO)}
            place.put(1, "gold")
            await until(lambda: place.house.rooms.watching and place.house.rooms.watching._looking is None)
            assert listener.take() is None
            await adopt(policy_of(fields={"plan": "hide"}))
            assert {await next_of(stream), await next_of(stream)} == {ResourceUpdated(ONE), ResourceUpdated(TWO)}
            place.put(1, "platinum")
            place.remove(2)
            assert await next_of(stream) == ResourceUpdated(TWO)


async def test_nothing_is_told_under_a_policy_that_holds_no_more(tmp_path: Path) -> None:
    policy = Policy(policy_of(fields={}), KEY)
    with watched(tmp_path, policy=policy, local=True) as place:
        async with visitor(place) as client, client.listen(resource_subscriptions=[ONE]):
            [listener] = listeners(place)
            assert place.house.rooms.push.may_tell(listener)
            policy.adopt(policy_of())
            assert not place.house.rooms.push.may_tell(listener)


# --- lists ---------------------------------------------------------------------------------------

ORDER = Entity(
    name="order", pipeline="shop", table="main.orders", key=("id",),
    fields=(Field(name="id", type="integer", nullable=False),),
)  # fmt: skip


async def test_a_new_entity_brings_tools_and_is_told(place: Watched) -> None:
    async with visitor(place) as client:
        async with (
            client.listen(tools_list_changed=True) as tools,
            client.listen(prompts_list_changed=True, resources_list_changed=True) as others,
        ):
            place.reader._entities = {**place.reader._entities, "order": ORDER}
            assert await next_of(tools) == ToolsListChanged()
            assert [listener.told for listener in listeners(place)] == [1, 0]
            assert others.honored.prompts_list_changed
        assert "lookup_order" in [tool.name for tool in (await client.list_tools()).tools]


async def test_a_policy_that_takes_tools_away_is_told_to_those_it_concerns(tmp_path: Path) -> None:
    policy = Policy(policy_of(fields={}), KEY)
    with watched(tmp_path, policy=policy, local=True) as place:
        async with visitor(place) as client, client.listen(tools_list_changed=True) as stream:
            policy.adopt(policy_of(fields={"plan": "hide"}))  # the tools stay as they are
            [listener] = listeners(place)
            await until(lambda: listener.grant.policy_version == policy.version)
            assert listener.take() is None
            policy.adopt(policy_of())
            assert await next_of(stream) == ToolsListChanged()


async def test_rooms_that_are_adopted_decide_from_then_on(place: Watched) -> None:
    async with (
        visitor(place) as client,
        client.listen(tools_list_changed=True, prompts_list_changed=True) as stream,
    ):
        fewer = replace(
            place.house.rooms.offer,
            tools=lambda entities: {name: each for name, each in discover(entities).items() if name != "find"},
            prompts=(),
        )
        place.house.rooms.push.adopt(replace(place.house.rooms, offer=fewer))
        assert {await next_of(stream), await next_of(stream)} == {ToolsListChanged(), PromptsListChanged()}


async def test_nothing_is_looked_at_where_nobody_listens() -> None:
    push = Push()
    push.lists_changed()
    push.drain()
    await push.close()
    assert push.count == 0
