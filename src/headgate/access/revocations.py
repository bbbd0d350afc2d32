"""What was revoked before its time: subjects, tokens, API keys. Every process honours it within five seconds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from headgate.access.refusal import refusal
from headgate.errors import HeadgateError
from headgate.state.base import State
from headgate.telemetry import Clock, logger

WITHIN_MS = 4_000
"""No decision rests on an older list than this."""

_REFRESH_MS = 1_500
_STATE = "revoked/"
_log = logger("access.revocations")

Sort = Literal["subject", "token", "api_key"]


class Mark(msgspec.Struct, frozen=True):
    """What can be revoked: a subject, a token by its `jti`, or an API key by its id. No issuer: of every one."""

    sort: Sort
    name: str
    issuer: str = ""


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """A mark that is refused until `ends_ms`."""

    mark: Mark
    made_ms: int
    ends_ms: int


_decode = msgspec.json.Decoder(Revocation).decode


class Revocations:
    """The list in one `state`. Writing and listing block; asking is for one event loop, and reads a copy.

    The copy is read again while it is in use: in the background once it is a second and a half old, and before
    anything is decided once it is four. So a call costs no question to the state, and a state that does not
    answer lets nobody in.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._marks: frozenset[Mark] = frozenset()
        self._read_ms: int | None = None
        self._reading: asyncio.Task[None] | None = None

    def revoke(self, mark: Mark, ttl_ms: int) -> None:
        """Refuses whoever bears the mark for this time. Unavailable when the state does not answer."""
        now = self._clock()
        revocation = Revocation(mark=mark, made_ms=now, ends_ms=now + ttl_ms)
        self._state.put(_key(mark), msgspec.json.encode(revocation), ttl_ms=ttl_ms)
        self._marks |= {mark}

    def restore(self, mark: Mark) -> bool:
        """Takes a revocation back; answers whether there was one. Processes see it within five seconds too."""
        return self._state.delete(_key(mark))

    def list(self) -> list[Revocation]:
        """Every revocation, the newest last."""
        found = [_decode(entry.value) for entry in self._state.scan(_STATE).values()]
        return sorted(found, key=lambda each: (each.made_ms, each.mark.name))

    async def check(self, marks: Iterable[Mark]) -> None:
        """Returns if none of these is revoked; Unauthenticated otherwise.

        Unavailable when the list is too old and the state does not answer.
        """
        if not self._is_read(self._clock()):
            await asyncio.shield(self._read())
        if self._marks and not self._marks.isdisjoint(marks):
            raise refusal("revoked")

    def clears(self, marks: Iterable[Mark], now_ms: int) -> bool:
        """Whether none of these is revoked, by a list that need not be read anew before that is said now."""
        return self._is_read(now_ms) and (not self._marks or self._marks.isdisjoint(marks))

    def _is_read(self, now_ms: int) -> bool:
        """Whether the copy is young enough to decide by. One that grows old is read again in the background."""
        age = None if self._read_ms is None else now_ms - self._read_ms
        if age is None or not 0 <= age < WITHIN_MS:
            return False
        if age >= _REFRESH_MS:
            self._read()
        return True

    def _read(self) -> asyncio.Task[None]:
        """The one reading that is under way."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_now())
            self._reading.add_done_callback(self._read_ended)
        return self._reading

    async def _read_now(self) -> None:
        began = self._clock()
        found = await asyncio.to_thread(self.list)
        self._marks, self._read_ms = frozenset(each.mark for each in found), began

    def _read_ended(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        error = None if reading.cancelled() else reading.exception()
        if error is not None:
            _log.warning("the list of revocations can't be read: %s", error if isinstance(error, HeadgateError) else "")


def _key(mark: Mark) -> str:
    return _STATE + hashlib.sha256(msgspec.json.encode(mark)).hexdigest()
