"""`list_approvals`, `decide_approval`: calls of others that wait for a person's yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

from pydantic import Field, model_validator

from headgate.access.approval import DECIDE
from headgate.access.desk import Desk
from headgate.access.view import View
from headgate.model.approval import LONGEST_REASON, Approval, Decision, Phase
from headgate.model.entity import Entity
from headgate.tools import _schemas as schemas
from headgate.tools._answers import MAX_BYTES, decoded, framed, instant, lines, truncated
from headgate.tools._arguments import Arguments
from headgate.tools.base import Annotations, Result, Tool, TypedTool

MAX_APPROVALS = 200

_SCOPES = frozenset({DECIDE})
_DECISIONS: Final[Mapping[str, Decision]] = {"approve": "approved", "deny": "denied"}

_CALLER = schemas.an_object({"subject": schemas.TEXT, "method": schemas.TEXT, "issuer": schemas.TEXT})
_ARGUMENTS = schemas.an_object(
    {
        "sha256": schemas.TEXT,
        "bytes": schemas.WHOLE,
        "masked": {**schemas.FLAG, "description": "Whether personal values were replaced by ***."},
    },
    {"json": {"type": "object", "description": "Left out where the record keeps the digest alone."}},
)
_PHASE = schemas.one_of(get_args(Phase))
_APPROVAL = schemas.an_object(
    {
        "approval_id": schemas.TEXT,
        "phase": _PHASE,
        "caller": _CALLER,
        "is_yours": {**schemas.FLAG, "description": "You asked for it yourself, and so can't decide it."},
        "tool": schemas.TEXT,
        "arguments": _ARGUMENTS,
        "rules": {**schemas.TEXTS, "description": "The policy's rules that ask for it."},
        "asked": schemas.TEXT,
        "expires": {**schemas.TEXT, "description": "Until then it can be given, and used."},
    },
    {"decided_by": _CALLER, "reason": {**schemas.TEXT, "description": "What the person who decided has said."}},
)
_LIST_OUTPUT = schemas.output(
    {"approvals": schemas.a_list(_APPROVAL), "total": {**schemas.WHOLE, "description": "How many there are in all."}},
    {"truncated": schemas.TRUNCATED},
)
_DECIDED_OUTPUT = schemas.output(
    {"approval_id": schemas.TEXT, "phase": _PHASE, "tool": schemas.TEXT, "expires": schemas.TEXT}
)


class ListArguments(Arguments):
    """Which approvals."""

    phase: Literal["waiting", "all"] = Field(
        default="waiting", description="Those that nobody has decided, or decided and used ones too until they expire."
    )
    limit: int = Field(default=50, ge=1, le=MAX_APPROVALS, description="How many at most, the oldest first.")


class DecideArguments(Arguments):
    """Which approval, and what is decided."""

    approval_id: str = Field(min_length=1, max_length=64, description="As list_approvals gives it.")
    decision: Literal["approve", "deny"] = Field(description="approve lets that very call act, once.")
    reason: str = Field(
        default="", max_length=LONGEST_REASON, description="Why; the caller is told it. A denial needs one."
    )

    @model_validator(mode="after")
    def _says_why(self) -> DecideArguments:
        if self.decision == "deny" and not self.reason.strip():
            raise ValueError("needs a reason with deny, which the caller is told")
        return self


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The tools of this family."""
    return [
        TypedTool(
            name="list_approvals",
            title="List approvals",
            description=(
                "Lists calls of others that the policy lets act only once another person approves: who wants to call "
                "which tool, with which arguments, and until when it can be decided."
            ),
            scopes=_SCOPES,
            arguments=ListArguments,
            output_schema=_LIST_OUTPUT,
            answer=_list,
        ),
        TypedTool(
            name="decide_approval",
            title="Decide an approval",
            description=(
                "Approves or denies one call that waits. It is a person's to decide: call this only as the person you "
                "act for has said about this very call. Whoever asked for an approval can't decide it."
            ),
            scopes=_SCOPES,
            arguments=DecideArguments,
            output_schema=_DECIDED_OUTPUT,
            answer=_decide,
            annotations=Annotations(read_only=False),
        ),
    ]


async def _list(view: View, given: ListArguments) -> Result:
    desk = view.desk()
    every = [each for each in await desk.open() if given.phase == "all" or each.phase == "waiting"]
    shown, cut = _fitting(every, given.limit)
    structured: dict[str, Any] = {"approvals": [_answer(desk, each) for each in shown], "total": len(every)}
    if cut:
        structured["truncated"] = truncated(cut, len(shown))
    said = f"{len(every)} approval(s) {'wait' if given.phase == 'waiting' else 'are there'}."
    return Result(
        structured=structured,
        text=lines(
            said,
            f"These are the {len(shown)} oldest; the others follow once these are decided." if cut else "",
            framed(structured["approvals"]) if shown else "",
        ),
    )


def _fitting(approvals: Sequence[Approval], limit: int) -> tuple[Sequence[Approval], str]:
    """The first that an answer holds, and what cut it; the very first always fits."""
    left = MAX_BYTES
    for count, approval in enumerate(approvals):
        left -= len(approval.arguments.json)
        if count == limit or (left < 0 and count > 0):
            return approvals[:count], "rows" if count == limit else "bytes"
    return approvals, ""


def _answer(desk: Desk, approval: Approval) -> dict[str, Any]:
    kept, wish = approval.arguments, approval.wish
    arguments = {"sha256": kept.sha256, "bytes": kept.size, "masked": kept.masked}
    answer: dict[str, Any] = {
        "approval_id": approval.id,
        "phase": approval.phase,
        "caller": _caller(wish.caller.subject, wish.caller.method, wish.caller.issuer),
        "is_yours": desk.is_own(approval),
        "tool": wish.tool,
        "arguments": {**arguments, "json": decoded(kept.json)} if kept.json else arguments,
        "rules": list(approval.rules),
        "asked": instant(approval.asked_ms),
        "expires": instant(approval.ends_ms),
    }
    if (by := approval.decided_by) is not None:
        answer |= {"decided_by": _caller(by.subject, by.method, by.issuer), "reason": approval.reason}
    return answer


def _caller(subject: str, method: str, issuer: str) -> dict[str, str]:
    return {"subject": subject, "method": method, "issuer": issuer}


async def _decide(view: View, given: DecideArguments) -> Result:
    approval = await view.desk().decide(given.approval_id, _DECISIONS[given.decision], given.reason.strip())
    structured = {
        "approval_id": approval.id,
        "phase": approval.phase,
        "tool": approval.wish.tool,
        "expires": instant(approval.ends_ms),
    }
    does = (
        f"The very same call of its caller acts once, until {instant(approval.ends_ms)}."
        if approval.phase == "approved"
        else "Its caller is told so, with the reason."
    )
    return Result(structured=structured, text=f"The call of {approval.wish.tool} is {approval.phase}. {does}")
