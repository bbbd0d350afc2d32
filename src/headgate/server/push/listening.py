"""`subscriptions/listen`: a call whose answer is a stream of notices.

Its opening is on the disk before its first byte leaves, and its end with how many notices it carried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from headgate.server import wire
from headgate.server.call import Call
from headgate.server.once import intend
from headgate.server.paying import pay
from headgate.server.push.listener import Listener
from headgate.server.push.out import Out
from headgate.server.push.push import Push
from headgate.server.record import Outcome

LISTEN = "subscriptions/listen"
LEFT = "client left"


async def listen(call: Call, out: Out) -> Call:
    """Carries notices until the stream is ended from here; then it answers the call, whose event is durable.

    When the client leaves, the stream ends at once. Errors are those of `Push.open`, BudgetSpent and OutboxError,
    all before the first byte.
    """
    push = call.rooms.push
    async with call.recorded():
        await pay(call)
        listener = await push.open(call)
    try:
        async with call.recorded():
            await intend(call, opens="stream")
        await _carry(call, listener, out)
    finally:
        push.forget(listener)
    return call


async def _carry(call: Call, listener: Listener, out: Out) -> None:
    try:
        await out.acknowledge(listener.wanted.honoured)
        await _tell_until_end(call, listener, out)
    except asyncio.CancelledError:
        call.notices = listener.told
        call.close_for_nobody(Outcome("answered", reason=listener.ended or LEFT))
        raise
    except Exception:
        call.notices = listener.told
        call.close_for_nobody(Outcome("failed", "internal"))
        raise
    call.notices = listener.told
    await call.close(Outcome("answered", reason=listener.ended))


async def _tell_until_end(call: Call, listener: Listener, out: Out) -> None:
    push = call.rooms.push
    while True:
        await listener.woken()
        if push.may_tell(listener) and (notices := listener.take()) is not None:
            tasks = await _read(push, listener, notices.tasks)
            await out.tell(notices.lists, notices.uris, tasks)
            listener.told += len(notices.lists) + len(notices.uris) + len(tasks)
        if listener.ended:
            return


async def _read(push: Push, listener: Listener, ids: Sequence[str]) -> Sequence[dict[str, Any]]:
    """These tasks as they are now; none, if it is not certain any more that the caller may hear."""
    tasks = await push.tasks.read(listener, ids) if ids else []
    if tasks and not push.may_tell(listener):
        push.tasks.again(listener, ids)
        return []
    return tasks


def ended(call: Call, noted: wire.Noted) -> dict[str, Any]:
    """What answers the call once its stream has ended."""
    return {"resultType": "complete", "_meta": {**noted, SUBSCRIPTION_ID_META_KEY: call.asked.rpc_id}}
