"""Callers who come again are admitted from memory, and what has changed meanwhile holds for them as for everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from headgate.access.identity import Identity, IdentityConfig
from headgate.access.keys import ApiKeys
from headgate.access.policy import Edition
from headgate.access.verified import RECHECK_MS
from headgate.server.http import Door
from tests.unit.server.house import NOW_MS, House
from tests.unit.server.served import served
from tests.unit.server.visiting import call_of, said

TRACE = "00-{:032x}-00f067aa0ba902b7-01"


class Moving:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass(frozen=True)
class Place:
    """An open door, a client of it, and the clock by which credentials hold."""

    door: Door
    client: httpx.AsyncClient
    clock: Moving
    keys: ApiKeys

    async def ask(self, token: str | None, number: int = 2, **headers: str) -> httpx.Response:
        """One look-up."""
        call = call_of("lookup_customer", {"customer_id": number}, token)
        call["headers"].update(headers)
        return await self.client.post("/mcp", **call)

    @property
    def known(self) -> int:
        """How many were admitted from memory."""
        straight = self.door.straight
        return self.door.returning.admitted + (straight.answered if straight else 0)


@asynccontextmanager
async def opened(house: House, **identity: Any) -> AsyncIterator[Place]:
    clock = Moving()
    keys = ApiKeys(house.rooms.state, clock)
    holds = Identity(IdentityConfig(**identity), keys, clock, dev_issuer=house.issuer, local_user="tester")
    there = replace(house, rooms=replace(house.rooms, identity=holds))
    async with served(there) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as client:
        yield Place(at.door, client, clock, keys)


async def test_whoever_comes_again_is_known_whatever_the_body_asks(house: House) -> None:
    async with opened(house) as place:
        token = house.token("data:read")
        answers = [said(await place.ask(token, number)) for number in (1, 2, 3, 700)]
        rows = [answer["result"]["structuredContent"]["rows"] for answer in answers]
        assert [[row["values"]["id"] for row in each] for each in rows] == [[1], [2], [3], []]
        assert place.known == 3
    assert [(event.status, event.caller and event.caller.subject) for event in house.events()] == [
        ("answered", "ada")
    ] * 4


async def test_each_call_has_its_own_trace(house: House) -> None:
    async with opened(house) as place:
        for number in (1, 2, 3):
            await place.ask(house.token("data:read"), traceparent=TRACE.format(number))
        await place.ask(house.token("data:read"))
        assert place.known == 3
    traces = [event.traceparent for event in house.events()]
    assert traces == [*(TRACE.format(number) for number in (1, 2, 3)), None]


async def test_another_credential_host_or_header_is_another_caller(house: House) -> None:
    async with opened(house) as place:
        token = house.token("data:read")
        assert (await place.ask(token)).status_code == 200
        assert (await place.ask(f"{token}x")).status_code == 401
        assert (await place.ask(None)).status_code == 401
        assert (await place.ask(token, host="elsewhere.example")).status_code == 421
        assert (await place.ask(token, accept="text/plain")).status_code == 406
        assert (await place.ask(house.token("pipelines:read"))).status_code == 403
        assert place.known == 0


async def test_a_credential_that_ends_or_is_revoked_is_not_known_any_more(house: House) -> None:
    async with opened(house) as place:
        token = house.token("data:read", ttl_s=60)
        key_id, key = place.keys.make("probe", ["data:read"])
        for bearer in (token, key):
            for _ in range(2):
                assert (await place.ask(bearer)).status_code == 200
        assert place.known == 2
        place.keys.revoke(key_id)
        assert (await place.ask(key)).status_code == 401
        place.clock.now_ms += 91_000
        assert (await place.ask(token)).status_code == 401
        assert place.known == 2


async def test_a_credential_that_is_checked_anew_is_known_as_well_as_before(house: House) -> None:
    async with opened(house) as place:
        _, key = place.keys.make("probe", ["data:read"])
        for _ in range(4):
            await place.ask(key)
        straight = place.door.straight
        assert straight is not None and straight.answered == 3
        grants = {id(house.rooms.policy.decide(known.verified.caller)) for known in _all_known(place)}
        for number in range(1, 3):
            place.clock.now_ms += RECHECK_MS + 1_000
            for _ in range(3):
                assert (await place.ask(key)).status_code == 200
            assert straight.answered == 3 + 2 * number, "the page, and straight again"
            assert {id(house.rooms.policy.decide(known.verified.caller)) for known in _all_known(place)} == grants


def _all_known(place: Place) -> list[Any]:
    return list(place.door.returning._known.values())


async def test_a_changed_policy_holds_at_once(house: House) -> None:
    async with opened(house) as place:
        token = house.token("data:read")
        for _ in range(2):
            assert (await place.ask(token)).status_code == 200
        house.rooms.policy.adopt(Edition.of("rules: []"))
        refused = await place.ask(token)
        assert "rows" not in refused.text
        assert place.known == 1


async def test_the_local_user_is_known_and_a_stranger_is_not(house: House) -> None:
    async with opened(house, local=True) as place:
        for _ in range(2):
            assert (await place.ask(None)).status_code == 200
        assert place.known == 1
        assert (await place.ask(None, forwarded="for=192.0.2.1")).status_code == 401
        assert place.known == 1


async def test_no_credential_is_kept(house: House, tmp_path: Path) -> None:
    async with opened(house) as place:
        token = house.token("data:read")
        for _ in range(2):
            await place.ask(token)
        assert place.known == 1
        assert token not in repr(vars(place.door.returning))
