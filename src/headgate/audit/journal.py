"""Writes the events that are of no call: versions of policy and config, what an operator asks, approvals, what entities
are."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from headgate.audit.event import CallerNote, Payload, cloudevent, event_id, note_of
from headgate.audit.kinds import (
    APPROVAL_TYPE,
    CATALOG_TYPE,
    CONFIG_TYPE,
    PIPELINE_TYPE,
    POLICY_TYPE,
    ApprovalEvent,
    CatalogEvent,
    CatalogKind,
    ConfigEvent,
    PipelineEvent,
    PolicyEvent,
)
from headgate.audit.outbox import Outbox
from headgate.model.approval import ApprovalChange
from headgate.telemetry import Clock

_Kind = Literal["loaded", "adopted", "refused"]


class CatalogChange(NamedTuple):
    """What has become of an entity. See `CatalogEvent`."""

    pipeline: str
    entity: str
    kind: CatalogKind
    definition: Payload
    build: str
    previous_sha256: str = ""
    generation: int = 0


class Journal:
    """Writes into an outbox. Its methods return once the event is durable; OutboxError when it can't be."""

    def __init__(
        self, outbox: Outbox, source: str, *, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._outbox = outbox
        self._source = source
        self._clock = clock
        self._random_bytes = random_bytes
        self.written = 0
        """How many events it has written."""

    async def policy(self, kind: _Kind, version: str, previous: str = "", reason: str = "") -> None:
        """What became of a version of the policy's document."""
        await self._version(PolicyEvent, POLICY_TYPE, kind, version, previous, reason)

    async def config(self, kind: _Kind, version: str, previous: str = "", reason: str = "") -> None:
        """What became of a version of the config."""
        await self._version(ConfigEvent, CONFIG_TYPE, kind, version, previous, reason)

    async def _version(
        self,
        form: type[PolicyEvent] | type[ConfigEvent],
        type_: str,
        kind: _Kind,
        version: str,
        previous: str,
        reason: str,
    ) -> None:
        now, id_ = self._named()
        event = form(
            id=id_,
            time_ms=now,
            writer=self._outbox.writer,
            kind=kind,
            version=version,
            previous=previous,
            reason=reason,
        )
        await self._write(event, id_, type_, now, version)

    async def pipeline(self, pipeline: str, action: str, user: str, subject: str = "") -> None:
        """What a user of this machine asks of a pipeline."""
        now, id_ = self._named()
        event = PipelineEvent(
            id=id_,
            time_ms=now,
            writer=self._outbox.writer,
            pipeline=pipeline,
            action=action,
            caller=CallerNote(subject=user, method="local", issuer="", scopes=()),
            subject=subject,
        )
        await self._write(event, id_, PIPELINE_TYPE, now, pipeline)

    async def approval(self, change: ApprovalChange) -> None:
        """What has become of an approval."""
        now, id_ = self._named()
        approval, arguments = change.approval, change.approval.arguments
        wish, decider = approval.wish, approval.decided_by
        event = ApprovalEvent(
            id=id_,
            time_ms=now,
            writer=self._outbox.writer,
            approval=approval.id,
            kind=change.kind,
            caller=note_of(wish.caller),
            tool=wish.tool,
            arguments=Payload(sha256=arguments.sha256, bytes=arguments.size),
            policy_version=wish.policy_version,
            rules=approval.rules,
            asked_ms=approval.asked_ms,
            ends_ms=approval.ends_ms,
            call=change.call,
            asked_by_call=approval.asked_by_call,
            decided_by=note_of(decider) if decider else msgspec.UNSET,
            reason=approval.reason or msgspec.UNSET,
        )
        await self._write(event, id_, APPROVAL_TYPE, now, approval.id)

    def catalog(self, changes: Sequence[CatalogChange]) -> None:
        """What has become of entities, in this order. For a thread without an event loop, which it blocks."""
        asyncio.run(self._catalog(changes))

    async def _catalog(self, changes: Sequence[CatalogChange]) -> None:
        await asyncio.gather(*map(self._one_of_catalog, changes))

    async def _one_of_catalog(self, change: CatalogChange) -> None:
        now, id_ = self._named()
        event = CatalogEvent(id=id_, time_ms=now, writer=self._outbox.writer, **change._asdict())
        await self._write(event, id_, CATALOG_TYPE, now, change.entity)

    def _named(self) -> tuple[int, str]:
        now = self._clock()
        return now, event_id(now, self._random_bytes(10))

    async def _write(self, event: object, id_: str, type_: str, now: int, subject: str) -> None:
        body = cloudevent(event, id=id_, type=type_, source=self._source, time_ms=now, subject=subject)
        await self._outbox.append(body, id_, required=True)
        self.written += 1
