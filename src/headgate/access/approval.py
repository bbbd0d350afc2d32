"""Where approvals stand: in `state`, so that a yes given at one process is used at another, once.

Per approval there is its record (`approval/<id>`), written by compare-and-set alone, and per caller a roll of what it
has asked for (`approval-roll/<caller>`), by which the same call finds its approval again, and which bounds how many
may wait. Both are kept an hour longer than the approval holds, so that it is seen that its time is over.

What becomes of an approval is told to the record: that it was asked for, or decided, before it stands there, that it
was used once it stands there and before the call acts. One event may be told twice, after a crash or by two at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from headgate.errors import (
    ApprovalOver,
    CallInProgress,
    HeadgateError,
    OwnApproval,
    StateConflict,
    TooManyApprovals,
    UnknownApproval,
)
from headgate.model.approval import Approval, ApprovalChange, AskedArguments, Decision, Wish
from headgate.model.caller import Caller
from headgate.state.base import State
from headgate.telemetry import Clock

DECIDE: Final = "approvals:decide"
"""The scope of whoever decides. No tool that needs it ever needs an approval: nobody could decide any more."""

_RECORD = "approval/"
_ROLL = "approval-roll/"
_SEEN_FOR_MS = 3_600_000
_HELD_MS = 10_000
"""How long somebody has to put a decision down."""
_RETRY_S = 1.0
_ID_BYTES = 10

Tell = Callable[[ApprovalChange], Awaitable[None]]
"""Returns once it is durable. OutboxError when it can't be."""
May = Callable[[Approval], None]
"""Returns if somebody may decide it, and raises why not."""


class ApprovalLimits(BaseModel):
    """How long an approval holds, and how many may wait."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    time_limit_s: float = Field(3_600, ge=1, le=7 * 86_400)
    """From when it is asked for: within it somebody decides, and the call is made."""
    waiting: int = Field(16, ge=1, le=1_000)
    """Approvals of one caller that wait, or were given and not used."""


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a person, and by which call."""

    wish: Wish
    arguments: AskedArguments
    pipeline: str
    rules: tuple[str, ...]
    call: str


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """In a caller's roll."""

    wish: str
    id: str
    asked_ms: int
    ends_ms: int
    may_wait: bool = True
    """False once it was seen to be decided against, or used."""


class _Held(NamedTuple):
    approval: Approval
    version: int


_decode = msgspec.msgpack.Decoder(Approval).decode
_decode_roll = msgspec.msgpack.Decoder(list[_Entry]).decode
_encode = msgspec.msgpack.Encoder().encode


class Approvals:
    """The approvals of one `state`. For any number of event loops. Unavailable when the state does not answer."""

    def __init__(
        self,
        state: State,
        clock: Clock,
        limits: ApprovalLimits,
        tell: Tell,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._state = state
        self._clock = clock
        self._limits = limits
        self._tell = tell
        self._random_bytes = random_bytes

    # --- whoever wants to make the call -----------------------------------------------------------

    async def find(self, wish: Wish, call: str = "") -> Approval | None:
        """What has become of the wish; None where it was not asked for, or the time of that is over.

        `call` is the one that looks, for the record.
        """
        roll, _ = await self._roll(wish.caller)
        entry = _entry_of(wish, roll)
        held = await self._get(entry.id) if entry else None
        return held.approval if held and await self._still_holds(held, call) else None

    async def ask(self, asking: Asking) -> Approval:
        """Asks for an approval, and answers it; of a wish that one waits for, that one. TooManyApprovals."""
        entry = await self._enrol(asking.wish)
        held = await self._get(entry.id)
        if held is not None:
            return held.approval
        approval = Approval(
            id=entry.id,
            wish=asking.wish,
            arguments=asking.arguments,
            pipeline=asking.pipeline,
            rules=asking.rules,
            asked_by_call=asking.call,
            asked_ms=entry.asked_ms,
            ends_ms=entry.ends_ms,
        )
        await self._tell(ApprovalChange("asked", approval, asking.call))
        try:
            await self._put(approval, 0)
        except StateConflict:  # another call with the same wish was faster
            held = await self._get(entry.id)
        return held.approval if held else approval

    async def use(self, approval_id: str, call: str, key: str) -> None:
        """Uses it up for that call, which runs under that idempotency key. Of any number of calls one gets so far.

        CallInProgress: it is not to be used any more, and looking again says why. OutboxError: it is used up, and the
        call must not act.
        """
        held = await self._get(approval_id)
        if held is None or held.approval.phase != "approved" or held.approval.ends_ms <= self._clock():
            raise used_elsewhere()
        used = msgspec.structs.replace(held.approval, phase="used", used_by_call=call, used_key=key)
        try:
            await self._put(used, held.version)
        except StateConflict as error:
            raise used_elsewhere() from error
        await self._tell(ApprovalChange("used", used, call))

    # --- whoever decides --------------------------------------------------------------------------

    async def every(self) -> Sequence[Approval]:
        """All that are asked for and whose time is not over, the oldest first."""
        entries = await asyncio.to_thread(self._state.scan, _RECORD)
        found = [_Held(_decode(entry.value), entry.version) for entry in entries.values()]
        kept = [held.approval for held in found if await self._still_holds(held)]
        return sorted(kept, key=lambda approval: (approval.asked_ms, approval.id))

    async def decide(self, approval_id: str, decision: Decision, reason: str, by: Caller, may: May) -> Approval:
        """Puts a decision down, durable in the record before it stands, and answers what the approval is then.

        UnknownApproval, OwnApproval, ApprovalOver, CallInProgress while another decides, and what `may` raises.
        """
        held = await self._get(approval_id)
        if held is None:
            raise unknown_approval()
        may(held.approval)
        await self._require_undecided(held, by)
        decided = msgspec.structs.replace(
            held.approval, phase=decision, decided_by=without_claims(by), decided_ms=self._clock(), reason=reason
        )
        version = await self._hold(held)
        try:
            await self._tell(ApprovalChange(decision, decided))
        except BaseException:
            await self._let_go(held.approval, version)
            raise
        try:
            await self._put(decided, version)
        except StateConflict as error:
            raise _decided_elsewhere() from error
        return decided

    async def _require_undecided(self, held: _Held, by: Caller) -> None:
        approval = held.approval
        if not await self._still_holds(held):
            raise ApprovalOver("The time of this approval is over: the same call asks for another one.")
        if approval.wish.caller.who == by.who:
            raise OwnApproval("You asked for this approval yourself: another person must decide it.")
        if approval.phase != "waiting":
            raise ApprovalOver(f"This approval is {approval.phase} already, and stays so.")
        if approval.held_until_ms > self._clock():
            raise _decided_elsewhere()

    async def _hold(self, held: _Held) -> int:
        """The right to decide, for a while: only who has it tells the record of a decision."""
        try:
            holding = msgspec.structs.replace(held.approval, held_until_ms=self._clock() + _HELD_MS)
            return await self._put(holding, held.version)
        except StateConflict as error:
            raise _decided_elsewhere() from error

    async def _let_go(self, approval: Approval, version: int) -> None:
        try:
            await self._put(approval, version)
        except HeadgateError:
            pass  # the right ends by itself

    # --- records ----------------------------------------------------------------------------------

    async def _get(self, approval_id: str) -> _Held | None:
        entry = await asyncio.to_thread(self._state.get, _RECORD + approval_id)
        return _Held(_decode(entry.value), entry.version) if entry else None

    async def _put(self, approval: Approval, expect: int) -> int:
        ttl_ms = max(0, approval.ends_ms - self._clock()) + _SEEN_FOR_MS
        put = partial(self._state.put, _RECORD + approval.id, _encode(approval), expect=expect, ttl_ms=ttl_ms)
        return await asyncio.to_thread(put)

    async def _still_holds(self, held: _Held, call: str = "") -> bool:
        """Whether its time is not over. Who sees that first of one that was not used or denied tells the record."""
        approval = held.approval
        if approval.ends_ms > self._clock():
            return True
        if approval.phase in ("waiting", "approved"):
            expired = msgspec.structs.replace(approval, phase="expired")
            await self._tell(ApprovalChange("expired", expired, call))
            try:
                await self._put(expired, held.version)
            except StateConflict:
                pass  # another one has seen it too
        return False

    # --- a caller's roll --------------------------------------------------------------------------

    async def _roll(self, caller: Caller) -> tuple[list[_Entry], int]:
        found = await asyncio.to_thread(self._state.get, _ROLL + _owner(caller))
        return (_decode_roll(found.value), found.version) if found else ([], 0)

    async def _enrol(self, wish: Wish) -> _Entry:
        """The entry of the wish: the one that is there, if it can still come to something, else a new one."""
        while True:
            roll, version = await self._roll(wish.caller)
            now = self._clock()
            mine, others = _entry_of(wish, roll), [each for each in roll if each.wish != _name(wish)]
            if mine is not None and mine.ends_ms > now and await self._may_come_to_something(mine):
                return mine
            others = await self._with_room([each for each in others if each.ends_ms > now])
            ends_ms = now + round(self._limits.time_limit_s * 1000)
            entry = _Entry(_name(wish), self._random_bytes(_ID_BYTES).hex(), now, ends_ms)
            try:
                await self._put_roll(wish.caller, [*others, entry], version)
                return entry
            except StateConflict:
                continue

    async def _with_room(self, entries: list[_Entry]) -> list[_Entry]:
        """The entries, as far as they must be looked at, where one more may wait. TooManyApprovals where none may."""
        if sum(each.may_wait for each in entries) < self._limits.waiting:
            return entries
        looked_at = [
            msgspec.structs.replace(each, may_wait=each.may_wait and await self._waits(each)) for each in entries
        ]
        waiting = [each for each in looked_at if each.may_wait]
        if len(waiting) >= self._limits.waiting:
            first_ms = min(each.ends_ms for each in waiting) - self._clock()
            raise TooManyApprovals(
                f"You have {len(waiting)} approvals that wait, or were given and not used, of {self._limits.waiting} "
                "at most: make those calls, or wait until one is decided or its time is over.",
                retry_after_s=max(1, -(-first_ms // 1000)),
                most_waiting=self._limits.waiting,
            )
        return looked_at

    async def _waits(self, entry: _Entry) -> bool:
        held = await self._get(entry.id)
        return held is None or held.approval.phase in ("waiting", "approved")

    async def _may_come_to_something(self, entry: _Entry) -> bool:
        held = await self._get(entry.id)
        return held is None or held.approval.phase in ("waiting", "approved", "denied")

    async def _put_roll(self, caller: Caller, entries: list[_Entry], expect: int) -> None:
        ttl_ms = max(each.ends_ms for each in entries) - self._clock() + _SEEN_FOR_MS
        put = partial(self._state.put, _ROLL + _owner(caller), _encode(entries), expect=expect, ttl_ms=ttl_ms)
        await asyncio.to_thread(put)


def without_claims(caller: Caller) -> Caller:
    """As far as it is kept: who it is, and its scopes."""
    return msgspec.structs.replace(caller, claims={}, expires_at_s=None)


def unknown_approval() -> UnknownApproval:
    """Of one that there is not, or that somebody may not see."""
    return UnknownApproval("There is no such approval: list_approvals names those that wait.")


def used_elsewhere() -> CallInProgress:
    """Of a call whose approval another one has used a moment before."""
    return CallInProgress(
        "Another call like this one came first and has used the approval. Nothing was done: call again.",
        retry_after_s=_RETRY_S,
    )


def _decided_elsewhere() -> CallInProgress:
    return CallInProgress(
        "Somebody else decides this approval at this moment: list_approvals shows what it has come to.",
        retry_after_s=_RETRY_S,
    )


def _entry_of(wish: Wish, roll: Sequence[_Entry]) -> _Entry | None:
    name = _name(wish)
    return next((each for each in roll if each.wish == name), None)


def _owner(caller: Caller) -> str:
    return hashlib.sha256(msgspec.json.encode(caller.who)).hexdigest()


def _name(wish: Wish) -> str:
    said = [*wish.caller.who, wish.tool, wish.arguments_sha256, wish.policy_version]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()
