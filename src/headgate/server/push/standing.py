"""`resources/subscribe` of clients up to 2025-11-25: notices on a connection that lasts, for as long as it does.

Told by the same push as `subscriptions/listen`, and held to the same credential, grant, policy and bounds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headgate.server.paying import pay
from headgate.server.push.listener import Listener
from headgate.server.push.push import Push
from headgate.server.push.wanted import Wanted
from headgate.server.record import Outcome

if TYPE_CHECKING:
    from headgate.server.call import Call

STANDING = "headgate.standing"
"""Where a connection that lasts leaves its `Standing`, in the scope of each request."""

_ANSWERED = Outcome("answered")


class Standing:
    """What the client of one connection has subscribed to: one listener for all of it.

    `tell` sends one notice and returns once the client takes more; `over` is called when the caller may hear nothing
    more, though the connection stands.
    """

    def __init__(self, tell: Callable[[str], Awaitable[None]], over: Callable[[], None]) -> None:
        self._tell = tell
        self._over = over
        self._listener: Listener | None = None
        self._push: Push | None = None
        self._telling: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._told: Counter[str] = Counter()
        self._unrecorded: set[str] = set()
        self._kept_back: set[str] = set()
        self._is_closed = False

    async def subscribe(self, call: Call, check: Callable[[Call], Awaitable[None]]) -> None:
        """Hears of what the call names, and tells the first of it once the call's event is durable.

        Errors are those of `check`, `Push.open` and `Push.add`, BudgetSpent and OutboxError: then it hears of nothing
        more than before.
        """
        uri = call.asked.name
        async with call.recorded():
            await check(call)
            await pay(call)
            async with self._changing:
                is_new = await self._hear_of(call, uri)
        try:
            await call.close(_ANSWERED)
        except BaseException:
            if is_new:
                await self._leave(uri)
            raise
        self._begin_to_tell(uri)

    async def unsubscribe(self, call: Call, check: Callable[[Call], Awaitable[None]]) -> None:
        """Hears no more of what the call names; its event says how many notices of it there were."""
        async with call.recorded():
            await check(call)
        uri = call.asked.name
        await self._leave(uri)
        call.notices = self._told.pop(uri, 0)
        await call.close(_ANSWERED)

    def renew(self, call: Call) -> None:
        """The caller has shown who it is once more, as it does with each message."""
        if self._listener is not None and call.credentials is not None:
            self._listener.credentials = call.credentials

    def close(self) -> None:
        """The connection has ended."""
        self._is_closed = True
        if self._telling is not None:
            self._telling.cancel()
        if self._push is not None and self._listener is not None:
            self._push.forget(self._listener)

    async def _hear_of(self, call: Call, uri: str) -> bool:
        """Whether it did not before."""
        listener = self._listener
        if listener is not None and not listener.ended:
            if uri in listener.wanted.uris:
                return False
            self._unrecorded.add(uri)
            await call.rooms.push.add(listener, call, uri)
            return True
        self._unrecorded = {uri}
        self._push = call.rooms.push
        self._listener = await self._push.open(call, Wanted(frozenset(), (uri,)))
        if self._is_closed:  # the client left meanwhile
            self._push.forget(self._listener)
        else:
            self._telling = asyncio.create_task(self._tell_until_end(self._push, self._listener))
        return True

    async def _leave(self, uri: str) -> None:
        async with self._changing:
            self._unrecorded.discard(uri)
            self._kept_back.discard(uri)
            if self._listener is not None:
                await self._listener.drop(uri)

    def _begin_to_tell(self, uri: str) -> None:
        self._unrecorded.discard(uri)
        if uri in self._kept_back and self._listener is not None:
            self._kept_back.discard(uri)
            self._listener.tell_again(uri)

    async def _tell_until_end(self, push: Push, listener: Listener) -> None:
        try:
            while not listener.ended:
                await listener.woken()
                if push.may_tell(listener) and (notices := listener.take()) is not None:
                    for uri in notices.uris:
                        await self._tell_one(uri)
        finally:
            push.forget(listener)
        self._over()

    async def _tell_one(self, uri: str) -> None:
        if uri in self._unrecorded:
            self._kept_back.add(uri)
        else:
            await self._tell(uri)
            self._told[uri] += 1
