"""Calls that change something and carry an idempotency key: each runs at most once, and is answered the same.

In `state` an intent stands per caller and key for 24 hours, from before the call acts: so any process knows of it.
Beside it a pulse of ten seconds is renewed for as long as the call runs: an intent without an answer and without a
pulse is of a call whose process ended in the middle.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

import msgspec

from headgate.errors import CallInProgress, HeadgateError, KeyReused, OutcomeUnknown, StateConflict
from headgate.model.caller import Caller
from headgate.state.base import Entry, State
from headgate.telemetry import logger

KEPT_MS = 24 * 3_600_000
LONGEST_KEY = 200
PULSE_MS = 10_000

_BEAT_S = 3.0
_RETRY_S = 3.0
"""An obedient client comes back four times until the pulse of a dead call is over: a write each."""
_INTENT = "intent/"
_PULSE = "pulse/"
_log = logger("access.idempotency")


class Wanted(NamedTuple):
    """What a call with a key is about to do."""

    caller: Caller
    key: str
    tool: str
    arguments_sha256: str
    call_id: str


class First(NamedTuple):
    """The first call with this key, which has been answered."""

    call_id: str
    answer: bytes


class Claim(NamedTuple):
    """The right to act, which one call has. `version` is that of its intent in the state."""

    name: str
    version: int
    intent: Intent
    key: str


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the state. `unknown`: it ended without telling whether it acted."""

    tool: str
    arguments_sha256: str
    call_id: str
    phase: Literal["begun", "answered", "unknown"] = "begun"
    answer: bytes = b""


_decode = msgspec.msgpack.Decoder(Intent).decode


class Once:
    """Hands out the right to act. For one event loop. Unavailable when the state does not answer."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def claim(self, wanted: Wanted) -> Claim | First:
        """The right to act, or the first answer.

        CallInProgress while another call has the right; KeyReused when the key stands for something else;
        OutcomeUnknown when a call had the right and nobody knows what came of it.
        """
        return await asyncio.to_thread(self._claim, wanted)

    def _claim(self, wanted: Wanted) -> Claim | First:
        """What acts has a pulse: the pulse comes before the intent, so that no call is thought dead too early."""
        name = _name(wanted)
        pulse = self._first_beat(name, wanted.call_id)
        held = self._state.get(_INTENT + name)
        if held is None and pulse is not None:
            return self._begin(name, wanted)
        if pulse is not None:
            self._end_beat(name, pulse)
        if held is None:
            raise _in_progress()
        return _judged(held, wanted, is_alive=pulse is None)

    async def look(self, wanted: Wanted) -> First | None:
        """As `claim`, of a call that does not mean to act: the first answer; None where nobody has the key."""
        return await asyncio.to_thread(self._look, wanted)

    def _look(self, wanted: Wanted) -> First | None:
        name = _name(wanted)
        held, pulse = self._state.get(_INTENT + name), self._state.get(_PULSE + name)
        if held is not None and pulse is None:  # it may have ended between the two
            held = self._state.get(_INTENT + name)
        return None if held is None else _judged(held, wanted, is_alive=pulse is not None)

    async def knows(self, wanted: Wanted) -> bool:
        """Whether the key stands for a call, whatever came of it."""
        return await asyncio.to_thread(self._state.get, _INTENT + _name(wanted)) is not None

    def _begin(self, name: str, wanted: Wanted) -> Claim:
        intent = Intent(tool=wanted.tool, arguments_sha256=wanted.arguments_sha256, call_id=wanted.call_id)
        try:
            return Claim(
                name, self._state.put(_INTENT + name, _encode(intent), expect=0, ttl_ms=KEPT_MS), intent, wanted.key
            )
        except StateConflict as error:
            raise _in_progress() from error  # our pulse stopped meanwhile, and another one began

    def _first_beat(self, name: str, call_id: str) -> int | None:
        """The version of our pulse; None where there is another's."""
        try:
            return self._state.put(_PULSE + name, call_id.encode(), expect=0, ttl_ms=PULSE_MS)
        except StateConflict:
            return None

    def _end_beat(self, name: str, version: int) -> None:
        try:
            self._state.delete(_PULSE + name, expect=version)
        except StateConflict:
            pass  # it is another's by now

    @asynccontextmanager
    async def alive(self, claim: Claim) -> AsyncIterator[None]:
        """Keeps the claim's pulse for the length of a block."""
        beating = asyncio.create_task(self._beat(claim))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, claim: Claim) -> None:
        value = claim.intent.call_id.encode()
        while True:
            await asyncio.sleep(_BEAT_S)
            try:
                await asyncio.to_thread(self._state.put, _PULSE + claim.name, value, ttl_ms=PULSE_MS)
            except HeadgateError as error:
                _log.warning("a call's pulse could not be renewed: %s", error.message)

    async def answered(self, claim: Claim, answer: bytes) -> None:
        """Keeps the answer for whoever asks again. It never fails: what can't be kept is an unknown outcome."""
        await self._end(claim, msgspec.structs.replace(claim.intent, phase="answered", answer=answer))

    async def doubted(self, claim: Claim) -> None:
        """Says that nobody knows what came of it. Never fails."""
        await self._end(claim, msgspec.structs.replace(claim.intent, phase="unknown"))

    async def withdrawn(self, claim: Claim) -> None:
        """Gives the key back: nothing was done. Never fails; what can't be withdrawn is an unknown outcome."""
        await self._end(claim, None)

    async def _end(self, claim: Claim, intent: Intent | None) -> None:
        try:
            await asyncio.to_thread(self._write_end, claim, intent)
        except HeadgateError as error:
            _log.warning("what came of call %s could not be kept: %s", claim.intent.call_id, error.message)

    def _write_end(self, claim: Claim, intent: Intent | None) -> None:
        name = _INTENT + claim.name
        if intent is None:
            self._state.delete(name, expect=claim.version)
        else:
            self._state.put(name, _encode(intent), expect=claim.version, ttl_ms=KEPT_MS)
        self._state.delete(_PULSE + claim.name)


def _judged(held: Entry, wanted: Wanted, *, is_alive: bool) -> First:
    """What the intent that stands there says to a call that comes later."""
    intent = _decode(held.value)
    if (intent.tool, intent.arguments_sha256) != (wanted.tool, wanted.arguments_sha256):
        raise KeyReused(
            "This idempotency key came with another tool or other arguments before, and nothing was done now: "
            "take a new key for another call."
        )
    if intent.phase == "answered":
        return First(intent.call_id, intent.answer)
    if intent.phase == "begun" and is_alive:
        raise _in_progress()
    raise OutcomeUnknown(
        "A call with this idempotency key began, and nobody knows whether it acted. It is not run again. Look at "
        "what it was to change (get_pipeline_detail tells for a pipeline); if it did not act, call with a new key.",
        call=intent.call_id,
    )


def _in_progress() -> CallInProgress:
    return CallInProgress(
        "A call with this idempotency key is under way: ask again with the same key.", retry_after_s=_RETRY_S
    )


def _name(wanted: Wanted) -> str:
    return hashlib.sha256(msgspec.json.encode([*wanted.caller.who, wanted.key])).hexdigest()


def _encode(intent: Intent) -> bytes:
    return msgspec.msgpack.encode(intent)
