"""Calls that wait for another person: refused without a yes, acting once with it, and told in the record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headgate.access.approval import ApprovalLimits
from headgate.access.budget import BudgetsConfig
from headgate.access.control import Control
from headgate.audit.payloads import PayloadRules
from headgate.errors import (
    ApprovalDenied,
    ApprovalOver,
    ApprovalRequired,
    BudgetSpent,
    CallError,
    CallInProgress,
    InvalidArguments,
    OutboxError,
    OutcomeUnknown,
    OwnApproval,
    TooManyApprovals,
    UnknownApproval,
)
from headgate.failpoints import FailpointReached, arm_with
from headgate.server.acts import answer_of_tool
from headgate.server.call import Call, admit, run
from headgate.server.message import Asked
from headgate.server.record import Recording
from headgate.tools._client import NOBODY
from headgate.tools.base import Result
from tests.unit.server.house import NOW_MS, House, open_house
from tests.unit.server.test_call import Visitor

SCOPES = ("pipelines:read", "pipelines:write")
POLICY = """\
rules:
  - name: operators
    to: {scopes: [pipelines:write]}
    tools: ["*_pipeline*", "*_dead_letters", resnapshot_table, decide_approval, list_approvals]
    pipelines: [shop]
    approve: [restart_pipeline, "*_dead_letters"]
  - name: deciders
    to: {scopes: [approvals:decide], subjects: [ada, grace]}
    tools: [list_approvals, decide_approval, restart_pipeline]
    pipelines: [shop]
  - name: elsewhere
    to: {subjects: mallory}
    tools: [list_approvals, decide_approval, restart_pipeline]
    pipelines: [crm]
"""
act = partial(answer_of_tool, client=NOBODY)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened.under(POLICY)


async def opened(
    house: House, tool: str = "restart_pipeline", subject: str = "ada", key: str = "", **given: Any
) -> Call:
    arguments = {"pipeline_id": "shop", **given}
    asked = Asked(method="tools/call", name=tool, arguments=arguments, idempotency_key=key)
    return await admit(Visitor(house.token(*SCOPES, subject=subject), asked), house.rooms)


async def restart(house: House, subject: str = "ada", key: str = "", **given: Any) -> Result:
    return await run(await opened(house, subject=subject, key=key, **given), act)


async def refused(house: House, **given: Any) -> CallError:
    with pytest.raises(CallError) as error:
        await restart(house, **given)
    return error.value


async def decide(
    house: House, approval_id: str, decision: str = "approve", subject: str = "grace", reason: str = "as agreed"
) -> Result:
    arguments = {"approval_id": approval_id, "decision": decision, "reason": reason}
    asked = Asked(method="tools/call", name="decide_approval", arguments=arguments)
    scopes = ("approvals:decide",) if subject != "ada" else (*SCOPES, "approvals:decide")
    return await run(await admit(Visitor(house.token(*scopes, subject=subject), asked), house.rooms), act)


async def listed(house: House, subject: str = "grace", **given: Any) -> list[dict[str, Any]]:
    asked = Asked(method="tools/call", name="list_approvals", arguments=given)
    call = await admit(Visitor(house.token("approvals:decide", subject=subject), asked), house.rooms)
    found: list[dict[str, Any]] = (await run(call, act)).structured["approvals"]
    return found


def restarts(house: House) -> int:
    return Control(house.rooms.state, "shop", lambda: NOW_MS).desired().restarts


def told(house: House) -> list[dict[str, Any]]:
    """What the record has of approvals."""
    whole = [json.loads(body) for body in house.bodies()]
    return [each["data"] for each in whole if each["type"] == "dev.headgate.approval.v1"]


def types(house: House) -> list[str]:
    """Every event, in the order in which they became durable."""
    found = []
    for body in house.bodies():
        whole = json.loads(body)
        word = whole["type"].removeprefix("dev.headgate.").removesuffix(".v1")
        found.append(f"{word}:{whole['data']['kind']}" if word == "approval" else word)
    return found


async def test_asked_refused_approved_acts_once_and_is_asked_anew(house: House) -> None:
    first = await refused(house)
    assert isinstance(first, ApprovalRequired) and first.retry_after_s == 10
    approval_id = first.details["approval_id"]
    assert first.details["expires_at"] == "2027-01-15T09:00:00.000Z"
    again = await refused(house)
    assert again.details["approval_id"] == approval_id and restarts(house) == 0
    assert (await decide(house, approval_id)).structured["phase"] == "approved"
    assert (await restart(house)).structured["asked"] == "restart"
    assert restarts(house) == 1
    second = await refused(house)
    assert isinstance(second, ApprovalRequired) and second.details["approval_id"] != approval_id
    assert restarts(house) == 1
    assert types(house) == [
        "approval:asked", "call", "call", "intent", "approval:approved", "call",
        "approval:used", "intent", "pipeline", "call", "approval:asked", "call",
    ]  # fmt: skip
    assert [event.approval for event in house.events()] == [approval_id] * 4 + [second.details["approval_id"]]


async def test_the_record_says_who_wants_what_and_who_decided(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    await restart(house)
    asked, approved, used = told(house)
    asking, _, using = house.events()
    for event in (asked, approved, used):
        assert (event["approval"], event["tool"], event["caller"]["subject"]) == (
            approval_id,
            "restart_pipeline",
            "ada",
        )
        assert event["arguments"] == {"sha256": asking.arguments and asking.arguments.sha256, "bytes": 22}
        assert event["policy_version"] == house.rooms.policy.version and event["rules"] == ["operators"]
        assert event["asked_by_call"] == asking.id and event["ends_ms"] == NOW_MS + 3_600_000
    assert (asked["call"], approved["call"], used["call"]) == (asking.id, "", using.id)
    assert "decided_by" not in asked and approved["decided_by"]["subject"] == used["decided_by"]["subject"] == "grace"
    assert approved["reason"] == "as agreed"


async def test_no_argument_is_an_approval(house: House) -> None:
    error = await refused(house, confirm=True)
    assert isinstance(error, InvalidArguments), "nobody is asked about what could not be done"
    assert told(house) == [] and restarts(house) == 0


async def test_another_call_or_caller_or_policy_can_not_use_it(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    for other in (
        {"subject": "bob"},
        {"pipeline_id": "shop "},
    ):
        assert (await refused(house, **other)).details["approval_id"] != approval_id
    changed = house.under(POLICY + "\n")
    assert (await refused(changed)).details["approval_id"] != approval_id
    assert restarts(house) == 0
    await restart(house)
    assert restarts(house) == 1


async def test_whoever_asked_decides_nothing(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    with pytest.raises(OwnApproval):
        await decide(house, approval_id, subject="ada")
    assert (await listed(house, subject="ada"))[0]["is_yours"] is True
    assert isinstance(await refused(house), ApprovalRequired) and restarts(house) == 0


async def test_denied_with_the_reason_until_its_time_is_over(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    with pytest.raises(InvalidArguments):
        await decide(house, approval_id, "deny", reason=" ")
    await decide(house, approval_id, "deny", reason="not while the shop is open")
    error = await refused(house)
    assert isinstance(error, ApprovalDenied) and "not while the shop is open" in error.message
    assert error.details["denied_because"] == "not while the shop is open"
    assert error.details["retry_after_s"] == 3_600
    with pytest.raises(ApprovalOver):
        await decide(house, approval_id)
    later = at(house, NOW_MS + 3_600_000)
    assert isinstance(await refused(later), ApprovalRequired) and restarts(house) == 0
    assert [event["kind"] for event in told(house)] == ["asked", "denied", "asked"]


def at(house: House, now_ms: int) -> House:
    """The same house, later; tokens hold a minute, so that identity goes by the old time."""
    return replace(house, rooms=replace(house.rooms, clock=lambda: now_ms))


async def test_a_yes_ends_with_its_time(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    later = at(house, NOW_MS + 3_600_000)
    error = await refused(later)
    assert isinstance(error, ApprovalRequired) and error.details["approval_id"] != approval_id
    assert [event["kind"] for event in told(house)] == ["asked", "approved", "expired", "asked"]
    assert told(house)[2]["call"] == house.events()[-1].id and restarts(house) == 0


async def test_waiting_costs_reads_and_acting_a_write(tmp_path: Path) -> None:
    budgets = BudgetsConfig.model_validate({"read": 2, "write": 1})
    with open_house(tmp_path, budgets=budgets) as plain:
        house = plain.under(POLICY)
        approval_id = (await refused(house)).details["approval_id"]
        await refused(house)
        assert isinstance(await refused(house), BudgetSpent), "the third look"
        await decide(house, approval_id)
        await restart(house)
        assert restarts(house) == 1
        assert [(event.budget.class_ if event.budget else "") for event in house.events()] == [
            "read", "read", "read", "write", "write",
        ]  # fmt: skip
        assert len(told(house)) == 3, "nobody was asked anything by the call that was not paid for"


async def test_a_yes_is_kept_by_a_call_that_can_not_pay(tmp_path: Path) -> None:
    budgets = BudgetsConfig.model_validate({"write": 1})
    with open_house(tmp_path, budgets=budgets) as plain:
        house = plain.under(POLICY)
        await run(await opened(house, tool="pause_pipeline"), act)
        approval_id = (await refused(house)).details["approval_id"]
        await decide(house, approval_id)
        assert isinstance(await refused(house), BudgetSpent)
        [found] = await listed(house, phase="all")
        assert found["phase"] == "approved"


async def test_a_retry_of_an_answered_call_needs_no_second_yes(house: House) -> None:
    waiting = await refused(house, key="k-1")
    await decide(house, waiting.details["approval_id"])
    first = await restart(house, key="k-1")
    again = await opened(house, key="k-1")
    assert (await run(again, act)).structured == first.structured
    assert again.answer_of and restarts(house) == 1
    assert isinstance(await refused(house, key="k-2"), ApprovalRequired)
    assert isinstance(await refused(house), ApprovalRequired)


async def test_what_waits_leaves_no_intent_under_its_key(house: House) -> None:
    await refused(house, key="k-1")
    assert not house.rooms.state.scan("intent/") and "intent" not in types(house)


async def test_of_two_at_once_one_acts(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    outcomes = await asyncio.gather(*(restart(house) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Result) for outcome in outcomes) == 1 == restarts(house)
    assert all(isinstance(outcome, Result | CallInProgress | ApprovalRequired) for outcome in outcomes)
    keys = await asyncio.gather(*(restart(house, key=f"k-{n}") for n in range(3)), return_exceptions=True)
    assert not any(isinstance(outcome, Result) for outcome in keys)


async def test_with_keys_of_their_own_one_acts_too(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    outcomes = await asyncio.gather(*(restart(house, key=f"k-{n}") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Result) for outcome in outcomes) == 1 == restarts(house)
    assert [event["kind"] for event in told(house)].count("used") == 1
    kept = house.rooms.state.scan("intent/")
    assert len(kept) == 1, "a call that could not act gives its key back"


@pytest.mark.parametrize("key", ["", "k-1"])
async def test_a_call_that_ended_after_its_use_is_unclear_and_never_runs_again(house: House, key: str) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    arm_with("approval.used", _break)
    with pytest.raises(FailpointReached):
        await restart(house, key=key)
    for again in ({"key": key}, {}, {"key": "k-other"}):
        error = await refused(house, **again)
        assert isinstance(error, OutcomeUnknown), error
    assert error.details["approval_id"] == approval_id in error.message
    assert error.details["call"] == told(house)[-1]["call"] and restarts(house) == 0
    assert house.events()[-1].approval == approval_id
    anew = await refused(at(house, NOW_MS + 3_600_000))
    assert isinstance(anew, ApprovalRequired) and anew.details["approval_id"] != approval_id


def _break() -> None:
    raise FailpointReached("a test says so")


async def test_a_full_disk_lets_nothing_act_and_asks_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    append = type(house.rooms.outbox).append
    closed = {"is": True}

    async def full(outbox: Any, event: bytes, event_id: str, *, required: bool = False) -> None:
        if closed["is"] and required:
            raise OutboxError("The disk is full.")
        await append(outbox, event, event_id, required=required)

    monkeypatch.setattr(type(house.rooms.outbox), "append", full)
    with pytest.raises(OutboxError):
        await restart(house)
    assert await house.rooms.approvals.every() == []
    closed["is"] = False
    approval_id = (await refused(house)).details["approval_id"]
    await decide(house, approval_id)
    closed["is"] = True
    with pytest.raises(OutboxError):
        await restart(house)
    closed["is"] = False
    assert isinstance(await refused(house), ApprovalRequired), "used up, and nothing was done"
    assert restarts(house) == 0


async def test_it_is_shown_as_the_record_keeps_arguments(house: House) -> None:
    await refused(house)
    [whole] = await listed(house)
    assert whole["arguments"]["json"] == {"pipeline_id": "shop"} and whole["arguments"]["masked"] is False
    assert whole["caller"] == {"subject": "ada", "method": "jwt", "issuer": whole["caller"]["issuer"]}
    assert (whole["asked"], whole["expires"]) == ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z")
    digests = replace(house, rooms=replace(house.rooms, recording=Recording(PayloadRules(arguments="digest"))))
    await refused(digests, subject="bob")
    [digest] = [each for each in await listed(digests) if each["caller"]["subject"] == "bob"]
    assert "json" not in digest["arguments"] and digest["arguments"]["bytes"] == 22


async def test_what_a_policy_hides_from_a_decider_is_not_there_to_decide(house: House) -> None:
    hidden = await opened(house, tool="drop_dead_letters", all=True)
    with pytest.raises(ApprovalRequired) as error:
        await run(hidden, act)
    with pytest.raises(UnknownApproval):  # its rules give grace no dead letters
        await decide(house, error.value.details["approval_id"])
    assert await listed(house) == []
    other = (await refused(house)).details["approval_id"]
    with pytest.raises(UnknownApproval):  # and mallory the tool of another pipeline alone
        await decide(house, other, subject="mallory")
    assert [each["approval_id"] for each in await listed(house)] == [other]


async def test_one_of_an_older_policy_can_not_be_decided(house: House) -> None:
    approval_id = (await refused(house)).details["approval_id"]
    changed = house.under(POLICY + "\n")
    with pytest.raises(ApprovalOver, match="version of the policy"):
        await decide(changed, approval_id)
    assert await listed(changed) == []


async def test_what_waits_is_bounded(house: House) -> None:
    few = replace(house, rooms=replace(house.rooms, approval_limits=ApprovalLimits(waiting=2)))
    for number in range(2):
        await refused(few, pipeline_id=f"p{number}")
    error = await refused(few, pipeline_id="p2")
    assert isinstance(error, TooManyApprovals) and error.details["most_waiting"] == 2


async def test_decisions_need_no_approval_even_where_every_tool_does(house: House) -> None:
    every = house.under(POLICY.replace('approve: [restart_pipeline, "*_dead_letters"]', 'approve: ["*"]'))
    approval_id = (await refused(every)).details["approval_id"]
    await decide(every, approval_id)
    await listed(every)
    await restart(every)
    assert restarts(every) == 1


async def test_tools_that_read_and_rules_that_ask_for_none_need_none(house: House) -> None:
    asked = Asked(method="tools/call", name="list_pipelines", arguments={})
    everything = house.under(POLICY.replace('approve: [restart_pipeline, "*_dead_letters"]', 'approve: ["*"]'))
    await run(await admit(Visitor(house.token(*SCOPES), asked), everything.rooms), act)
    await run(await opened(house, tool="pause_pipeline"), act)
    assert told(house) == [] and [event.status for event in house.events()] == ["answered"] * 2
