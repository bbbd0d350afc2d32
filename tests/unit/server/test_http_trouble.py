"""The HTTP door when a budget is spent, a caller is odd, or something behind it is broken."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headgate.errors import Unavailable
from headgate.server.http import Door, HttpSettings
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House, open_house
from tests.unit.server.visiting import (
    JSON_HEADERS,
    Broken,
    bearer,
    call_of,
    legacy,
    modern,
    modern_headers,
    said,
    visit,
)

# --- ids, budgets, and who to be ---------------------------------------------------------------------


async def test_every_answer_carries_its_id_for_those_who_read_no_body_too(house: House) -> None:
    token = house.token("data:read")
    calls = [
        call_of("lookup_customer", {"customer_id": 2}, token),
        call_of("lookup_customer", {"wrong": 2}, token),
        call_of("no_such_tool", {}, token),
        call_of("list_pipelines", {}, token),
        {"json": modern("tools/list"), "headers": modern_headers("tools/list", "", token)},
        {"json": modern("server/discover"), "headers": modern_headers("server/discover", "", token)},
        {"json": [], "headers": {**JSON_HEADERS, **bearer(token)}},
        legacy("ping", token=token),
        legacy("tools/call", {"name": "lookup_customer", "arguments": {"customer_id": 2}}, token=token),
    ]
    async with visit(house) as client:
        answers = [await client.post("/mcp", **call) for call in calls]
        stranger = await client.post("/mcp", **call_of("lookup", {}, None))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [event.id for event in house.events()]
    assert stranger.headers["x-request-id"] not in ids
    for answer, request_id in zip(answers, ids, strict=True):
        message = said(answer)
        told = message["result"].get("_meta", {}) if "result" in message else message["error"].get("data") or {}
        assert {told.get("headgate/request_id"), told.get("request_id")} <= {request_id, None}
    for number in (0, 1, 4, 8):
        assert said(answers[number])["result"]["_meta"]["headgate/request_id"] == ids[number]


async def test_a_spent_budget_is_an_answer_that_says_when_to_come_back(tmp_path: Path) -> None:
    with open_house(tmp_path, budgets={"read": {"calls": 2, "per_s": 120}}) as house:
        token = house.token("data:read")
        call = call_of("lookup_customer", {"customer_id": 2}, token)
        uri = "headgate://entity/customer/2"
        row = {"json": modern("resources/read", {"uri": uri}), "headers": modern_headers("resources/read", uri, token)}
        async with visit(house) as client:
            first = said(await client.post("/mcp", **call))["result"]
            assert first["_meta"]["headgate/budget"] == {
                "class": "read", "limit": 2, "per_s": 120.0, "remaining": 1, "retry_after_ms": 0,
            }  # fmt: skip
            assert said(await client.post("/mcp", **row))["result"]["_meta"]["headgate/budget"]["remaining"] == 0
            refused = await client.post("/mcp", **call)
            refused_row = await client.post("/mcp", **row)
            listed = await client.post(
                "/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", "", token)
            )
    result = said(refused)["result"]
    assert result["isError"] is True
    assert "c2@shop.example" not in refused.text
    assert result["content"][0]["text"].endswith("come back in 60 seconds.")
    assert result["_meta"]["headgate/error"] == {"code": "budget_spent", "retry_after_s": 60}
    assert result["_meta"]["headgate/budget"]["retry_after_ms"] == 60_000
    assert "headgate/freshness" not in result["_meta"]
    error = said(refused_row)["error"]["data"]
    assert (error["code"], error["retry_after_s"], error["budget"]["remaining"]) == ("budget_spent", 60, 0)
    for answer in (refused, refused_row):
        if "text/event-stream" not in answer.headers["content-type"]:
            assert answer.headers["retry-after"] == "60"
    assert "result" in said(listed)


@pytest.mark.parametrize("bad", ["", "x" * 201, "ü", "a\nb", 7, None, ["k"]])
async def test_an_idempotency_key_that_is_none_is_refused(house: House, bad: Any) -> None:
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    call["json"]["params"]["_meta"]["headgate/idempotency-key"] = bad
    async with visit(house) as client:
        answer = await client.post("/mcp", **call)
    assert "headgate/idempotency-key" in said(answer)["error"]["message"]
    assert "c2@shop.example" not in answer.text


async def test_a_stranger_is_told_which_scopes_to_ask_for(house: House) -> None:
    asked = {"lookup_customer": "data:read", "lookup_no_such_thing": "data:read", "list_pipelines": "pipelines:read"}
    async with visit(house) as client:
        for tool, scope in asked.items():
            challenge = (await client.post("/mcp", **call_of(tool, {}, None))).headers["www-authenticate"]
            assert challenge.startswith(f'Bearer scope="{scope}", resource_metadata=')
            challenge = (await client.post("/mcp", **call_of(tool, {}, "forged"))).headers["www-authenticate"]
            assert challenge.startswith(f'Bearer error="invalid_token", scope="{scope}", resource_metadata=')
        challenge = (await client.post("/mcp", **call_of("no_such_tool", {}, None))).headers["www-authenticate"]
        assert "scope=" not in challenge


async def test_a_proxys_word_on_a_certificate_counts_from_the_proxy_alone(tmp_path: Path) -> None:
    proxy = {"trusted": ["10.0.0.7/32"], "scopes": {"CN=reports": ["data:read"]}}
    settings = HttpSettings(subject_header="x-client-subject")
    call = call_of("lookup_customer", {"customer_id": 2}, None)
    with open_house(tmp_path, proxy=proxy, local=True) as house:
        named = {**call, "headers": {**call["headers"], "x-client-subject": "CN=reports"}}
        empty = {**call, "headers": {**call["headers"], "x-client-subject": ""}}
        twice = {
            **call,
            "headers": [*call["headers"].items(), ("X-Client-Subject", "CN=a"), ("x-client-subject", "CN=b")],
        }
        async with visit(house, settings, peer="10.0.0.7") as client:
            assert "c2@shop.example" in (await client.post("/mcp", **named)).text
            assert (await client.post("/mcp", **empty)).status_code == 401
            assert (await client.post("/mcp", **twice)).status_code == 400
        async with visit(house, settings, peer="127.0.0.1") as client:
            assert (await client.post("/mcp", **named)).status_code == 401
            assert (await client.post("/mcp", **empty)).status_code == 401
            assert (await client.post("/mcp", **call)).status_code == 200
        [event, *_] = house.events()
        assert event.caller is not None
        assert (event.caller.subject, event.caller.method) == ("CN=reports", "mtls")


# --- when something is broken ----------------------------------------------------------------------


async def test_without_a_disk_for_events_nothing_is_answered(house: House) -> None:
    calls = [
        call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")),
        legacy("tools/call", {"name": "lookup_customer", "arguments": {"customer_id": 2}}, token=house.token("admin")),
        {"json": modern("server/discover"), "headers": modern_headers("server/discover", "", house.token())},
        legacy("ping", token=house.token()),
    ]
    async with visit(house) as client:
        house.rooms.outbox.close()
        for call in calls:
            response = await client.post("/mcp", **call)
            assert "c2@shop.example" not in response.text
            assert "result" not in said(response)
            assert said(response)["error"]["data"]["code"] == "outbox_failed"


async def test_a_failure_inside_says_nothing_but_its_id(house: House, caplog: pytest.LogCaptureFixture) -> None:
    broken = house.with_reader(Broken(ValueError("password=hunter2 at /srv/db")))
    async with visit(broken) as client:
        new = await client.post("/mcp", **call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")))
        arguments = {"name": "lookup_customer", "arguments": {"customer_id": 2}}
        old = await client.post("/mcp", **legacy("tools/call", arguments, token=house.token("data:read")))
        fine = await client.post(
            "/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", "", house.token())
        )
    events = house.events()
    for response, event in zip((new, old), events, strict=False):
        error = said(response)["error"]
        assert error["code"] == -32603
        assert error["data"]["request_id"] == event.id
        assert "hunter2" not in response.text
        assert (event.status, event.error_code) == ("failed", "internal")
    assert "hunter2" in caplog.text
    assert fine.status_code == 200


async def test_a_store_that_is_away_is_an_answer_to_try_again(house: House) -> None:
    away = house.with_reader(Broken(Unavailable("the store does not answer: try again", retry_after_s=2.0)))
    async with visit(away) as client:
        response = await client.post("/mcp", **call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")))
    result = said(response)["result"]
    assert result["isError"] is True
    assert result["_meta"]["headgate/error"] == {"code": "unavailable", "retry_after_s": 2.0}
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "unavailable")]


class Slow(MemoryReader):
    """A store that does not come back."""

    def __init__(self) -> None:
        super().__init__([CUSTOMER], {CUSTOMER.name: ROWS}, as_of_ms=NOW_MS)
        self.asked = asyncio.Event()

    async def get(self, entity: str, keys: Any) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_call_whose_client_leaves_is_ended_and_recorded(house: House, era: str) -> None:
    slow = Slow()
    token = house.token("data:read")
    arguments = {"name": "lookup_customer", "arguments": {"customer_id": 2}}
    call = call_of("lookup_customer", {"customer_id": 2}, token) if era == "modern" else legacy(
        "tools/call", arguments, token=token
    )  # fmt: skip
    rooms = replace(house.rooms, reader=slow)
    door = Door(rooms, HttpSettings())
    left = asyncio.Event()
    messages = iter([{"type": "http.request", "body": json.dumps(call["json"]).encode(), "more_body": False}])

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await left.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: Any) -> None:
        pass

    headers = [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in call["headers"].items())]
    scope = {
        "type": "http",
        "path": "/mcp",
        "method": "POST",
        "headers": headers,
        "query_string": b"",
        "scheme": "http",
    }
    async with door.running():
        serving = asyncio.ensure_future(door(scope, receive, send))
        await asyncio.wait_for(slow.asked.wait(), 60)
        left.set()
        await asyncio.wait_for(serving, 60)
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "cancelled")]
