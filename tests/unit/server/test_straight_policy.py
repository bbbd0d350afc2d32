"""The straight way under a policy's document: who goes it sees what the page would show, by the policy that holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec

from headgate.access.policy import Edition
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, House
from tests.unit.server.served import Served, served
from tests.unit.server.test_straight import Line, known

SOLD = msgspec.structs.replace(CUSTOMER, lookups=("email", "plan"))
ROWS = [{"id": number, "email": f"c{number}@shop.example", "plan": ("vip", "free")[number % 2]} for number in range(8)]


def policy(rows: str = 'plan = "free"', **fields: str) -> str:
    """A document that gives everyone these rows of customers, with their fields treated so."""
    customer = {"rows": rows, "fields": {"plan": "show", **fields}}
    return json.dumps({"rules": [{"name": "r", "to": "everyone", "tools": "*", "entities": {"customer": customer}}]})


def shop() -> MemoryReader:
    return MemoryReader([SOLD], {SOLD.name: ROWS}, as_of_ms=NOW_MS - 1_000)


def straight(at: Served) -> int:
    assert at.door.straight is not None
    return at.door.straight.answered


async def values(line: Line, number: int) -> list[dict[str, Any]]:
    """The values of the rows that a look-up answers."""
    return [row["values"] for row in (await line.ask(number))["result"]["structuredContent"]["rows"]]


@asynccontextmanager
async def line_of(at: Served, token: str) -> AsyncIterator[Line]:
    """One connection of whoever holds the token."""
    url = httpx.URL(at.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Line(reader, writer, token)
    finally:
        writer.close()


async def test_who_goes_straight_sees_no_more_than_the_policy_shows(house: House) -> None:
    async with known(house.under(policy(email="mask", plan="hide")), shop()) as (at, line):
        assert await values(line, 3) == [{"id": 3, "email": "c***@shop.example"}]
        hidden, absent = await line.ask(2), await line.ask(700)
        assert hidden["result"]["structuredContent"]["rows"] == []
        assert _but_for_the_call(hidden, "2") == _but_for_the_call(absent, "700")
        assert straight(at) == 3
    assert [event.rules for event in house.events()] == [("r",)] * 4


def _but_for_the_call(answer: Any, key: str) -> str:
    """An answer without what it says of its call."""
    meta = answer["result"].pop("_meta")
    shown = json.dumps([answer, meta["headgate/freshness"]])
    assert f"key {key}" in shown
    return shown.replace(f"key {key}", "key KEY")


async def test_each_sees_what_its_own_claims_give_whoever_else_goes_straight(house: House) -> None:
    """Callers of one name, on connections that stay, in turns: what is kept of one must not hold for another."""
    under = house.under(policy("plan in claims.plans")).with_reader(shop())
    claims: dict[str, list[str]] = {"free": ["free"], "vip": ["vip"], "all": ["free", "vip"], "none": []}
    async with served(under) as at, AsyncExitStack() as stack:
        lines = {
            name: await stack.enter_async_context(line_of(at, house.token("data:read", plans=plans)))
            for name, plans in claims.items()
        }
        for number in range(1, 8):
            for name, line in lines.items():
                answer = await line.ask(number)
                if name == "none":
                    assert answer["error"]["data"]["code"] == "unknown_tool", "who is given no row has no such tool"
                else:
                    rows = answer["result"]["structuredContent"]["rows"]
                    assert bool(rows) == (ROWS[number]["plan"] in claims[name])
        assert straight(at) == 6 * 3, "each was known after its first call"


async def test_a_policy_that_changes_holds_for_the_next_call(house: House) -> None:
    under = house.under(policy(email="show"))
    async with known(under, shop()) as (at, line):
        for text, expected in (
            (policy(email="mask"), [{"id": 3, "email": "c***@shop.example", "plan": "free"}]),
            (policy(email="hide", plan="hide"), [{"id": 3}]),
            (policy('plan = "vip"'), []),
            (policy(email="show"), [ROWS[3]]),
        ):
            straight_before = straight(at)
            under.rooms.policy.adopt(Edition.of(text))
            assert [await values(line, 3) for _ in range(3)] == [expected] * 3
            assert straight(at) == straight_before + 2, "what it sees now is made by the page"
            assert [event.policy_version for event in house.events()[-3:]] == [Edition.of(text).version] * 3


async def test_a_tool_that_the_policy_takes_away_is_gone_from_the_straight_way_too(house: House) -> None:
    under = house.under(policy())
    async with known(under, shop()) as (at, line):
        assert await values(line, 3) == [{"id": 3, "email": "c***@shop.example", "plan": "free"}]
        under.rooms.policy.adopt(Edition.of('{"rules": []}'))
        assert (await line.ask(3))["error"]["data"]["code"] == "unknown_tool"
        assert straight(at) == 1
        under.rooms.policy.adopt(Edition.of(policy()))
        assert [len(await values(line, 3)) for _ in range(2)] == [1, 1]
        assert straight(at) == 2
