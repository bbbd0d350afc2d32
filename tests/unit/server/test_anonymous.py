"""Anonymous callers: what they are refused fills no disk, what they are answered costs, and networks are told apart."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pytest

from headgate.access.idempotency import KEPT_MS
from headgate.access.identity import Credentials
from headgate.access.watching import PushConfig, Watching
from headgate.audit.refusals import REFUSALS_TYPE
from headgate.errors import TooManyWaiting, Unavailable
from headgate.model.caller import Caller, network_of
from headgate.server.call import Call, Rooms, admit, run
from headgate.server.message import Asked
from headgate.server.push.listening import LISTEN
from headgate.server.request import HttpSettings
from headgate.server.sse import MOST_OF_ONE
from headgate.server.tasks.task import TaskSettings
from headgate.testing import MemoryHearer, MemoryReader, grant_of, view_of
from headgate.tools._offer import Offer
from tests.unit.server.house import CUSTOMER, ROWS, House, open_house
from tests.unit.server.push.watched import until, watched, within
from tests.unit.server.served import DEADLINE_S, served
from tests.unit.server.talkers import Talkers
from tests.unit.server.test_once import SWITCH, Lamp
from tests.unit.server.test_rounds import ANSWERS
from tests.unit.server.test_tasks import CAPABILITIES, TASKS, Jobs
from tests.unit.server.visiting import Broken, call_of, legacy, modern, modern_headers, said, visit

HERE, THERE = "192.0.2.7", "198.51.100.7"
LOOKUP = call_of("lookup_customer", {"customer_id": 3}, None)
STREAM = {"accept": "text/event-stream"}


@asynccontextmanager
async def open_to_all(folder: Path, **identity: Any) -> AsyncIterator[House]:
    """A house that lets anyone in, to read."""
    with open_house(folder, anonymous=True, **{"anonymous_scopes": ["data:read"], **identity}) as house:
        yield house


async def counted(house: House) -> Counter[str]:
    """How many were counted in aggregate, by reason."""
    await house.rooms.refusals.record()
    found: Counter[str] = Counter()
    for body in house.bodies():
        event = json.loads(body)
        if event["type"] == REFUSALS_TYPE:
            for count in event["data"]["counts"]:
                assert count["network"] in (network_of(HERE), network_of("127.0.0.1"))
                found[count["reason"]] += count["count"]
    return found


def of_list(method: str = "tools/list") -> dict[str, Any]:
    return {"json": modern(method), "headers": modern_headers(method)}


def stranger(peer: str = HERE) -> Caller:
    return Caller(subject="anonymous", method="anonymous", scopes=frozenset(), network=network_of(peer))


# --- the record ----------------------------------------------------------------------------------


@pytest.mark.parametrize("express", [True, False])
async def test_what_they_are_refused_is_counted_whatever_it_is(tmp_path: Path, express: bool) -> None:
    async with open_to_all(tmp_path) as house, visit(house, HttpSettings(express=express)) as client:
        answers = [
            await client.post("/mcp", **call_of("no_such_tool", {"text": "x" * 60_000}, None)),
            await client.post("/mcp", **call_of("lookup_customer", {"text": "x" * 60_000}, None)),
            await client.post("/mcp", **call_of("list_pipelines", {}, None)),
            await client.post("/mcp", content=b"{", headers=LOOKUP["headers"]),
            await client.post("/mcp", **of_list("no/such/method")),
            await client.get("/mcp"),
        ]
        assert [answer.status_code for answer in answers] == [400, 200, 403, 400, 404, 405]
        assert house.events() == []
        assert await counted(house) == {
            "unknown_tool": 1, "invalid_arguments": 1, "insufficient_scope": 1, "invalid_request": 3,
        }  # fmt: skip


@pytest.mark.parametrize("express", [True, False])
async def test_what_they_are_answered_has_an_event_and_costs_whatever_it_is(tmp_path: Path, express: bool) -> None:
    """So many events as there is budget, and no more: also of what is free to others."""
    async with (
        open_to_all(tmp_path, budgets={"read": 5, "costs": {"lookup_customer": 0}}) as house,
        visit(house, HttpSettings(express=express)) as client,
    ):
        sent = [LOOKUP, of_list(), legacy("ping", token=""), legacy("notifications/initialized", token="")]
        sent[-1]["json"].pop("id")
        completing = modern("completion/complete", {
            "ref": {"type": "ref/resource", "uri": "headgate://entity/{entity}/{key}"},
            "argument": {"name": "entity", "value": "x" * 60_000},
        })  # fmt: skip
        sent.append({"json": completing, "headers": modern_headers("completion/complete")})
        answers = [await client.post("/mcp", **each) for each in sent * 3]
        assert [answer.status_code for answer in answers[:5]] == [200, 200, 200, 202, 200]
        assert said(answers[1])["result"]["_meta"]["headgate/budget"]["remaining"] == 3
        for answer in answers[6:10]:
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "12")
        assert "come back in" in said(answers[5])["result"]["content"][0]["text"]
        assert Counter(event.status for event in house.events()) == {"answered": 5}
        assert await counted(house) == {"budget_spent": 10}


async def test_whom_we_know_pays_for_no_list_and_has_each_refusal_recorded(tmp_path: Path) -> None:
    async with open_to_all(tmp_path, budgets={"read": 1}) as house, visit(house) as client:
        token = house.token("data:read")
        for _ in range(3):
            answer = await client.post(
                "/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", "", token)
            )
            assert answer.status_code == 200
        await client.post("/mcp", **call_of("no_such_tool", {}, token))
        assert [event.status for event in house.events()] == ["answered"] * 3 + ["refused"]
        assert await counted(house) == {}


async def test_what_fails_before_it_is_paid_for_is_counted_and_after_that_recorded(tmp_path: Path) -> None:
    class Away(Broken):
        async def entities(self) -> Any:
            raise self.failure

    async with open_to_all(tmp_path) as house:
        async with visit(house.with_reader(Away(Unavailable("gone")))) as client:
            assert (await client.post("/mcp", **LOOKUP)).status_code == 503
        assert house.events() == []
        async with visit(house.with_reader(Broken(Unavailable("gone")))) as client:
            await client.post("/mcp", **LOOKUP)
        assert [(event.status, event.error_code) for event in house.events()] == [("failed", "unavailable")]
        assert await counted(house) == {"unavailable": 1}


async def test_streams_are_counted_or_recorded_alike(tmp_path: Path) -> None:
    """HTTP+SSE and `subscriptions/listen`: an opening is paid for, and one that is refused is counted."""
    with watched(tmp_path, PushConfig(uris_per_listener=1), anonymous=True, budgets={"read": 3}) as place:
        house = place.house
        async with served(house) as at, httpx.AsyncClient(base_url=at.url, timeout=DEADLINE_S) as client:
            for uris in (["a", "b"], ["a"]):
                wanted = {"notifications": {"resourceSubscriptions": uris}}
                listening = client.stream("POST", "/mcp", json=modern(LISTEN, wanted), headers=modern_headers(LISTEN))
                async with listening as answer:
                    assert answer.status_code == (200 if uris == ["a"] else 400)
            async with client.stream("GET", "/sse", headers=STREAM) as answer:
                assert answer.status_code == 200
            assert (await client.get("/sse", headers=STREAM)).status_code == 429
            assert (await client.post("/messages?session_id=none", json=modern("ping"))).status_code == 400
            await until(lambda: len(house.events()) == 2)
        assert {(event.method, event.status) for event in house.events()} == {(LISTEN, "answered"), ("GET", "answered")}
        assert await counted(house) == {"invalid_arguments": 1, "budget_spent": 1, "invalid_request": 1}


# --- one network is not another ----------------------------------------------------------------------


async def test_a_caller_is_its_network(tmp_path: Path) -> None:
    async with open_to_all(tmp_path) as house:
        identity = house.rooms.identity
        here = await identity.identify(Credentials(bearer=None, door="http", peer=HERE))
        beside = await identity.identify(Credentials(bearer=None, door="http", peer="192.0.2.9"))
        there = await identity.identify(Credentials(bearer=None, door="http", peer=THERE))
    assert here is beside, "the very same, as what is made for it is kept for it"
    assert (here.who, there.who) == (("anonymous", "", "anonymous", "192.0.2.0/24"), (*here.who[:3], "198.51.100.0/24"))
    known = Caller(subject="anonymous", method="jwt", scopes=frozenset(), network="192.0.2.0/24")
    assert known.who == ("jwt", "", "anonymous"), "whom we know is the same wherever it calls from"


class Guest:
    """A request without a credential."""

    door: Literal["http", "stdio"] = "http"

    def __init__(self, peer: str, asked: Asked) -> None:
        self.peer = peer
        self._asked = asked

    def opened(self, request_id: str) -> None:
        """Nobody wants to know."""

    def check(self) -> None:
        """It keeps the door's rules."""

    def credentials(self) -> Credentials:
        return Credentials(bearer=None, door="http", peer=self.peer)

    async def read(self) -> Asked:
        return self._asked


async def switching(rooms: Rooms, peer: str) -> Call:
    call = await admit(Guest(peer, Asked(method="tools/call", name="switch", idempotency_key="k-1")), rooms)
    call.tool = SWITCH
    return call


async def test_an_idempotency_key_is_its_networks_alone(tmp_path: Path) -> None:
    lamp = Lamp()
    async with open_to_all(tmp_path) as house:
        first, there, again = [
            (await run(await switching(house.rooms, peer), lamp.switch)).structured["times"]
            for peer in (HERE, THERE, "192.0.2.9")
        ]
    assert (first, there, again) == (1, 2, 1)


async def test_what_is_kept_between_rounds_is_its_networks_alone(tmp_path: Path) -> None:
    async with open_to_all(tmp_path) as opened:
        house = Talkers().house(opened)
        async with visit(house) as here, visit(house, peer=THERE) as there:
            first = call_of("ask", {"about": "it"}, None)
            first["json"]["params"]["_meta"][CAPABILITIES] = {"elicitation": {}}
            state = said(await here.post("/mcp", **first))["result"]["requestState"]
            first["json"]["params"] |= {"requestState": state, "inputResponses": ANSWERS}
            assert (await there.post("/mcp", **first)).status_code == 400
            assert said(await here.post("/mcp", **first))["result"]["content"][0]["text"] == "Ada"


async def test_tasks_are_their_networks_alone(tmp_path: Path) -> None:
    jobs = Jobs()
    making = call_of("need", {"about": "it"}, None)
    making["json"]["params"]["_meta"][CAPABILITIES] = TASKS
    async with open_to_all(tmp_path) as opened:
        settings = TaskSettings(most_open=1)
        house = replace(opened, rooms=replace(opened.rooms, offer=Offer(tools=jobs.tools), tasks=settings))
        async with visit(house) as here, visit(house, peer=THERE) as there:
            id_ = said(await here.post("/mcp", **making))["result"]["taskId"]
            full = said(await here.post("/mcp", **making))["result"]["_meta"]["headgate/error"]["code"]
            other = said(await there.post("/mcp", **making))["result"]["status"]
            asking = modern("tasks/get", {"taskId": id_})
            asking["params"]["_meta"][CAPABILITIES] = TASKS
            got = {"json": asking, "headers": modern_headers("tasks/get", id_)}
            assert said(await there.post("/mcp", **got))["error"]["data"]["code"] == "unknown_task"
            jobs.go_on.set()
            await until(lambda: not house.rooms.works)
            assert said(await here.post("/mcp", **got))["result"]["status"] == "completed"
    assert (full, other) == ("too_many_tasks", "working")
    assert [event.status for event in house.events() if event.result is not None] == ["answered"] * 2


async def test_places_to_wait_are_each_networks_own() -> None:
    reader = MemoryReader([CUSTOMER], {"customer": ROWS})
    watching = Watching(reader, MemoryHearer(), PushConfig(waits_per_caller=1))
    [tool] = [each for each in Offer().tools({"customer": CUSTOMER}).values() if each.name == "wait_for_change"]
    arguments = {"entity": "customer", "key": 1, "timeout_s": 60}

    def waiting(peer: str) -> asyncio.Task[Any]:
        grant = grant_from(peer)
        return asyncio.create_task(tool.run(view_of(reader, watching=watching, grant=grant), arguments))

    calls = [waiting(HERE), waiting(THERE)]
    await until(lambda: watching._waiting.total() == 2)
    with pytest.raises(TooManyWaiting):
        await within(waiting("192.0.2.9"))
    reader.put("customer", {**ROWS[0], "plan": "gold"})
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await watching.close()


async def test_what_is_kept_for_a_later_call_is_its_networks_alone() -> None:
    reader = MemoryReader([CUSTOMER], {"customer": ROWS})
    here = view_of(reader, grant=grant_from(HERE))
    name = await here.keep(b"how it looked", KEPT_MS)
    assert await here.with_grant(grant_from("192.0.2.9")).kept(name) == b"how it looked"
    assert await here.with_grant(grant_from(THERE)).kept(name) is None


async def test_open_streams_are_each_networks_own(tmp_path: Path) -> None:
    bounds = PushConfig(listeners_per_caller=1)
    with watched(tmp_path, bounds, anonymous=True, anonymous_scopes=["data:read"]) as place:
        rooms = place.house.rooms
        asked = Asked(method=LISTEN, arguments={"notifications": {}}, protocol_version="2026-07-28")
        opened = [await rooms.push.open(await admit(Guest(peer, asked), rooms)) for peer in (HERE, THERE)]
        with pytest.raises(TooManyWaiting):
            await rooms.push.open(await admit(Guest("192.0.2.9", asked), rooms))
        for listener in opened:
            rooms.push.forget(listener)
        await rooms.push.close()


async def test_streams_of_the_older_transport_are_each_networks_own(tmp_path: Path) -> None:
    """By two addresses of this machine, in two networks."""
    async with open_to_all(tmp_path) as house, served(house) as at, AsyncExitStack() as stack:
        here, there = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=at.url, timeout=DEADLINE_S, transport=httpx.AsyncHTTPTransport(local_address=address)
                )
            )
            for address in ("127.0.0.1", "127.0.7.1")
        ]
        streams = [
            await stack.enter_async_context(here.stream("GET", "/sse", headers=STREAM)) for _ in range(MOST_OF_ONE)
        ]
        assert (await here.get("/sse", headers=STREAM)).status_code == 503
        assert (await stack.enter_async_context(there.stream("GET", "/sse", headers=STREAM))).status_code == 200
        lines = streams[0].aiter_lines()
        while not (line := await within(anext(lines))).startswith("data: "):
            pass
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        where = line.removeprefix("data: ")
        assert (await there.post(where, json=ping)).status_code == 404
        assert (await here.post(where, json=ping)).status_code == 202


def grant_from(peer: str) -> Any:
    """A grant of a stranger who may read."""
    return msgspec.structs.replace(grant_of("data:read"), caller=stranger(peer))
