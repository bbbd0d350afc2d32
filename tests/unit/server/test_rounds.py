"""Calls of several rounds: what is kept goes by the client, and is good for its caller and request alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headgate.server.rounds import TTL_MS
from tests.unit.server.house import NOW_MS, House, open_house
from tests.unit.server.talkers import Talkers
from tests.unit.server.visiting import call_of, legacy, said, visit

ANSWERS = {"who": {"action": "accept", "content": {"name": "Ada"}}}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield Talkers().house(opened)


def round_of(house: House, tool: str = "ask", state: str | None = None, **more: Any) -> dict[str, Any]:
    """Arguments of `client.post`; with a state, those of the second round."""
    token = house.token(subject=more.pop("subject", "ada"))
    call = call_of(tool, {"about": more.pop("about", "it")}, token)
    call["json"]["params"]["_meta"][CAPABILITIES] = more.pop("capabilities", {"elicitation": {}})
    call["json"]["params"]["_meta"].update(more)
    if state is not None:
        call["json"]["params"] |= {"requestState": state, "inputResponses": ANSWERS}
    return call


async def test_the_second_round_goes_on_with_what_the_first_kept(house: House) -> None:
    async with visit(house) as client:
        first = said(await client.post("/mcp", **round_of(house)))["result"]
    assert first["resultType"] == "input_required"
    assert first["inputRequests"]["who"]["method"] == "elicitation/create"
    assert "about" not in first["requestState"]
    other = replace(house, rooms=replace(house.rooms, clock=lambda: NOW_MS + TTL_MS - 1))
    async with visit(other) as client:  # another process with the same state
        second = said(await client.post("/mcp", **round_of(house, state=first["requestState"])))["result"]
    assert (second["content"][0]["text"], second["structuredContent"]) == ("Ada", {"kept": {"about": "it"}})
    assert [(event.status, event.error_code) for event in house.events()] == [
        ("refused", "input_required"),
        ("answered", ""),
    ]


def turned(state: str) -> str:
    """The same text with one bit of what it holds turned."""
    raw = bytearray(base64.urlsafe_b64decode(state + "=" * (-len(state) % 4)))
    raw[len(raw) // 2] ^= 1
    return base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")


async def test_a_state_is_good_for_nothing_else(house: House) -> None:
    late = replace(house, rooms=replace(house.rooms, clock=lambda: NOW_MS + TTL_MS))
    async with visit(house) as client:
        state = said(await client.post("/mcp", **round_of(house)))["result"]["requestState"]
        refused = [
            await client.post("/mcp", **round_of(house, state=turned(state))),
            await client.post("/mcp", **round_of(house, state=state, subject="eve")),
            await client.post("/mcp", **round_of(house, state=state, about="else")),
            await client.post("/mcp", **round_of(house, "change", state=state)),
            await client.post("/mcp", **round_of(house, state="")),
            await client.post("/mcp", **round_of(house, state="é")),
            await client.post("/mcp", **round_of(house, state="A" * 100_000)),
        ]
    async with visit(late) as client:
        refused.append(await client.post("/mcp", **round_of(house, state=state)))
    empty = said(refused.pop(4))["result"]
    assert empty["structuredContent"] == {"kept": None}, "no state is a first round, whatever answers come with it"
    for answer in refused:
        assert (answer.status_code, said(answer)["error"]["code"]) == (400, -32602)
    assert {event.error_code for event in house.events()[1:]} == {"invalid_request", ""}


async def test_a_client_is_asked_for_what_it_can_be_asked_for_alone(house: House) -> None:
    async with visit(house) as client:
        lacking = await client.post("/mcp", **round_of(house, capabilities={"sampling": {}}))
        old = await client.post("/mcp", **legacy("tools/call", {"name": "ask"}, token=house.token()))
    error = said(lacking)["error"]
    assert (lacking.status_code, error["code"]) == (400, -32021)
    assert error["data"]["requiredCapabilities"] == {"elicitation": {}}
    assert said(old)["result"]["isError"] is True
    assert "2026-07-28" in said(old)["result"]["content"][0]["text"]
    assert [event.error_code for event in house.events()] == ["client_capability_missing"] * 2


async def test_a_change_under_a_key_is_made_once_after_its_rounds(tmp_path: Path) -> None:
    talkers = Talkers()
    with open_house(tmp_path) as opened:
        house = talkers.house(opened)
        key = {"headgate/idempotency-key": "k1"}
        async with visit(house) as client:
            first = said(await client.post("/mcp", **round_of(house, "change", **key)))["result"]
            assert talkers.done == []
            again = round_of(house, "change", state=first["requestState"], **key)
            answers = [said(await client.post("/mcp", **again))["result"] for _ in range(2)]
    assert [answer["content"][0]["text"] for answer in answers] == ["changed"] * 2
    assert talkers.done == ["Ada"]
