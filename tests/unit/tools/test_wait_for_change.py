"""`wait_for_change`: what it answers, when, and what it does not tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from headgate.access.watching import PushConfig, Watching
from headgate.errors import InvalidArguments, NotIndexed, TooManyWaiting, Unavailable, UnknownEntity
from headgate.model.caller import Grant
from headgate.stores.base import Query, Rows
from headgate.testing import MemoryHearer, MemoryReader, MemoryState, fixed_clock, grant_of, view_of
from headgate.tools._waiting import MOST_MATCHES
from headgate.tools.base import Result
from headgate.tools.wait_for_change import MOST_CHANGES
from tests.unit.server.push.watched import until, within
from tests.unit.tools.shop import CUSTOMER, Draft202012Validator, tool


def row(number: int, plan: str) -> dict[str, Any]:
    return {"id": number, "email": f"c{number}@shop.example", "plan": plan, "profile": None}


class Desk:
    """Whoever waits, and the rows that it waits for."""

    def __init__(self, push: PushConfig | None = None) -> None:
        self.reader = MemoryReader([CUSTOMER], {"customer": [row(number, "free") for number in range(1, 6)]})
        self.hearer = MemoryHearer()
        self.watching = Watching(self.reader, self.hearer, push)
        self.state = MemoryState(fixed_clock())
        self.tool = tool("wait_for_change")

    async def ask(self, grant: Grant | None = None, **arguments: Any) -> Result:
        """One call, with a deadline."""
        view = view_of(self.reader, state=self.state, watching=self.watching, grant=grant)
        result = await within(self.tool.run(view, {"entity": "customer", **arguments}))
        Draft202012Validator(self.tool.output_schema).validate(dict(result.structured))
        assert isinstance(result, Result)
        return result

    def waiting(self, **arguments: Any) -> asyncio.Task[Result]:
        """One call under way."""
        return asyncio.create_task(self.ask(**arguments))

    async def until_waiting(self) -> None:
        """Returns once a call waits for a hint and for nothing else."""
        await until(lambda: self.watching._rows or self.watching._entities)
        await until(lambda: self.hearer._told)
        for _ in range(20):
            await asyncio.sleep(0)

    def put(self, number: int, plan: str, *, told: bool = True) -> None:
        self.reader.put("customer", row(number, plan))
        if told:
            self.hearer.tell("customer", [str(number)])

    def remove(self, number: int) -> None:
        self.reader.remove("customer", str(number))
        self.hearer.tell("customer", [str(number)])


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await within(desk.watching.close())


def told(result: Result) -> list[tuple[str, str]]:
    return [(each["change"], each["uri"].rpartition("/")[2]) for each in result.structured["changes"]]


def values(result: Result) -> list[Mapping[str, Any]]:
    return [each["values"] for each in result.structured["changes"]]


# --- one row -------------------------------------------------------------------------------------


async def test_a_changed_row_answers_the_call(desk: Desk) -> None:
    waiting = desk.waiting(key=2)
    await desk.until_waiting()
    desk.put(1, "gold")
    desk.put(2, "gold")
    result = await waiting
    assert told(result) == [("updated", "2")]
    assert values(result) == [row(2, "gold")]
    assert result.structured["changed"]
    assert result.freshness is not None
    assert [mark.entity for mark in result.watermarks] == ["customer"]
    assert "headgate://entity/customer/2 updated" in result.text


async def test_a_deleted_row_is_said_to_be_deleted_and_a_new_one_to_have_appeared(desk: Desk) -> None:
    waiting = desk.waiting(key=2)
    await desk.until_waiting()
    desk.remove(2)
    gone = await waiting
    assert told(gone) == [("deleted", "2")]
    assert "values" not in gone.structured["changes"][0]
    waiting = desk.waiting(key=2, after=gone.structured["cursor"])
    await desk.until_waiting()
    desk.put(2, "back")
    assert told(await waiting) == [("appeared", "2")]


async def test_nothing_between_two_calls_is_missed(desk: Desk) -> None:
    first = await desk.ask(key=2, timeout_s=0)
    assert told(first) == []
    desk.put(2, "gold", told=False)
    second = await desk.ask(key=2, after=first.structured["cursor"])
    assert values(second) == [row(2, "gold")]
    third = await desk.ask(key=2, after=second.structured["cursor"], timeout_s=0.01)
    assert not third.structured["changed"]


async def test_when_the_time_is_over_it_says_so(desk: Desk) -> None:
    result = await desk.ask(key=2, timeout_s=0.05)
    assert not result.structured["changed"]
    assert result.structured["waited_ms"] >= 50
    assert result.structured["position"]
    assert all(offset == 1 for offset in result.structured["position"].values())
    assert "Nothing has changed in" in result.text


async def test_what_nobody_told_of_is_found_when_the_time_is_over(desk: Desk) -> None:
    waiting = desk.waiting(key=2, timeout_s=1.0)
    await desk.until_waiting()
    desk.put(2, "gold", told=False)
    assert told(await waiting) == [("updated", "2")]


async def test_it_waits_no_longer_than_the_server_lets_it() -> None:
    desk = Desk(PushConfig(wait_max_s=0.05))
    for timeout_s in (None, 200):
        result = await desk.ask(key=2, timeout_s=timeout_s)
        assert 50 <= result.structured["waited_ms"] < 10_000
    await desk.watching.close()


async def test_after_a_lost_connection_it_looks_again(desk: Desk) -> None:
    waiting = desk.waiting(key=2)
    await desk.until_waiting()
    desk.hearer.lose()
    await until(lambda: not desk.hearer._told)
    desk.put(2, "gold", told=False)
    assert told(await waiting) == [("updated", "2")]


async def test_where_nothing_can_be_heard_it_says_so() -> None:
    desk = Desk()
    desk.watching = Watching(desk.reader, None)
    with pytest.raises(Unavailable):
        await desk.ask(key=2)


async def test_a_cancelled_call_leaves_nothing_behind(desk: Desk) -> None:
    for arguments in ({"key": 2}, {"where": {"plan": "gold"}}):
        waiting = desk.waiting(**arguments)
        await desk.until_waiting()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert not (desk.watching._rows or desk.watching._entities or desk.watching._waiting)


async def test_one_caller_waits_so_often_and_no_more() -> None:
    desk = Desk(PushConfig(waits_per_caller=2))
    waiting = [desk.waiting(key=number) for number in (1, 2)]
    await until(lambda: len(desk.watching._rows.get("customer", {})) == 2)
    with pytest.raises(TooManyWaiting):
        await desk.ask(key=3)
    another = asyncio.create_task(desk.ask(grant_of(subject="another"), key=3, timeout_s=0))
    assert not (await another).structured["changed"]
    for number in (1, 2):
        desk.put(number, "gold")
    assert [told(await each)[0][0] for each in waiting] == ["updated", "updated"]
    await desk.watching.close()


# --- rows that match -----------------------------------------------------------------------------


async def test_rows_that_come_to_match_change_and_leave(desk: Desk) -> None:
    desk.put(1, "gold")
    desk.put(2, "gold")
    desk.put(3, "gold")
    first = await desk.ask(where={"plan": "gold"}, timeout_s=0)
    desk.reader.put("customer", {**row(1, "gold"), "email": "new@shop.example"})
    desk.put(2, "free", told=False)
    desk.reader.remove("customer", "3")
    desk.put(4, "gold", told=False)
    second = await desk.ask(where={"plan": "gold"}, after=first.structured["cursor"])
    assert told(second) == [("updated", "1"), ("appeared", "4"), ("left", "2"), ("deleted", "3")]
    third = await desk.ask(where={"plan": "gold"}, after=second.structured["cursor"], timeout_s=0)
    assert told(third) == []


async def test_a_hint_wakes_a_filter(desk: Desk) -> None:
    waiting = desk.waiting(where={"plan": "gold"})
    await desk.until_waiting()
    desk.put(5, "silver")
    desk.put(4, "gold")
    assert told(await waiting) == [("appeared", "4")]


async def test_more_changes_than_fit_come_with_the_next_call(desk: Desk) -> None:
    cursor = (await desk.ask(where={"plan": "gold"}, timeout_s=0)).structured["cursor"]
    for number in range(10, 10 + MOST_CHANGES + 7):
        desk.put(number, "gold", told=False)
    first = await desk.ask(where={"plan": "gold"}, after=cursor)
    assert first.structured["truncated"] == {"reason": "rows", "returned": MOST_CHANGES, "cursor": None}
    second = await desk.ask(where={"plan": "gold"}, after=first.structured["cursor"])
    assert "truncated" not in second.structured
    both = [key for _, key in (*told(first), *told(second))]
    assert sorted(both, key=int) == [str(number) for number in range(10, 10 + MOST_CHANGES + 7)]


async def test_a_filter_that_matches_too_much_is_refused(desk: Desk) -> None:
    for number in range(10, 11 + MOST_MATCHES):
        desk.put(number, "gold", told=False)
    with pytest.raises(InvalidArguments, match="narrow"):
        await desk.ask(where={"plan": "gold"})


async def test_a_filter_that_takes_too_long_to_go_through_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(entity: str, query: Query) -> Rows:
        return Rows(rows=[], watermark=await desk.reader.watermark(entity), cursor="on", cut="time")

    monkeypatch.setattr(desk.reader, "find", find)
    with pytest.raises(InvalidArguments, match="takes too long"):
        await desk.ask(where={"plan": "gold"})


# --- what does not fit ---------------------------------------------------------------------------


async def test_a_cursor_is_good_for_its_own_question_and_caller(desk: Desk) -> None:
    one = (await desk.ask(key=1, timeout_s=0)).structured["cursor"]
    for number in range(1, 12):
        desk.put(number, "gold", told=False)
    many = (await desk.ask(where={"plan": "gold"}, timeout_s=0)).structured["cursor"]
    assert (one[0], many[0]) == ("r", "k")
    wrong = [
        {"key": 2, "after": one},
        {"where": {"plan": "gold"}, "after": one},
        {"where": {"plan": "free"}, "after": many},
        {"key": 1, "after": many},
        *({"key": 1, "after": after} for after in ("", "x", "r", "rAAAA", "k", "kAAAA", "r\u00fc", "r" + "A" * 900)),
    ]
    for arguments in wrong:
        with pytest.raises(InvalidArguments, match="cursor"):
            await desk.ask(**arguments)
    with pytest.raises(InvalidArguments, match="cursor"):
        await desk.ask(grant_of(subject="another"), where={"plan": "gold"}, after=many)


async def test_what_can_not_be_asked_is_refused_as_elsewhere(desk: Desk) -> None:
    with pytest.raises(UnknownEntity):
        await desk.ask(entity="nothing", key=1)
    with pytest.raises(NotIndexed):
        await desk.ask(where={"profile": "x"})
    wrong: list[dict[str, Any]] = [{}, {"key": 1, "where": {}}, {"key": [1, 2]}, {"key": 1, "timeout_s": -1}]
    for arguments in (*wrong, {"key": 1, "timeout_s": 301}, {"key": 1, "after": "x" * 1_025}):
        with pytest.raises(InvalidArguments):
            await desk.ask(**arguments)
