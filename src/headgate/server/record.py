"""The event of a call, made of what is known of it when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from headgate.audit.event import (
    BudgetNote,
    CallEvent,
    Payload,
    Status,
    event_id,
    note_of,
    payload_json,
    payload_of,
    valid_traceparent,
)
from headgate.audit.kinds import PipelineEvent
from headgate.audit.payloads import ARGUMENTS_KEPT, MASK, RESULTS_KEPT, Keep, PayloadRules, kept, personal_names
from headgate.audit.template import Differing, EventTemplate
from headgate.errors import CallError, HeadgateError
from headgate.model.entity import Entity
from headgate.model.position import Watermark
from headgate.tools._completions import Completion
from headgate.tools._prompts import PromptAnswer
from headgate.tools._resources import ResourceContents
from headgate.tools.base import Result

if TYPE_CHECKING:
    from headgate.server.call import Call

_ROW = "headgate://entity/"
_WITH_ARGUMENTS = frozenset({"tools/call", "prompts/get", "completion/complete", "subscriptions/listen"})
_UNNAMED = frozenset({"completion/complete", "subscriptions/listen"})
"""Of which what is asked stands under no name that is known to be personal."""
_CLAIMS_KEPT = 4 * 1024
_decode = msgspec.json.Decoder().decode


class Outcome(NamedTuple):
    """How a call ended. `positions` and `answer` say what was read and answered."""

    status: Status
    code: str = ""
    reason: str = ""
    positions: Mapping[str, dict[str, int]] = {}
    answer: object = None


CANCELLED = Outcome("failed", "cancelled")
BROKEN = Outcome("failed", "internal")
_UNTRACED = (False, False)


def answered(answer: object) -> Outcome:
    """The call was answered with this."""
    if isinstance(answer, (Result, ResourceContents, PromptAnswer, Completion)):
        return Outcome("answered", positions=_positions(answer.watermarks), answer=answer)
    return Outcome("answered")


def not_answered(error: HeadgateError) -> Outcome:
    """The caller must mend something, or we must."""
    status: Status = "refused" if isinstance(error, CallError) else "failed"
    return Outcome(status, error.code, str(error.details.get("reason", "")))


class Recording:
    """What the record keeps of arguments and results. For one event loop."""

    def __init__(self, rules: PayloadRules | None = None) -> None:
        self._rules = rules or PayloadRules()
        self._entities: Mapping[str, Entity] | None = None
        self._personal: frozenset[str] = frozenset()
        self.must_learn = self._rules.masks or self._rules.arguments != "whole"
        """Whether `learn` must come before an event is made, as values may have to be masked."""

    async def learn(self, call: Call) -> None:
        """Looks which values are personal now. When it can't, digests are kept."""
        try:
            await call.rooms.toolbox.tools()
        except HeadgateError:
            self._entities = None
            return
        if call.rooms.toolbox.entities is not self._entities:
            self._entities = call.rooms.toolbox.entities
            self._personal = personal_names(self._entities.values())

    def arguments(self, call: Call) -> Payload | None:
        """What is kept of what was asked; None of methods without arguments."""
        asked = call.asked
        if asked.method not in _WITH_ARGUMENTS:
            return None
        keep = self._now(self._rules.of_arguments(asked.name))
        if keep == "masked" and asked.method in _UNNAMED:
            keep = "digest"
        return kept(asked.arguments, keep, ARGUMENTS_KEPT, self._personal)

    def result(self, call: Call, answer: object) -> Payload | None:
        """What is kept of what was answered; None where that has no content of its own."""
        keep = self._now(self._rules.of_results(call.asked.name))
        match answer:
            case Result():
                return kept(answer.structured, keep, RESULTS_KEPT, self._personal)
            case ResourceContents(blob=None, mime_type="application/json") if keep == "masked":
                # The digest is of the text, as always; what is masked is the value that it holds.
                shown = kept(_decode(answer.text), keep, RESULTS_KEPT, self._personal)
                return msgspec.structs.replace(payload_of(answer.text), json=shown.json, masked=True)
            case ResourceContents():
                return kept(answer.text if answer.blob is None else answer.blob, keep, RESULTS_KEPT)
            case PromptAnswer():  # its text can't be masked
                return kept(answer.messages, "digest" if keep == "masked" else keep, RESULTS_KEPT)
            case Completion():
                return kept(answer.values, "digest" if keep == "masked" else keep, RESULTS_KEPT)
        return None

    def most_kept(self, tool: str) -> tuple[int, int]:
        """Of how many bytes arguments and results of this tool are kept whole, where nothing is to be learned first."""
        assert not self.must_learn, "values may have to be masked"
        rules = self._rules
        return (
            ARGUMENTS_KEPT if rules.of_arguments(tool) == "whole" else 0,
            RESULTS_KEPT if rules.of_results(tool) == "whole" else 0,
        )

    def name(self, call: Call) -> str:
        """What is called; of a row's URI without its key, where keys are personal and arguments are not kept whole."""
        name = call.asked.name
        is_shown = self._rules.arguments == "whole" or (self._entities is not None and "uri" not in self._personal)
        if is_shown or not name.startswith(_ROW):
            return name
        entity, _, _ = name.removeprefix(_ROW).partition("/")
        return f"{_ROW}{entity}/{MASK}"

    def _now(self, keep: Keep) -> Keep:
        return "digest" if keep == "masked" and self._entities is None else keep


def event_of(call: Call, outcome: Outcome) -> CallEvent:
    """The whole event."""
    asked, grant, recording = call.asked, call.grant, call.rooms.recording
    traceparent = valid_traceparent(asked.traceparent)
    return CallEvent(
        id=call.id,
        time_ms=call.opened_ms,
        duration_us=call.elapsed_us(),
        writer=call.rooms.outbox.writer,
        door=call.door,
        method=asked.method,
        name=recording.name(call),
        schema_sha256=call.rooms.toolbox.schema_digest(call.tool) if call.tool else "",
        caller=note_of(call.caller) if call.caller else None,
        client_name=asked.client_name,
        client_version=asked.client_version,
        protocol_version=asked.protocol_version,
        request_id=asked.rpc_id,
        traceparent=traceparent,
        tracestate=(traceparent and asked.tracestate) or msgspec.UNSET,
        task=asked.task or msgspec.UNSET,
        model=asked.model or msgspec.UNSET,
        prompt=asked.prompt or msgspec.UNSET,
        arguments=recording.arguments(call),
        policy_version=grant.policy_version if grant else "",
        rules=grant.rules if grant else (),
        claims=_claims(grant.claims) if grant and grant.claims else msgspec.UNSET,
        positions=dict(outcome.positions),
        result=recording.result(call, outcome.answer),
        status=outcome.status,
        error_code=outcome.code,
        reason=outcome.reason,
        budget=_budget(call),
        answer_of=call.answer_of or msgspec.UNSET,
        notices=msgspec.UNSET if call.notices is None else call.notices,
        admitted_us=msgspec.UNSET if call.admitted_us is None else call.admitted_us,
        approval=call.approval or msgspec.UNSET,
    )


def trace_of(asked: Traced) -> tuple[bool, bool]:
    """What the record keeps of a call's trace: a parent, and a state too."""
    if not asked.traceparent or valid_traceparent(asked.traceparent) is None:
        return _UNTRACED
    return True, bool(asked.tracestate)


class Traced(Protocol):
    """What says where a call belongs (W3C Trace Context); empty where it does not."""

    @property
    def traceparent(self) -> str: ...
    @property
    def tracestate(self) -> str: ...


class Wanted(Traced, Protocol):
    """What differs between requests of one caller for one tool."""

    @property
    def rpc_id(self) -> int | str: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...


class Occasion(msgspec.Struct, frozen=True, gc=False):
    """When a call came, how long it took, and what it left of the budget."""

    id: str
    time_ms: int
    duration_us: int
    admitted_us: int
    remaining: int


class Alike:
    """The events of calls that one caller makes of one tool with one client, and that are answered, traced or not."""

    def __init__(self, call: Call, answer: object) -> None:
        """`call` is one of them, which is answered with this."""
        rooms = call.rooms
        self._template = EventTemplate(event_of(call, answered(answer)), rooms.source, rooms.random_bytes(16))
        self._most_kept = rooms.recording.most_kept(call.asked.name)
        self._mark: Watermark | None = None
        self._positions = b""

    def event(self, occasion: Occasion, asked: Wanted, answer: Result) -> bytes:
        """What `event_of` says of it, encoded. Of an answer that was read at one watermark."""
        (mark,) = answer.watermarks
        if mark is not self._mark:
            self._mark, self._positions = mark, msgspec.json.encode(_positions((mark,)))
        of_arguments, of_result = self._most_kept
        return self._template.fill(
            Differing(
                occasion.id,
                occasion.time_ms,
                occasion.duration_us,
                asked.rpc_id,
                payload_json(asked.arguments, keep=of_arguments),
                self._positions,
                payload_json(answer.structured, keep=of_result),
                occasion.remaining,
                occasion.admitted_us,
                asked.traceparent,
                asked.tracestate,
            )
        )


def pipeline_event_of(call: Call, now_ms: int, randomness: bytes) -> PipelineEvent:
    """That this call asks something of a pipeline."""
    given: Mapping[str, Any] = call.asked.arguments
    return PipelineEvent(
        id=event_id(now_ms, randomness),
        time_ms=now_ms,
        writer=call.rooms.outbox.writer,
        pipeline=str(given.get("pipeline_id", "")),
        action=call.asked.name,
        caller=note_of(call.granted.caller),
        call=call.id,
        subject=str(given.get("table") or ""),
    )


@lru_cache(maxsize=2_048)
def _claims(text: bytes) -> Payload:
    """Made once for all calls of callers with the same claims."""
    return payload_of(_decode(text), keep=_CLAIMS_KEPT)


def _budget(call: Call) -> BudgetNote | msgspec.UnsetType:
    left = call.allowance
    if left is None:
        return msgspec.UNSET
    return BudgetNote(class_=left.class_, limit=left.limit, remaining=left.remaining)


def _positions(watermarks: Sequence[Watermark]) -> dict[str, dict[str, int]]:
    return {
        mark.entity: {str(number): progress.offset for number, progress in sorted(mark.partitions.items())}
        for mark in watermarks
    }
