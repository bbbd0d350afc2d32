"""What approvals need of a state, on every kind of it: asked for once, decided by another, used by one call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headgate.access.approval import ApprovalLimits, Approvals, Asking
from headgate.errors import ApprovalOver, CallInProgress, OutboxError, OwnApproval, TooManyApprovals, UnknownApproval
from headgate.model.approval import Approval, ApprovalChange, AskedArguments, Decision, Wish
from headgate.model.caller import Caller
from headgate.state.base import State
from tests.contracts.test_state import KINDS, Kind, open_as

LIMITS = ApprovalLimits(time_limit_s=600, waiting=3)
ADA = Caller(subject="ada", method="jwt", issuer="i", scopes=frozenset({"pipelines:write"}))
GRACE = Caller(subject="grace", method="jwt", issuer="i", scopes=frozenset({"approvals:decide"}))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param](request)


@pytest.fixture
def state(kind: Kind) -> Iterator[State]:
    with closing(open_as(kind.name, kind.target, kind.clock)) as opened:
        yield opened


class Place:
    """One process's approvals, by a clock that a test moves, and what it has told the record."""

    def __init__(self, kind: Kind, state: State) -> None:
        self.later_ms = 0
        self.told: list[ApprovalChange] = []
        self.fault: BaseException | None = None
        self._kind = kind
        self.state = state
        self.approvals = Approvals(state, self.now_ms, LIMITS, self._tell)

    def now_ms(self) -> int:
        return self._kind.clock() + self.later_ms

    async def _tell(self, change: ApprovalChange) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append(change)

    @property
    def kinds(self) -> list[str]:
        return [change.kind for change in self.told]

    async def ask(self, number: int = 1, **more: Any) -> Approval:
        return await self.approvals.ask(asking(number, **more))

    async def decide(self, approval: Approval, decision: Decision = "approved", by: Caller = GRACE) -> Approval:
        return await self.approvals.decide(approval.id, decision, "as agreed", by, lambda _: None)


@pytest.fixture
def place(kind: Kind, state: State) -> Place:
    return Place(kind, state)


def wish(number: int = 1, caller: Caller = ADA, policy_version: str = "v1", tool: str = "drop") -> Wish:
    return Wish(caller=caller, tool=tool, arguments_sha256=f"sha256:{number}", policy_version=policy_version)


def asking(number: int = 1, call: str = "c-1", **more: Any) -> Asking:
    arguments = AskedArguments(sha256=f"sha256:{number}", size=9, json=b'{"all":true}')
    return Asking(wish=wish(number, **more), arguments=arguments, pipeline="shop", rules=("four eyes",), call=call)


async def test_the_same_call_finds_its_approval_and_no_other_does(place: Place) -> None:
    asked = await place.ask()
    assert (asked.phase, asked.ends_ms - asked.asked_ms) == ("waiting", 600_000)
    assert await place.approvals.find(wish()) == asked == await place.ask(call="c-2")
    assert place.kinds == ["asked"]
    eve = Caller(subject="eve", method="jwt", issuer="i", scopes=ADA.scopes)
    for other in (wish(2), wish(caller=eve), wish(policy_version="v2"), wish(tool="retry")):
        assert await place.approvals.find(other) is None


async def test_a_yes_is_used_once(place: Place) -> None:
    asked = await place.ask()
    decided = await place.decide(asked)
    assert (decided.phase, decided.decided_by, decided.reason) == ("approved", GRACE, "as agreed")
    assert await place.approvals.find(wish()) == decided
    await place.approvals.use(asked.id, "c-2", "k")
    with pytest.raises(CallInProgress):
        await place.approvals.use(asked.id, "c-3", "k")
    found = await place.approvals.find(wish())
    assert found is not None and (found.phase, found.used_by_call, found.used_key) == ("used", "c-2", "k")
    anew = await place.ask(call="c-4")
    assert anew.id != asked.id and anew.phase == "waiting"
    assert place.kinds == ["asked", "approved", "used", "asked"]
    assert [change.call for change in place.told] == ["c-1", "", "c-2", "c-4"]


async def test_of_many_at_once_one_uses_it(kind: Kind, place: Place) -> None:
    asked = await place.ask()
    await place.decide(asked)
    with closing(open_as(kind.name, kind.target, kind.clock)) as second:
        places = [place, Place(kind, second)]
        tries = [places[number % 2].approvals.use(asked.id, f"c-{number}", "") for number in range(20)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert all(outcome is None or isinstance(outcome, CallInProgress) for outcome in outcomes)
        used = [change for each in places for change in each.told if change.kind == "used"]
        found = await place.approvals.find(wish())
    assert found is not None and [change.call for change in used] == [found.used_by_call]


async def test_of_many_decisions_at_once_one_counts_and_is_told(kind: Kind, place: Place) -> None:
    asked = await place.ask()
    decisions: list[Decision] = ["approved", "denied"] * 8
    outcomes = await asyncio.gather(*(place.decide(asked, each) for each in decisions), return_exceptions=True)
    counted = [outcome for outcome in outcomes if isinstance(outcome, Approval)]
    assert len(counted) == 1 and place.kinds == ["asked", counted[0].phase]
    assert await place.approvals.find(wish()) == counted[0]


async def test_whoever_asked_decides_nothing_whatever_its_scopes(place: Place) -> None:
    asked = await place.ask()
    myself = Caller(subject="ada", method="jwt", issuer="i", scopes=frozenset({"admin", "approvals:decide"}))
    with pytest.raises(OwnApproval):
        await place.decide(asked, by=myself)
    namesake = Caller(subject="ada", method="jwt", issuer="other", scopes=myself.scopes)
    assert (await place.decide(asked, by=namesake)).phase == "approved"
    assert place.kinds == ["asked", "approved"]


async def test_what_is_decided_stays_so(place: Place) -> None:
    asked = await place.ask()
    denied = await place.decide(asked, "denied")
    with pytest.raises(ApprovalOver, match="denied already"):
        await place.decide(asked)
    assert await place.ask() == denied, "it is not asked for anew within its time"
    with pytest.raises(CallInProgress):
        await place.approvals.use(asked.id, "c-2", "")
    with pytest.raises(UnknownApproval):
        await place.approvals.decide("none-such", "approved", "", GRACE, lambda _: None)


@pytest.mark.parametrize("decision", [None, "approved", "denied"])
async def test_its_time_is_over(place: Place, decision: Decision | None) -> None:
    asked = await place.ask()
    if decision is not None:
        await place.decide(asked, decision)
    place.later_ms = 600_000
    before = len(place.told)
    assert await place.approvals.find(wish(), "c-9") is None
    with pytest.raises(ApprovalOver):
        await place.decide(asked)
    with pytest.raises(CallInProgress):
        await place.approvals.use(asked.id, "c-2", "")
    assert list(await place.approvals.every()) == []
    seen = [(change.kind, change.call) for change in place.told[before:]]
    assert seen == ([] if decision == "denied" else [("expired", "c-9")]), "once, by who sees it first"
    assert (await place.ask()).id != asked.id


async def test_a_caller_has_so_many_waiting_and_no_more(place: Place) -> None:
    asked = [await place.ask(number) for number in range(3)]
    with pytest.raises(TooManyApprovals) as refused:
        await place.ask(3)
    assert 590 <= refused.value.retry_after_s <= 600
    await place.ask(0)  # that one waits already
    eve = Caller(subject="eve", method="jwt", issuer="i", scopes=ADA.scopes)
    await place.ask(3, caller=eve)
    await place.decide(asked[0])
    with pytest.raises(TooManyApprovals):  # it was given, and not used
        await place.ask(3)
    await place.decide(asked[1], "denied")
    await place.ask(3)
    await place.approvals.use(asked[0].id, "c-2", "")
    await place.ask(4)
    with pytest.raises(TooManyApprovals):
        await place.ask(5)
    found = await place.approvals.find(wish(1))
    assert found is not None and found.phase == "denied", "to make room forgets nothing"


async def test_many_at_once_ask_for_no_more_than_may_wait(kind: Kind, place: Place) -> None:
    outcomes = await asyncio.gather(*(place.ask(number) for number in range(12)), return_exceptions=True)
    assert sum(isinstance(outcome, Approval) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, TooManyApprovals) for outcome in outcomes) == 9
    assert len(await place.approvals.every()) == 3


async def test_the_same_call_many_times_at_once_has_one_approval(place: Place) -> None:
    asked = await asyncio.gather(*(place.ask(call=f"c-{number}") for number in range(8)))
    assert len({approval.id for approval in asked}) == 1
    assert len(await place.approvals.every()) == 1 and set(place.kinds) == {"asked"}


async def test_nothing_is_asked_or_decided_that_the_record_does_not_have(place: Place) -> None:
    place.fault = OutboxError("no room")
    with pytest.raises(OutboxError):
        await place.ask()
    assert list(await place.approvals.every()) == []
    place.fault = None
    asked = await place.ask()
    place.fault = OutboxError("no room")
    with pytest.raises(OutboxError):
        await place.decide(asked)
    [found] = await place.approvals.every()
    assert found.phase == "waiting"
    place.fault = None
    assert (await place.decide(asked)).phase == "approved", "whoever could not decide holds up nobody"


async def test_a_use_that_the_record_does_not_have_is_used_up_and_told_to_nobody(place: Place) -> None:
    asked = await place.ask()
    await place.decide(asked)
    place.fault = OutboxError("no room")
    with pytest.raises(OutboxError):
        await place.approvals.use(asked.id, "c-2", "")
    place.fault = None
    with pytest.raises(CallInProgress):
        await place.approvals.use(asked.id, "c-3", "")


async def test_a_decision_that_was_left_in_the_middle_can_be_made_by_another(place: Place) -> None:
    """Its process ended between the record and the state."""
    asked = await place.ask()
    put, place.fault = place.state.put, KeyboardInterrupt()
    puts: list[Any] = []

    def lost(*given: Any, **more: Any) -> int:
        puts.append(given)
        if len(puts) > 1:
            raise CallInProgress("the test's process is gone", retry_after_s=1)
        return put(*given, **more)

    place.state.put = lost  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await place.decide(asked)
    place.state.put, place.fault = put, None  # type: ignore[method-assign]
    with pytest.raises(CallInProgress):
        await place.decide(asked, "denied")
    place.later_ms = 10_001
    assert (await place.decide(asked, "denied")).phase == "denied"


async def test_all_are_listed_the_oldest_first(place: Place) -> None:
    asked = []
    for number in range(3):
        place.later_ms = number * 1_000
        asked.append(await place.ask(number))
    assert list(await place.approvals.every()) == asked
