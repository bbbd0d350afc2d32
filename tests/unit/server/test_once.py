"""Calls that change something: a durable intent first, and each idempotency key at most once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.access.idempotency import KEPT_MS, PULSE_MS, Once
from headgate.errors import (
    CallInProgress,
    InvalidArguments,
    KeyReused,
    OutboxError,
    OutcomeUnknown,
    StateConflict,
    Unavailable,
)
from headgate.server import wire
from headgate.server.call import Call, admit, run
from headgate.server.message import Asked
from headgate.state.base import State
from headgate.state.sqlite import open_state
from headgate.tools._arguments import Arguments
from headgate.tools.base import Annotations, Result, TypedTool
from tests.unit.server.house import NOW_MS, House, open_house
from tests.unit.server.test_call import Visitor


class NoArguments(Arguments):
    """Takes none."""


async def _never(*_: Any) -> Result:
    raise AssertionError("tests bring their own act")


SWITCH = TypedTool(
    name="switch", title="Switch", description="", scopes=frozenset(), arguments=NoArguments, output_schema={},
    answer=_never, annotations=Annotations(read_only=False, idempotent=False),
)  # fmt: skip


class Lamp:
    """Something that a call changes, and how often it did."""

    def __init__(self) -> None:
        self.switched = 0
        self.intents_before: list[int] = []

    async def switch(self, call: Call) -> Result:
        self.switched += 1
        return Result(structured={"times": self.switched, "text": "ü"}, text=f"switched {self.switched}")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


@pytest.fixture
def lamp() -> Lamp:
    return Lamp()


async def opened(house: House, key: str = "k-1", subject: str = "ada", **arguments: Any) -> Call:
    asked = Asked(method="tools/call", name="switch", arguments=arguments, idempotency_key=key)
    call = await admit(Visitor(house.token(subject=subject), asked), house.rooms)
    call.tool = SWITCH
    return call


def said(answer: Result) -> dict[str, Any]:
    """What the caller gets of it."""
    return wire.answer(answer, {})


def intents(house: House) -> list[dict[str, Any]]:
    whole = [json.loads(body) for body in house.bodies()]
    return [each["data"] for each in whole if each["type"] == "dev.headgate.intent.v1"]


async def test_the_intent_is_durable_before_the_act(house: House, lamp: Lamp) -> None:
    async def act(call: Call) -> Result:
        [intent] = intents(house)
        assert (intent["call"], intent["name"], intent["caller"]["subject"]) == (call.id, "switch", "ada")
        assert (intent["idempotency_key"], intent["arguments"]["bytes"]) == ("k-1", 15)
        assert house.events() == []
        return await lamp.switch(call)

    await run(await opened(house, lamp="hall"), act)
    assert [event.status for event in house.events()] == ["answered"]


async def test_a_retry_gets_the_first_answer_and_does_nothing(house: House, lamp: Lamp) -> None:
    first, again = await opened(house, a=1, b=2), await opened(house, b=2, a=1)
    answer = await run(first, lamp.switch)
    assert said(await run(again, lamp.switch)) == said(answer)
    assert (lamp.switched, again.answer_of, first.answer_of) == (1, first.id, "")
    assert len(intents(house)) == 1
    assert [event.status for event in house.events()] == ["answered"] * 2
    assert house.events()[0].result == house.events()[1].result


async def test_without_a_key_every_call_acts(house: House, lamp: Lamp) -> None:
    for _ in range(3):
        await run(await opened(house, key=""), lamp.switch)
    assert (lamp.switched, len(intents(house))) == (3, 3)


async def test_a_key_is_its_callers_alone(house: House, lamp: Lamp) -> None:
    await run(await opened(house), lamp.switch)
    assert (await run(await opened(house, subject="grace"), lamp.switch)).structured["times"] == 2


async def test_the_same_key_for_something_else_is_refused(house: House, lamp: Lamp) -> None:
    await run(await opened(house, lamp="hall"), lamp.switch)
    with pytest.raises(KeyReused):
        await run(await opened(house, lamp="attic"), lamp.switch)
    other = await opened(house, lamp="hall")
    other.asked = msgspec.structs.replace(other.asked, name="switch_back")
    with pytest.raises(KeyReused):
        await run(other, lamp.switch)
    assert lamp.switched == 1
    assert [event.error_code for event in house.events()] == ["", "idempotency_key_reused", "idempotency_key_reused"]


async def test_of_many_at_once_one_acts_and_the_others_come_back(house: House, lamp: Lamp) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def act(call: Call) -> Result:
        under_way.set()
        await go_on.wait()
        return await lamp.switch(call)

    first = asyncio.create_task(run(await opened(house), act))
    await asyncio.wait_for(under_way.wait(), 60)
    for _ in range(3):
        with pytest.raises(CallInProgress) as told:
            await run(await opened(house), act)
        assert told.value.retry_after_s > 0
    go_on.set()
    answer = await first
    assert said(await run(await opened(house), act)) == said(answer)
    assert lamp.switched == 1


async def test_a_race_from_the_start_has_one_winner(house: House, lamp: Lamp) -> None:
    calls = [await opened(house) for _ in range(8)]
    results = await asyncio.gather(*(run(call, lamp.switch) for call in calls), return_exceptions=True)
    assert lamp.switched == 1
    assert {type(each) for each in results} <= {Result, CallInProgress}
    assert sum(isinstance(each, Result) for each in results) >= 1


async def test_a_call_that_its_caller_must_mend_gives_the_key_back(house: House, lamp: Lamp) -> None:
    async def refuse(call: Call) -> Result:
        raise InvalidArguments("no")

    with pytest.raises(InvalidArguments):
        await run(await opened(house), refuse)
    await run(await opened(house), lamp.switch)
    assert lamp.switched == 1


@pytest.mark.parametrize("failure", [Unavailable("it does not answer"), StateConflict("x"), ZeroDivisionError()])
async def test_a_failure_in_the_middle_leaves_the_outcome_unknown_for_good(
    house: House, lamp: Lamp, failure: Exception
) -> None:
    async def fail(call: Call) -> Result:
        await lamp.switch(call)
        raise failure

    first = await opened(house)
    with pytest.raises(type(failure)):
        await run(first, fail)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="get_pipeline_detail") as told:
            await run(await opened(house), lamp.switch)
        assert told.value.details["call"] == first.id
    assert lamp.switched == 1


async def test_without_a_durable_intent_nothing_is_done(house: House, lamp: Lamp) -> None:
    call = await opened(house)
    house.rooms.outbox.close()
    with pytest.raises(OutboxError):
        await run(call, lamp.switch)
    assert lamp.switched == 0


async def test_a_client_that_leaves_does_not_stop_a_change(house: House, lamp: Lamp) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def act(call: Call) -> Result:
        under_way.set()
        await go_on.wait()
        return await lamp.switch(call)

    call = await opened(house)
    task = asyncio.create_task(run(call, act))
    await asyncio.wait_for(under_way.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    call.abandon()
    go_on.set()
    await house.rooms.settle()
    assert [event.status for event in house.events()] == ["answered"]
    assert (await run(await opened(house), act)).structured["times"] == 1


async def test_what_can_not_be_told_apart_gets_no_key(house: House, lamp: Lamp) -> None:
    with pytest.raises(InvalidArguments):
        await run(await opened(house, x="\ud800"), lamp.switch)
    assert lamp.switched == 0


# --- other processes -------------------------------------------------------------------------------


class Hand:
    """A clock that stands until it is moved."""

    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def state(tmp_path: Path, clock: Hand) -> Iterator[State]:
    opened = open_state(tmp_path / "shared.db", clock=clock)
    yield opened
    opened.close()


def elsewhere(house: House, state: State) -> House:
    """Another process on the same state."""
    return replace(house, rooms=replace(house.rooms, once=Once(state)))


async def test_a_retry_at_another_process_gets_the_first_answer_for_a_day(
    house: House, lamp: Lamp, state: State, clock: Hand
) -> None:
    here, there = elsewhere(house, state), elsewhere(house, state)
    answer = await run(await opened(here), lamp.switch)
    clock.now_ms += KEPT_MS - 1
    assert said(await run(await opened(there), lamp.switch)) == said(answer)
    clock.now_ms += 1
    assert (await run(await opened(there), lamp.switch)).structured["times"] == 2


async def test_a_process_that_ended_in_the_middle_leaves_the_outcome_unknown(
    house: House, lamp: Lamp, state: State, clock: Hand
) -> None:
    here, there = elsewhere(house, state), elsewhere(house, state)
    under_way = asyncio.Event()

    async def act(call: Call) -> Result:
        under_way.set()
        return await asyncio.Future()

    dead = asyncio.create_task(run(await opened(here), act))
    await asyncio.wait_for(under_way.wait(), 60)
    with pytest.raises(CallInProgress):
        await run(await opened(there), lamp.switch)
    clock.now_ms += PULSE_MS  # as after kill -9: nobody renews the pulse
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            await run(await opened(there), lamp.switch)
    assert lamp.switched == 0
    dead.cancel()
    for task in list(here.rooms.carried):
        task.cancel()
    await asyncio.gather(dead, *here.rooms.carried, return_exceptions=True)
