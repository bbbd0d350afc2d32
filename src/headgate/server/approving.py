"""The step of the page that waits for a person: which calls need another one's yes, and the using up of it.

It comes before the budget of what acts and before the intent under an idempotency key: a call that waits costs a read,
leaves no intent, and is told when to come back. It is used up once nothing else stands between the call and its act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from headgate.access.approval import DECIDE, Approvals, Asking, used_elsewhere, without_claims
from headgate.access.idempotency import Wanted
from headgate.access.view import CONTROL
from headgate.audit.event import Payload, payload_of, rfc3339
from headgate.audit.journal import Journal
from headgate.errors import (
    ApprovalDenied,
    ApprovalRequired,
    CallError,
    CallInProgress,
    InvalidArguments,
    OutcomeUnknown,
)
from headgate.failpoints import reach
from headgate.model.approval import Approval, AskedArguments, Wish
from headgate.server.paying import pay_for_a_look

if TYPE_CHECKING:
    from headgate.server.call import Call, Rooms

_COME_BACK_S = 10.0
_LONGEST_ID = 64


def approvals_of(rooms: Rooms) -> Approvals:
    """The approvals of these rooms, whose outbox keeps what becomes of them."""
    journal = Journal(rooms.outbox, rooms.source, clock=rooms.clock, random_bytes=rooms.random_bytes)
    return Approvals(rooms.state, rooms.clock, rooms.approval_limits, journal.approval, rooms.random_bytes)


async def require_approval(call: Call, *, is_paid: bool = False) -> None:
    """Returns once no person's yes is lacking: none is needed, it is given, or the call's key has an answer already.

    ApprovalRequired: it is asked for, or was before; ApprovalDenied; TooManyApprovals; InvalidArguments: nobody is
    asked about what could not be done; OutcomeUnknown, CallInProgress: a call used it, and it isn't known what came
    of that; BudgetSpent. In all of these nothing was done.
    """
    rules = _asking(call)
    if not rules:
        call.approval = _decided_by(call)
        return
    wish = _wish_of(call)
    if call.asked.idempotency_key and await call.rooms.once.knows(_wanted(call, wish, call.asked.idempotency_key)):
        return  # what comes of it is for the key to say; it can't act by it
    found = await call.rooms.approvals.find(wish, call.id)
    if found is None or found.phase != "approved":
        if not is_paid:
            await pay_for_a_look(call)
        if found is None or (found.phase == "used" and await _has_ended(call, wish, found)):
            found = await _ask(call, wish, rules)
    call.approval = found.id
    if found.phase != "approved":
        raise _refusal(found, call.rooms.clock())


async def use_approval(call: Call, key: str) -> None:
    """Returns once the approval, if the call needs one, is used up by it. CallInProgress, OutboxError: do not act."""
    if _asking(call):
        if not call.approval:
            raise used_elsewhere()  # its key had an answer when it came, and has none any more
        await call.rooms.approvals.use(call.approval, call.id, key)
        reach("approval.used")


def key_of(call: Call) -> str:
    """The idempotency key that a call runs under: its own, else one that no client can send, for its approval."""
    return call.asked.idempotency_key or (call.approval and _asking(call) and f"\n{call.approval}") or ""


def _asking(call: Call) -> tuple[str, ...]:
    """The rules of the policy by which the call needs an approval."""
    tool = call.tool
    if tool is None or not call.changes_something or DECIDE in tool.scopes:
        return ()
    return call.granted.asking(tool.name)


def _decided_by(call: Call) -> str:
    """The approval that a call decides, if it decides one."""
    if call.tool is None or DECIDE not in call.tool.scopes:
        return ""
    named = call.asked.arguments.get("approval_id")
    return named if isinstance(named, str) and len(named) <= _LONGEST_ID else ""


def _wish_of(call: Call) -> Wish:
    grant, digest = call.granted, payload_of(call.asked.arguments).sha256
    if not digest:
        raise InvalidArguments("Arguments that are no JSON can't be told apart from others: mend them.")
    return Wish(
        caller=without_claims(grant.caller),
        tool=call.asked.name,
        arguments_sha256=digest,
        policy_version=grant.policy_version,
    )


def _wanted(call: Call, wish: Wish, key: str) -> Wanted:
    return Wanted(call.granted.caller, key, wish.tool, wish.arguments_sha256, call.id)


async def _has_ended(call: Call, wish: Wish, used: Approval) -> bool:
    """Whether it is known what came of the call that used it, so that another one may be asked for."""
    try:
        await call.rooms.once.look(_wanted(call, wish, used.used_key))
    except CallInProgress as error:
        call.approval = used.id
        raise CallInProgress(
            "A call like this one is under way with its approval: ask again in a moment.",
            retry_after_s=error.retry_after_s,
        ) from error
    except OutcomeUnknown as error:
        call.approval = used.id
        raise OutcomeUnknown(
            f"A call like this one has used the approval {used.id}, and nobody knows whether it acted. It is not run "
            "again. Look at what it was to change (get_pipeline_detail tells for a pipeline); if it did not act, "
            f"another approval can be asked for from {rfc3339(used.ends_ms)} on.",
            call=used.used_by_call,
            approval_id=used.id,
        ) from error
    except CallError:
        pass  # its key stands for something else by now
    return True


async def _ask(call: Call, wish: Wish, rules: tuple[str, ...]) -> Approval:
    tool = call.tool
    assert tool is not None, "only a tool's call needs an approval"
    if (check := getattr(tool, "check", None)) is not None:
        check(call.asked.arguments)
    pipeline = str(call.asked.arguments.get("pipeline_id", "")) if CONTROL in tool.scopes else ""
    kept = await _kept_arguments(call)
    return await call.rooms.approvals.ask(
        Asking(wish=wish, arguments=kept, pipeline=pipeline, rules=rules, call=call.id)
    )


async def _kept_arguments(call: Call) -> AskedArguments:
    """As the record keeps them."""
    recording = call.rooms.recording
    if recording.must_learn:
        await recording.learn(call)
    payload = recording.arguments(call)
    assert isinstance(payload, Payload), "a tool's call has arguments"
    return AskedArguments(
        sha256=payload.sha256,
        size=payload.bytes,
        json=b"" if payload.json is msgspec.UNSET else bytes(payload.json),
        masked=payload.masked is True,
    )


def _refusal(found: Approval, now_ms: int) -> CallError:
    ends, left_s = rfc3339(found.ends_ms), max(1.0, (found.ends_ms - now_ms) / 1000)
    if found.phase == "denied":
        return ApprovalDenied(
            f"A person has denied this call: {found.reason!r}. Nothing was done. It may be asked for again from {ends} "
            "on.",
            approval_id=found.id,
            denied_because=found.reason,
            retry_after_s=left_s,
        )
    return ApprovalRequired(
        f"This call needs another person's yes, and nothing was done. It is asked for as the approval {found.id}, "
        f"which can be given until {ends} (decide_approval, or headgate approvals approve {found.id}). Make the very "
        f"same call again in {_COME_BACK_S:g} seconds or later: it acts once it is approved.",
        retry_after_s=min(_COME_BACK_S, left_s),
        approval_id=found.id,
        expires_at=ends,
    )
