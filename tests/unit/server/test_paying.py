"""The budget's step: paid before anyone sees an answer, and a read that was not paid for never happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headgate.access.identity import Credentials
from headgate.errors import BudgetSpent, Unavailable, UnknownEntity
from headgate.server.call import Call, admit, run
from headgate.server.message import Asked
from headgate.state.base import Taken
from tests.unit.server.house import House, open_house
from tests.unit.server.test_call import LOOKUP, Visitor, answer, look_up
from tests.unit.server.test_once import SWITCH


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, budgets={"read": 2}) as opened:
        yield opened


async def test_what_is_left_stands_with_the_call_and_a_refusal_is_recorded(house: House) -> None:
    token = house.token("data:read")
    left = []
    for _ in range(2):
        call = await admit(Visitor(token, LOOKUP), house.rooms)
        await run(call, look_up)
        assert call.allowance is not None
        left.append(call.allowance.remaining)
    assert left == [1, 0]
    call = await admit(Visitor(token, LOOKUP), house.rooms)
    with pytest.raises(BudgetSpent):
        await run(call, look_up)
    assert call.allowance is not None
    assert call.allowance.retry_after_ms == 30_000
    refused = house.events()[-1]
    assert (refused.status, refused.error_code) == ("refused", "budget_spent")
    assert (refused.positions, refused.result) == ({}, None)


async def test_the_read_is_under_way_while_the_budget_is_asked(house: House) -> None:
    """Both travel together: neither waits for the other's answer."""
    reading, asking = asyncio.Event(), asyncio.Event()

    class Meeting:
        async def take(self, *_: Any) -> Taken:
            asking.set()
            await reading.wait()
            return Taken(True, 1)

        async def close(self) -> None:
            pass

    async def act(call: Call) -> str:
        reading.set()
        await asking.wait()
        return "row"

    house.rooms.budget._buckets = Meeting()
    async with asyncio.timeout(60):
        assert await answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, act) == "row"


class Answers:
    """Buckets that say what a test wants, when it wants."""

    def __init__(self, said: Taken | Exception) -> None:
        self.said = said
        self.released = asyncio.Event()

    async def take(self, *_: Any) -> Taken:
        await self.released.wait()
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("said", [Taken(False, 0, 1_000), Unavailable("the state does not answer")])
@pytest.mark.parametrize("read", ["waits", "is done", "has failed"])
async def test_a_read_that_is_not_paid_for_is_thrown_away(house: House, said: Any, read: str) -> None:
    buckets = Answers(said)
    house.rooms.budget._buckets = buckets
    ended: list[str] = []

    async def act(call: Call) -> str:
        buckets.released.set()
        try:
            if read == "waits":
                await asyncio.Event().wait()
            if read == "has failed":
                raise UnknownEntity("x", [])
            return "row"
        finally:
            ended.append(read)

    expected = BudgetSpent if isinstance(said, Taken) else Unavailable
    async with asyncio.timeout(60):
        with pytest.raises(expected):
            await answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, act)
    assert ended == [read]
    [event] = house.events()
    assert event.error_code == expected.code
    assert event.result is None


async def test_a_client_that_leaves_takes_its_read_along(house: House) -> None:
    house.rooms.budget._buckets = Answers(Taken(True, 1))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def act(call: Call) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(answer(Visitor(house.token("data:read"), LOOKUP), house.rooms, act))
    async with asyncio.timeout(60):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()
    await house.rooms.settle()
    assert [event.error_code for event in house.events()] == ["cancelled"]


async def test_looking_around_costs_nothing(house: House) -> None:
    async def act(call: Call) -> str:
        return "list"

    for method in ("tools/list", "resources/list", "ping") * 5:
        await answer(Visitor(house.token(), Asked(method=method)), house.rooms, act)
    with pytest.raises(BudgetSpent):  # but to guess names of tools does
        for _ in range(3):
            await answer(Visitor(house.token(), Asked(method="tools/call", name="guess")), house.rooms, act)


async def test_the_local_user_is_not_held_to_a_budget(tmp_path: Path) -> None:
    with open_house(tmp_path, local=True, budgets={"read": 1}) as house:
        for _ in range(5):
            call = await admit(AtHome(None, LOOKUP), house.rooms)
            await run(call, look_up)
            assert call.allowance is None


class AtHome(Visitor):
    """A request from this machine."""

    def credentials(self) -> Credentials:
        return Credentials(bearer=None, door="http", loopback=True)


async def test_a_change_waits_for_its_payment(house: House) -> None:
    """A read may be thrown away; a change may not."""
    buckets = Answers(Taken(False, 0, 1_000))
    buckets.released.set()
    house.rooms.budget._buckets = buckets
    acted: list[str] = []

    async def act(call: Call) -> Any:
        acted.append(call.id)

    call = await admit(Visitor(house.token(), Asked(method="tools/call", name="switch")), house.rooms)
    call.tool = SWITCH
    with pytest.raises(BudgetSpent):
        await run(call, act)
    assert acted == []
    assert all(b"intent" not in body for body in house.bodies())
