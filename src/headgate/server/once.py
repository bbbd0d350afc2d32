"""The step of the page that changes something: an intent that is durable before it, and each key at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from headgate.access.approval import used_elsewhere
from headgate.access.idempotency import Claim, First, Wanted
from headgate.access.view import CONTROL
from headgate.audit.event import cloudevent, event_id, note_of, payload_of
from headgate.audit.kinds import INTENT_TYPE, PIPELINE_TYPE, IntentEvent
from headgate.errors import CallError, HeadgateError, InvalidArguments, OutboxError
from headgate.failpoints import reach
from headgate.server.approving import key_of, use_approval
from headgate.server.record import pipeline_event_of
from headgate.tools.base import Result

if TYPE_CHECKING:
    from headgate.server.call import Call

Act = Callable[["Call"], Awaitable[Result]]
_decode_result = msgspec.json.Decoder(Result).decode


async def run_once(call: Call, act: Act) -> Result:
    """Acts, with the intent durable before; under an idempotency key at most once, and else answers as at first.

    A call that needs an approval runs under a key of its approval where it has none. CallInProgress, KeyReused,
    OutcomeUnknown: see `Once.claim`, `use_approval`; OutboxError: the intent could not be kept. In all of these
    nothing is done.
    """
    key = key_of(call)
    if not key:
        await intend(call)
        return await act(call)
    claim = await call.rooms.once.claim(_wanted(call, key))
    if isinstance(claim, First):
        if not call.asked.idempotency_key:
            raise used_elsewhere()
        call.answer_of = claim.call_id
        return _decode_result(claim.answer)
    return await _act_on(claim, call, act)


async def _act_on(claim: Claim, call: Call, act: Act) -> Result:
    """Acts, and keeps what came of it: an answer, nothing done, or nobody knows."""
    once = call.rooms.once
    async with once.alive(claim):
        try:
            await use_approval(call, claim.key)
        except HeadgateError:
            await once.withdrawn(claim)  # whatever came of the approval, nothing was done
            raise
        except BaseException:
            await once.doubted(claim)
            raise
        try:
            await intend(call)
            result = await act(call)
        except (CallError, OutboxError):
            await once.withdrawn(claim)  # the caller is to mend its call, or we our disk: nothing was done
            raise
        except BaseException:
            await once.doubted(claim)
            raise
    reach("call.acted")
    await once.answered(claim, msgspec.json.encode(result))
    reach("call.kept")
    return result


async def intend(call: Call, opens: Literal["change", "stream"] = "change") -> None:
    """Returns once it is durable that the call is about to do so. OutboxError when it can't be."""
    rooms = call.rooms
    now = rooms.clock()
    intent = IntentEvent(
        call=call.id,
        time_ms=now,
        writer=rooms.outbox.writer,
        caller=note_of(call.granted.caller),
        name=call.asked.name or call.asked.method,
        arguments=payload_of(call.asked.arguments),
        idempotency_key=call.asked.idempotency_key,
        opens=opens,
    )
    id_ = event_id(now, rooms.random_bytes(10))
    body = cloudevent(intent, id=id_, type=INTENT_TYPE, source=rooms.source, time_ms=now, subject=intent.name)
    await asyncio.gather(rooms.outbox.append(body, id_, required=True), _note_pipeline(call, now))
    reach("call.intended")


async def _note_pipeline(call: Call, now: int) -> None:
    """What is asked of a pipeline has an event of its own, whichever way it is asked."""
    if call.tool is None or CONTROL not in call.tool.scopes:
        return
    rooms = call.rooms
    event = pipeline_event_of(call, now, rooms.random_bytes(10))
    body = cloudevent(event, id=event.id, type=PIPELINE_TYPE, source=rooms.source, time_ms=now, subject=event.pipeline)
    await rooms.outbox.append(body, event.id, required=True)


def _wanted(call: Call, key: str) -> Wanted:
    digest = payload_of(call.asked.arguments).sha256
    if not digest:
        raise InvalidArguments("Arguments that are no JSON can't be told apart from others: mend them.")
    return Wanted(call.granted.caller, key, call.asked.name, digest, call.id)
