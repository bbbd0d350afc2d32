"""The event of a call: what the client says of itself, what is kept of arguments and answers, what the call cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.access.policy import Edition
from headgate.audit.event import CallEvent, Payload
from headgate.audit.kinds import INTENT_TYPE, PIPELINE_TYPE
from headgate.audit.payloads import PayloadRules
from headgate.errors import Unavailable
from headgate.model.caller import Caller
from headgate.server.call import Call, admit, run
from headgate.server.message import Asked, asked_of, parse
from headgate.server.record import Recording, answered, event_of
from headgate.tools._resources import ResourceContents
from headgate.tools.base import Result
from tests.unit.server.house import House, open_house
from tests.unit.server.test_call import Visitor

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


async def call_of(house: House, asked: Asked, *scopes: str) -> Call:
    return await admit(Visitor(house.token(*scopes), asked), house.rooms)


async def lookup(call: Call) -> Result:
    assert call.tool is not None
    return await call.tool.run(call.view(), call.asked.arguments)


async def recorded(house: House, asked: Asked, *scopes: str) -> CallEvent:
    await run(await call_of(house, asked, *scopes or ("data:read",)), lookup)
    return house.events()[-1]


def lookup_by(**arguments: Any) -> Asked:
    return Asked(method="tools/call", name="lookup_customer", arguments=arguments, rpc_id=1)


def told(**rules: Any) -> Recording:
    return Recording(PayloadRules(**rules))


# --- what the client says ------------------------------------------------------------------------


def asked_with(meta: dict[str, Any], **more: str) -> Asked:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "_meta": meta}}
    return asked_of(parse(json.dumps(body).encode()), **more)


def test_task_model_and_prompt_are_taken_from_meta() -> None:
    asked = asked_with({"headgate/task": "T-7", "headgate/model": "m-1", "headgate/prompt": "p-2"})
    assert (asked.task, asked.model, asked.prompt) == ("T-7", "m-1", "p-2")
    related = asked_with({"io.modelcontextprotocol/related-task": {"taskId": "T-8"}})
    assert related.task == "T-8"
    nonsense = asked_with({"headgate/task": 7, "headgate/model": ["m"], "headgate/prompt": None})
    assert (nonsense.task, nonsense.model, nonsense.prompt) == ("", "", "")


async def test_they_are_in_the_event_and_cut(house: House) -> None:
    event = await recorded(
        house,
        msgspec.structs.replace(
            lookup_by(customer_id=3), task="T-7", model="m" * 5_000, prompt="p", traceparent=TRACE, tracestate="a=b"
        ),
    )
    assert (event.task, event.prompt, event.traceparent, event.tracestate) == ("T-7", "p", TRACE, "a=b")
    assert event.model == "m" * 1_024
    envelope = msgspec.json.decode(house.bodies()[-1])
    assert (envelope["traceparent"], envelope["tracestate"]) == (TRACE, "a=b")


async def test_without_a_valid_traceparent_there_is_no_tracestate(house: House) -> None:
    event = await recorded(house, msgspec.structs.replace(lookup_by(customer_id=3), traceparent="x", tracestate="a=b"))
    assert (event.traceparent, event.tracestate) == (None, msgspec.UNSET)


async def test_the_claims_that_the_policy_asks_for_are_in_the_event(house: House) -> None:
    """And no others: a token may say much of a person that decides nothing."""
    house.rooms.policy.adopt(
        Edition.of("""
rules:
  - {name: seen, to: {claims: {groups: night}}, tools: "*", entities: [customer]}
  - {name: own, to: everyone, tools: "*", entities: {customer: {rows: plan = claims.org.plan}}}
""")
    )
    claimed = {"org": {"plan": "vip", "tax": "7-7"}, "groups": ["day"], "email": "ada@x.example"}
    caller = Caller(subject="ada", method="jwt", scopes=frozenset(["data:read"]), claims=claimed)
    call = await call_of(house, lookup_by(customer_id=7), "data:read")
    call.grant = house.rooms.policy.decide(caller)
    claims = event_of(call, answered(None)).claims
    assert isinstance(claims, Payload) and isinstance(claims.json, msgspec.Raw)
    assert json.loads(bytes(claims.json)) == {"groups": ["day"], "org.plan": "vip"}
    call.grant = house.rooms.policy.decide(msgspec.structs.replace(caller, claims={"groups": "x" * 5_000}))
    large = event_of(call, answered(None)).claims
    assert isinstance(large, Payload) and large.bytes > 5_000 and large.json is msgspec.UNSET
    call.grant = house.rooms.policy.decide(msgspec.structs.replace(caller, claims={"email": "ada@x.example"}))
    assert event_of(call, answered(None)).claims is msgspec.UNSET


async def test_what_the_call_cost_and_took_is_in_the_event(house: House) -> None:
    event = await recorded(house, lookup_by(customer_id=3))
    assert not isinstance(event.budget, msgspec.UnsetType)
    assert (event.budget.class_, event.budget.limit, event.budget.remaining) == ("read", 100, 99)
    assert not isinstance(event.admitted_us, msgspec.UnsetType)
    assert 0 < event.admitted_us < event.duration_us


# --- what is kept --------------------------------------------------------------------------------


def json_of(payload: Any) -> Any:
    return None if payload.json is msgspec.UNSET else msgspec.json.decode(payload.json)


async def test_unless_told_otherwise_arguments_are_whole_and_results_a_digest(house: House) -> None:
    event = await recorded(house, lookup_by(email="c3@shop.example"))
    assert json_of(event.arguments) == {"email": "c3@shop.example"}
    assert json_of(event.result) is None


async def test_masked_events_hold_no_personal_value(house: House) -> None:
    rooms = replace(house.rooms, recording=told(arguments="masked", results="masked"))
    event = await recorded(replace(house, rooms=rooms), lookup_by(email="c3@shop.example"))
    assert json_of(event.arguments) == {"email": "***"}
    (row,) = json_of(event.result)["rows"]
    assert row["values"] == {"id": 3, "email": "***", "plan": "free"}
    assert b"c3@shop" not in house.bodies()[-1]


async def test_digests_alone_hold_no_value(house: House) -> None:
    rooms = replace(house.rooms, recording=told(arguments="digest", results="digest"))
    event = await recorded(replace(house, rooms=rooms), lookup_by(email="c3@shop.example"))
    assert event.arguments is not None and event.arguments.sha256.startswith("sha256:")
    assert b"c3@shop" not in house.bodies()[-1]


async def test_one_tool_may_be_kept_in_another_way(house: House) -> None:
    rooms = replace(house.rooms, recording=told(tools={"lookup_customer": {"results": "whole"}}))
    event = await recorded(replace(house, rooms=rooms), lookup_by(customer_id=3))
    assert json_of(event.result)["rows"][0]["values"]["email"] == "c3@shop.example"


async def test_a_resource_is_masked_within_its_text(house: House) -> None:
    rooms = replace(house.rooms, recording=told(results="masked"))
    shown = ResourceContents(
        uri="headgate://entity/customer/3",
        mime_type="application/json",
        text='{"values": {"email": "c3@shop.example"}}',
    )

    async def read(_: Call) -> ResourceContents:
        return shown

    asked = Asked(method="resources/read", name=shown.uri, rpc_id=1)
    await run(await call_of(replace(house, rooms=rooms), asked, "data:read"), read)
    event = house.events()[-1]
    assert json_of(event.result) == {"values": {"email": "***"}}


async def test_when_nobody_can_tell_what_is_personal_the_digest_is_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = replace(house.rooms, recording=told(arguments="masked", results="masked"))
    call = await call_of(replace(house, rooms=rooms), lookup_by(email="c3@shop.example"), "data:read")

    async def away() -> Any:
        raise Unavailable("the store does not answer")

    async def act(call: Call) -> Result:
        result = await lookup(call)
        monkeypatch.setattr(rooms.reader, "entities", away)
        return result

    await run(call, act)
    event = house.events()[-1]
    assert event.status == "answered" and event.arguments is not None
    assert (json_of(event.arguments), json_of(event.result)) == (None, None)
    assert b"c3@shop" not in house.bodies()[-1]


# --- what is asked of pipelines ------------------------------------------------------------------


async def test_what_is_asked_of_a_pipeline_has_an_event_of_its_own_before_it_is_done(house: House) -> None:
    seen: list[str] = []

    async def act(call: Call) -> Result:
        seen.extend(msgspec.json.decode(body)["type"] for body in house.bodies())
        return Result(structured={}, text="")

    asked = Asked(method="tools/call", name="pause_pipeline", arguments={"pipeline_id": "shop"}, rpc_id=1)
    call = await call_of(house, asked, "pipelines:read", "pipelines:write")
    await run(call, act)
    assert sorted(seen) == [INTENT_TYPE, PIPELINE_TYPE]
    (event,) = [body["data"] for body in map(msgspec.json.decode, house.bodies()) if body["type"] == PIPELINE_TYPE]
    assert (event["pipeline"], event["action"], event["call"]) == ("shop", "pause_pipeline", call.id)
    assert event["caller"]["subject"] == "ada"
