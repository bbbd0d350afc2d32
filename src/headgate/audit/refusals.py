"""Refusals of unauthenticated callers: counted, and recorded in aggregate so that nobody can fill the disk."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from headgate.audit.event import cloudevent, event_id
from headgate.audit.outbox import Outbox
from headgate.errors import OutboxError
from headgate.telemetry import Clock, logger

REFUSALS_TYPE = "dev.headgate.refusals.v1"
OTHER = "other"
"""The network of all callers beyond the first thousand groups of an interval."""

_GROUPS_AT_MOST = 1_000
_log = logger("audit")


class RefusalCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many callers were refused for one reason at one door from one network."""

    reason: str
    door: str
    network: str
    count: int


class RefusalsEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All refusals of one interval. `counts` are ordered by reason, door and network."""

    id: str
    writer: str
    from_ms: int
    to_ms: int
    counts: tuple[RefusalCount, ...]


class _Group(NamedTuple):
    reason: str
    door: str
    network: str


class Refusals:
    """Counts refusals in memory and writes one event per interval in which there were any."""

    def __init__(
        self,
        outbox: Outbox,
        source: str,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        interval_s: float = 10.0,
    ) -> None:
        self._outbox = outbox
        self._source = source
        self._clock = clock
        self._random_bytes = random_bytes
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._counts: Counter[_Group] = Counter()
        self._from_ms = 0

    def count(self, reason: str, door: str, network: str = "") -> None:
        """Counts one refusal. May be called from any thread."""
        with self._lock:
            if not self._counts:
                self._from_ms = self._clock()
            group = _Group(reason, door, network)
            if group not in self._counts and len(self._counts) >= _GROUPS_AT_MOST:
                group = group._replace(network=OTHER)
            self._counts[group] += 1

    async def record(self) -> None:
        """Writes what was counted since the last time, if anything was.

        OutboxError when it can't be made durable: the counts are then kept for the next time.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
            from_ms = self._from_ms
        if not counts:
            return
        event = self._event(counts, from_ms)
        body = cloudevent(event, id=event.id, type=REFUSALS_TYPE, source=self._source, time_ms=event.to_ms)
        try:
            await self._outbox.append(body, event.id)
        except OutboxError:
            with self._lock:
                self._counts.update(counts)
                self._from_ms = from_ms
            raise

    async def run(self) -> None:
        """Records once per interval until it is cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self._try_record()
        finally:
            await self._try_record()

    async def _try_record(self) -> None:
        try:
            await self.record()
        except OutboxError as error:
            _log.error("refusals could not be recorded: %s", error.message)

    def _event(self, counts: Counter[_Group], from_ms: int) -> RefusalsEvent:
        now = self._clock()
        return RefusalsEvent(
            id=event_id(now, self._random_bytes(10)),
            writer=self._outbox.writer,
            from_ms=from_ms,
            to_ms=now,
            counts=tuple(RefusalCount(**group._asdict(), count=counts[group]) for group in sorted(counts)),
        )
