"""The page: its order, and an event for every call before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from headgate.access.identity import Credentials
from headgate.errors import Forbidden, InvalidRequest, OriginRefused, OutboxError, Unauthenticated, Unavailable
from headgate.server.call import Call, Rooms, admit, run
from headgate.server.message import Asked
from headgate.testing import MemoryReader
from headgate.tools.base import Result
from tests.unit.server.house import House, open_house


class Visitor:
    """A request that remembers how far the page went with it."""

    door: Literal["http", "stdio"] = "http"
    peer = "192.0.2.77"

    def __init__(self, bearer: str | None, asked: Asked, *, refused_by_door: bool = False) -> None:
        self._bearer = bearer
        self._asked = asked
        self._refused_by_door = refused_by_door
        self.steps: list[str] = []

    def opened(self, request_id: str) -> None:
        self.request_id = request_id

    def check(self) -> None:
        self.steps.append("check")
        if self._refused_by_door:
            raise OriginRefused("not this way")

    def credentials(self) -> Credentials:
        self.steps.append("credentials")
        return Credentials(bearer=self._bearer, door="http")

    async def read(self) -> Asked:
        self.steps.append("read")
        return self._asked


LOOKUP = Asked(
    method="tools/call",
    name="lookup_customer",
    arguments={"customer_id": 3},
    rpc_id=7,
    client_name="probe",
    client_version="1",
    protocol_version="2026-07-28",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


async def answer(visitor: Visitor, rooms: Rooms, act: Callable[[Call], Awaitable[Any]]) -> Any:
    """The whole page."""
    return await run(await admit(visitor, rooms), act)


async def look_up(call: Call) -> Result:
    call.tool = (await call.rooms.toolbox.tools())[call.asked.name]
    return await call.tool.run(call.view(), call.asked.arguments)


async def test_an_answered_call_leaves_the_whole_of_it_on_the_disk_first(house: House) -> None:
    visitor = Visitor(house.token("data:read"), LOOKUP)
    result = await answer(visitor, house.rooms, look_up)
    assert visitor.steps == ["check", "credentials", "read"]
    assert result.structured["rows"][0]["values"]["email"] == "c3@shop.example"
    [event] = house.events()
    assert (event.status, event.error_code, event.door, event.method) == ("answered", "", "http", "tools/call")
    assert event.caller is not None
    assert (event.caller.subject, event.caller.scopes) == ("ada", ("data:read",))
    assert (event.name, event.request_id, event.client_name) == ("lookup_customer", 7, "probe")
    assert event.arguments is not None
    assert event.arguments.json == msgspec.Raw(b'{"customer_id":3}')
    assert event.positions == {"customer": {"0": 1}}
    assert event.policy_version == house.rooms.policy.version
    assert event.rules == ("scopes",)
    assert event.schema_sha256.startswith("sha256:")
    assert event.result is not None
    assert event.traceparent == LOOKUP.traceparent


async def test_the_event_is_durable_before_the_answer_is_given(house: House) -> None:
    seen: list[int] = []

    async def act(call: Call) -> str:
        seen.append(len(house.events()))
        return "done"

    await answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, act)
    assert seen == [0]
    assert len(house.events()) == 1


@pytest.mark.parametrize("bearer", [None, "nonsense", "hg_000000000000_" + "A" * 43])
async def test_a_stranger_is_counted_and_never_read(house: House, bearer: str | None) -> None:
    visitor = Visitor(bearer, LOOKUP)
    with pytest.raises(Unauthenticated):
        await admit(visitor, house.rooms)
    assert visitor.steps == ["check", "credentials"]
    assert house.events() == []
    await house.rooms.refusals.record()
    [aggregate] = house.bodies()
    assert b'"network":"192.0.2.0/24"' in aggregate
    assert b'"count":1' in aggregate


async def test_the_doors_own_refusal_comes_before_any_credential_is_looked_at(house: House) -> None:
    visitor = Visitor(house.token("data:read"), LOOKUP, refused_by_door=True)
    with pytest.raises(OriginRefused):
        await admit(visitor, house.rooms)
    assert visitor.steps == ["check"]


@pytest.mark.parametrize("name", ["lookup_customer", "lookup_no_such_thing", "lookup"])
async def test_without_the_scope_existing_and_missing_entities_are_refused_alike(house: House, name: str) -> None:
    asked = replace_asked(name=name)
    with pytest.raises(Forbidden) as refused:
        await admit(Visitor(house.token("pipelines:read"), asked), house.rooms)
    assert refused.value.scopes == ("data:read",)
    assert name not in refused.value.message
    [event] = house.events()
    assert (event.status, event.error_code, event.name) == ("refused", "insufficient_scope", name)
    assert event.result is None


async def test_what_an_act_raises_is_recorded_and_goes_on(house: House) -> None:
    async def mistaken(call: Call) -> None:
        raise InvalidRequest("no")

    async def broken(call: Call) -> None:
        raise ZeroDivisionError

    async def away(call: Call) -> None:
        raise Unavailable("the store does not answer")

    for act, raised in ((mistaken, InvalidRequest), (broken, ZeroDivisionError), (away, Unavailable)):
        with pytest.raises(raised):
            await answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, act)
    assert [(event.status, event.error_code) for event in house.events()] == [
        ("refused", "invalid_request"),
        ("failed", "internal"),
        ("failed", "unavailable"),
    ]


async def test_a_cancelled_call_is_recorded_as_such(house: House) -> None:
    under_way = asyncio.Event()

    async def wait(call: Call) -> None:
        under_way.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, wait))
    await asyncio.wait_for(under_way.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await house.rooms.settle()
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "cancelled")]


async def test_a_call_that_can_not_be_recorded_is_not_answered(house: House) -> None:
    acted: list[str] = []

    async def act(call: Call) -> str:
        acted.append(call.id)
        return "data"

    call = await admit(Visitor(house.token("data:read"), LOOKUP), house.rooms)
    house.rooms.outbox.close()
    with pytest.raises(OutboxError):
        await run(call, act)
    assert acted == [call.id]
    assert not call.closed


async def test_only_the_first_closing_counts(house: House) -> None:
    call = await admit(Visitor(house.token("data:read"), LOOKUP), house.rooms)
    await run(call, look_up)
    with pytest.raises(InvalidRequest):
        async with call.recorded():
            raise InvalidRequest("too late")
    assert [event.status for event in house.events()] == ["answered"]


async def test_an_api_key_is_taken_too(house: House) -> None:
    _, text = house.keys.make("ci", ["data:read"])
    await answer(Visitor(text, LOOKUP), house.rooms, look_up)
    [event] = house.events()
    assert event.caller is not None
    assert event.caller.method == "api_key"
    assert all(text.encode() not in body for body in house.bodies())


async def test_listing_needs_no_scope(house: House) -> None:
    call = await admit(Visitor(house.token(), Asked(method="tools/list")), house.rooms)
    assert await call.rooms.toolbox.allowed(call.granted) == {}


def replace_asked(**changes: Any) -> Asked:
    return msgspec.structs.replace(LOOKUP, **changes)


async def test_tools_follow_the_entities_that_are_published(house: House) -> None:
    rooms = replace(house.rooms, reader=MemoryReader([]))
    assert "lookup_customer" in await house.rooms.toolbox.tools()
    assert "lookup_customer" not in await rooms.toolbox.tools()
