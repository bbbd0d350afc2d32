"""`resources/subscribe` of older clients, by the official one, where a connection lasts: a pipe, and HTTP+SSE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPError

from headgate.access.policy import Edition, Policy
from headgate.access.revocations import Mark
from headgate.access.watching import PushConfig
from headgate.audit.event import CallEvent
from headgate.server.push.listener import Listener
from tests.unit.server.house import House
from tests.unit.server.piped import client_of
from tests.unit.server.push.watched import Watched, policy_of, until, watched, within
from tests.unit.server.served import served
from tests.unit.server.visiting import bearer, legacy, said, visit

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
KEY = b"a key of thirty-two bytes at least"
ONE, TWO, THREE = (f"headgate://entity/customer/{key}" for key in (1, 2, 3))


@dataclass
class Subscriber:
    """A client of 2025-11-25, and what it is told."""

    client: Client
    told: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def subscribe(self, uri: str) -> None:
        await within(self.client.session.subscribe_resource(uri))

    async def unsubscribe(self, uri: str) -> None:
        await within(self.client.session.unsubscribe_resource(uri))

    async def next(self) -> str:
        uri: str = await within(self.told.get())
        return uri


def hearing(told: asyncio.Queue[str]) -> Any:
    async def handle(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            told.put_nowait(str(message.params.uri))

    return handle


@asynccontextmanager
async def on_a_pipe(place: Watched) -> AsyncIterator[Subscriber]:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with client_of(place.house, "legacy", message_handler=hearing(told)) as client:
        yield Subscriber(client, told)


@asynccontextmanager
async def over_sse(url: str, token: str = "") -> AsyncIterator[Subscriber]:
    told: asyncio.Queue[str] = asyncio.Queue()
    transport = sse_client(f"{url}/sse", headers=bearer(token or None))
    async with Client(transport, mode="legacy", message_handler=hearing(told)) as client:
        yield Subscriber(client, told)


@asynccontextmanager
async def either(place: Watched, way: str) -> AsyncIterator[Subscriber]:
    if way == "pipe":
        async with on_a_pipe(place) as subscriber:
            yield subscriber
    else:
        async with served(place.house) as server, over_sse(server.url) as subscriber:
            yield subscriber


WAYS = pytest.mark.parametrize("way", ["pipe", "sse"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path, local=True) as opened:
        yield opened


def listeners(place: Watched) -> list[Listener]:
    return list(place.house.rooms.push._listeners)


def calls(place: Watched, method: str) -> list[CallEvent]:
    return [event for event in place.house.events() if event.method == method]


async def looked(place: Watched) -> None:
    """Whatever was changed has been looked at."""
    watching = place.house.rooms.watching
    await until(lambda: watching and watching._looking is None)


# --- rows ----------------------------------------------------------------------------------------


@WAYS
async def test_changed_rows_are_told_until_they_are_unsubscribed_and_no_others(place: Watched, way: str) -> None:
    async with either(place, way) as subscriber:
        offered = subscriber.client.server_capabilities.resources
        assert offered is not None
        assert offered.subscribe
        await subscriber.subscribe(ONE)
        place.put(2, "gold")
        place.put(1, "gold")
        assert await subscriber.next() == ONE
        await subscriber.subscribe(TWO)
        place.put(2, "silver")
        assert await subscriber.next() == TWO
        await subscriber.unsubscribe(ONE)
        place.put(1, "silver")
        place.remove(2)
        assert await subscriber.next() == TWO
        assert len(listeners(place)) == 1, "one listener for a whole connection"
    await until(lambda: not listeners(place))
    await until(lambda: place.house.rooms.watching and not place.house.rooms.watching._rows)
    assert [event.status for event in calls(place, "resources/subscribe")] == ["answered", "answered"]
    [left] = calls(place, "resources/unsubscribe")
    assert (left.name, left.status, left.notices) == (ONE, "answered", 1)


@WAYS
async def test_a_second_subscription_to_the_same_is_the_same(place: Watched, way: str) -> None:
    async with either(place, way) as subscriber:
        for _ in range(3):
            await subscriber.subscribe(ONE)
        place.put(1, "gold")
        assert await subscriber.next() == ONE
        await subscriber.unsubscribe(ONE)
        await subscriber.unsubscribe(ONE)
        await subscriber.subscribe(TWO)
        place.put(1, "silver")
        place.put(2, "silver")
        assert await subscriber.next() == TWO
        assert subscriber.told.empty()


async def test_many_subscribe_and_leave_at_once(place: Watched) -> None:
    uris = [f"headgate://entity/customer/{number}" for number in range(1, 8)]
    async with on_a_pipe(place) as subscriber:
        await asyncio.gather(*(subscriber.subscribe(uri) for uri in uris))
        await asyncio.gather(*(subscriber.unsubscribe(uri) for uri in uris[1:]))
        [listener] = listeners(place)
        assert listener.wanted.uris == (ONE,)
        for number in range(1, 8):
            place.put(number, "gold")
        assert await subscriber.next() == ONE
        await looked(place)
        assert subscriber.told.empty()


async def test_what_is_no_row_never_changes_and_what_there_is_not_is_refused(place: Watched) -> None:
    async with on_a_pipe(place) as subscriber:
        await subscriber.subscribe("docs://troubleshooting")
        with pytest.raises(MCPError) as refused:
            await subscriber.subscribe("docs://none")
    assert refused.value.data["code"] == "unknown_resource"


async def test_what_is_not_told_of_changes_declares_no_subscriptions(house: House) -> None:
    async with client_of(house, "legacy") as client:
        offered = client.server_capabilities.resources
    assert offered is not None
    assert not offered.subscribe


async def test_without_a_connection_that_lasts_none_is_declared_and_nothing_is_watched(tmp_path: Path) -> None:
    with watched(tmp_path) as place:
        token = place.house.token("data:read")
        async with visit(place.house) as client:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "old", "version": "9"}}
            greeted = said(await client.post("/mcp", **legacy("initialize", hello, token=token)))["result"]
            assert not greeted["capabilities"]["resources"].get("subscribe")
            answer = said(await client.post("/mcp", **legacy("resources/subscribe", {"uri": ONE}, token=token)))
            assert "error" not in answer
            assert not listeners(place)


# --- bounds and the record -----------------------------------------------------------------------


async def test_subscriptions_are_bounded(tmp_path: Path) -> None:
    with watched(tmp_path, PushConfig(uris_per_listener=2, listeners_per_caller=1), local=True) as place:
        async with served(place.house) as server, over_sse(server.url) as one:
            await one.subscribe(ONE)
            await one.subscribe(TWO)
            with pytest.raises(MCPError) as many:
                await one.subscribe(THREE)
            async with over_sse(server.url) as other:
                with pytest.raises(MCPError) as crowded:
                    await other.subscribe(ONE)
            await one.unsubscribe(ONE)
            await one.subscribe(THREE)
            place.put(3, "gold")
            assert await one.next() == THREE
    assert many.value.data["code"] == "invalid_arguments"
    assert crowded.value.data["code"] == "too_many_waiting"


async def test_a_subscription_costs_a_read(tmp_path: Path) -> None:
    with watched(tmp_path, budgets={"read": {"calls": 1, "per_s": 86_400}}) as place:
        token = place.house.token("data:read")
        async with served(place.house) as server, over_sse(server.url, token) as subscriber:
            await subscriber.subscribe(ONE)
            with pytest.raises(MCPError) as refused:
                await subscriber.subscribe(TWO)
            place.put(2, "gold")
            place.put(1, "gold")
            assert await subscriber.next() == ONE
    assert refused.value.data["code"] == "budget_spent"


async def test_nothing_is_told_of_a_subscription_that_could_not_be_recorded(place: Watched) -> None:
    async with on_a_pipe(place) as subscriber:
        await subscriber.subscribe(ONE)
        place.house.rooms.outbox.close()
        with pytest.raises(MCPError) as refused:
            await subscriber.subscribe(TWO)
        place.put(2, "gold")
        place.put(1, "gold")
        assert await subscriber.next() == ONE
        [listener] = listeners(place)
        assert listener.wanted.uris == (ONE,)
    assert refused.value.data["code"] == "outbox_failed"


async def test_a_client_that_does_not_read_is_told_of_each_row_once(place: Watched) -> None:
    async with on_a_pipe(place) as subscriber:
        await subscriber.subscribe(ONE)
        [listener] = listeners(place)
        await place.house.rooms.push.close()  # nobody releases it but this test
        listener.hold(held=True)
        for number in range(50):
            place.put(1, f"plan {number}")
            await looked(place)
        listener.hold(held=False)
        assert await subscriber.next() == ONE
        place.put(1, "the last")
        assert await subscriber.next() == ONE
        assert subscriber.told.empty()


# --- who may hear --------------------------------------------------------------------------------


async def test_a_revoked_credential_ends_the_stream_of_its_caller_and_no_other(tmp_path: Path) -> None:
    with watched(tmp_path) as place:
        tokens = [place.house.token("data:read", subject=subject) for subject in ("ada", "grace")]
        async with (
            served(place.house) as server,
            over_sse(server.url, tokens[0]) as ada,
            over_sse(server.url, tokens[1]) as grace,
        ):
            await ada.subscribe(ONE)
            await grace.subscribe(ONE)
            place.house.keys.revocations.revoke(Mark("subject", "ada"), ttl_ms=60_000)
            await until(lambda: len(listeners(place)) == 1)
            await until(lambda: len(server.door._sse._sessions) == 1)  # its client hears that it hears no more
            place.put(1, "gold")
            assert await grace.next() == ONE
            assert ada.told.empty()


async def test_each_message_renews_the_credential_that_is_looked_at(tmp_path: Path) -> None:
    with watched(tmp_path) as place:
        token = place.house.token("data:read")
        async with served(place.house) as server, over_sse(server.url, token) as subscriber:
            await subscriber.subscribe(ONE)
            [listener] = listeners(place)
            before = listener.credentials
            await subscriber.client.session.send_ping()
            assert listener.credentials is not before


async def test_a_changed_policy_holds_for_what_is_subscribed(tmp_path: Path) -> None:
    policy = Policy(policy_of(fields={}), KEY)
    with watched(tmp_path, policy=policy, local=True) as place:
        async with on_a_pipe(place) as subscriber:
            await subscriber.subscribe(ONE)
            [listener] = listeners(place)

            async def adopt(edition: Edition) -> None:
                policy.adopt(edition)
                await until(lambda: listener.grant.policy_version == policy.version)

            await adopt(policy_of())  # no customers any more: to this caller they are gone
            assert await subscriber.next() == ONE
            place.put(1, "gold")
            await looked(place)
            await subscriber.subscribe(TWO)  # and a new subscription is to nothing
            place.put(2, "gold")
            await looked(place)
            assert subscriber.told.empty()
            await adopt(policy_of(fields={"plan": "hide"}))
            assert {await subscriber.next(), await subscriber.next()} == {ONE, TWO}
            place.put(1, "platinum")
            place.remove(2)
            assert await subscriber.next() == TWO
            assert subscriber.told.empty()
