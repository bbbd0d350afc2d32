"""An approval: a person's yes, or no, to one exact call of somebody else."""

from __future__ import annotations

from typing import Literal

import msgspec

from headgate.model.caller import Caller

Phase = Literal["waiting", "approved", "denied", "used", "expired"]
Decision = Literal["approved", "denied"]
ApprovalKind = Literal["asked", "approved", "denied", "used", "expired"]

LONGEST_REASON = 500
"""Characters of why somebody has decided so."""


class AskedArguments(msgspec.Struct, frozen=True, kw_only=True):
    """A call's arguments as their digest and size, and as far as the record keeps them."""

    sha256: str
    size: int
    """Of their canonical JSON, in bytes."""
    json: bytes = b""
    """Whole, or with personal values masked; empty where digest and size are all that is kept."""
    masked: bool = False


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The one call that somebody wants to make: another caller, tool, argument or policy is another wish."""

    caller: Caller
    tool: str
    arguments_sha256: str
    policy_version: str


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, and what has become of it. Over at `ends_ms`, whatever it is then."""

    id: str
    wish: Wish
    arguments: AskedArguments
    pipeline: str = ""
    """The pipeline that the call is about, of a tool that changes one."""
    rules: tuple[str, ...] = ()
    """The policy's rules that ask for it."""
    asked_by_call: str
    asked_ms: int
    ends_ms: int
    phase: Phase = "waiting"
    decided_by: Caller | None = None
    decided_ms: int = 0
    reason: str = ""
    """What the person who decided has said."""
    used_by_call: str = ""
    used_key: str = ""
    """The idempotency key under which the call that used it ran."""
    held_until_ms: int = 0
    """Until then somebody puts a decision down, and nobody else can."""


class ApprovalChange(msgspec.Struct, frozen=True):
    """What becomes of an approval, for the record. `call` does it: empty where no tool call does."""

    kind: ApprovalKind
    approval: Approval
    call: str = ""
