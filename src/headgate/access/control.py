"""What may be asked of a pipeline's processes: wishes in `state`, which they look for each half second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from headgate.errors import InvalidArguments, StateConflict, Unavailable
from headgate.model.pipeline import (
    DESIRED,
    LETTER_REQUEST_TTL_MS,
    REPORTS,
    Desired,
    LetterRequest,
    Report,
    announced_tables,
    letter_requests,
    resnapshot_requests,
)
from headgate.state.base import State
from headgate.telemetry import Clock

_ATTEMPTS = 20
_decode_desired = msgspec.json.Decoder(Desired).decode
_decode_report = msgspec.json.Decoder(Report).decode


class Control:
    """The wishes of one pipeline. Its methods block for about a millisecond; any thread and process may call them.

    A wish is kept as long as `state` keeps it, whether or not a process runs that could obey. Unavailable when
    the state does not answer: then a wish may be kept or not, and can be asked again.
    """

    def __init__(self, state: State, pipeline: str, clock: Clock) -> None:
        self.pipeline = pipeline
        self._state = state
        self._clock = clock

    def desired(self) -> Desired:
        """What is wanted now."""
        entry = self._state.get(DESIRED + self.pipeline)
        return _decode_desired(entry.value) if entry else Desired()

    def pause(self) -> bool:
        """Both halves end their run, keep their positions and wait. Answers whether this is news. Idempotent."""
        return self._change(lambda now: msgspec.structs.replace(now, paused=True))

    def resume(self) -> bool:
        """A paused pipeline goes on from its positions. Answers whether it was paused. Idempotent."""
        return self._change(lambda now: msgspec.structs.replace(now, paused=False))

    def restart(self) -> None:
        """Each half ends its run and begins anew at once, also out of a fault. Every call is one more."""
        self._change(lambda now: msgspec.structs.replace(now, restarts=now.restarts + 1))

    def tables(self) -> list[str]:
        """The tables that capture has announced, sorted."""
        prefix = announced_tables(self.pipeline)
        return sorted(key.removeprefix(prefix) for key in self._state.scan(prefix))

    def resnapshot(self, table: str) -> bool:
        """Whoever captures reads this table again, whole. Answers whether this is news. Idempotent.

        InvalidArguments names the tables there are.
        """
        tables = self.tables()
        known = {name.lower(): name for name in tables} | {name.lower().partition(".")[2]: name for name in tables}
        if table.lower() not in known:
            there = ", ".join(tables) or "none so far: its capture has not announced any"
            raise InvalidArguments(
                f"The pipeline {self.pipeline!r} has no such table. Tables: {there}.", fields={"table": "is not known"}
            )
        try:
            self._state.put(resnapshot_requests(self.pipeline) + known[table.lower()], b"1", expect=0)
        except StateConflict:
            return False
        return True

    def letters(self, action: Literal["retry", "drop"], ids: Sequence[str] | None) -> None:
        """Wants these dead letters retried or dropped; with None, all that there are now.

        A change before which an entity stands still counts as one of them. Idempotent.
        """
        standing = [] if ids is not None else self._standing()
        now = self._clock()
        request = LetterRequest(action=action, asked_ms=now, ids=tuple(ids or standing), every=ids is None)
        self._add(letter_requests(self.pipeline), now, msgspec.json.encode(request))

    def _standing(self) -> list[str]:
        """The changes before which entities stand still, as running processes say."""
        entries = self._state.scan(f"{REPORTS}{self.pipeline}/").values()
        return sorted(
            {fault.letter for entry in entries for fault in _decode_report(entry.value).tables if fault.letter}
        )

    def _add(self, prefix: str, now_ms: int, value: bytes) -> None:
        for number in range(_ATTEMPTS):
            try:
                self._state.put(f"{prefix}{now_ms}-{number}", value, expect=0, ttl_ms=LETTER_REQUEST_TTL_MS)
                return
            except StateConflict:
                continue  # asked in the same millisecond
        raise Unavailable("Too much is asked of this pipeline at once: try again.")

    def _change(self, change: Callable[[Desired], Desired]) -> bool:
        key = DESIRED + self.pipeline
        for _ in range(_ATTEMPTS):
            entry = self._state.get(key)
            known = _decode_desired(entry.value) if entry else Desired()
            wanted = change(known)
            if wanted == known:
                return False
            try:
                self._state.put(key, msgspec.json.encode(wanted), expect=entry.version if entry else 0)
                return True
            except StateConflict:
                continue  # someone else asked meanwhile
        raise Unavailable("Too much is asked of this pipeline at once: try again.")
