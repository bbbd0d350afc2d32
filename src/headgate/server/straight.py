"""The straight way: a row by its key, for a caller who comes again, from socket to socket without a parser or a task.

What nearly every call is takes the page's steps in their order, each by what the page itself asks: the head is one
that was parsed before, byte for byte but for its trace and the body's length; the caller still holds its credential;
the grant is decided; the budget pays while the row is read; the event is durable before the answer leaves.

Only what turns out as it mostly does ends here. Whatever else it is (the budget is spent, the row must be asked for
again, the answer is stale, the event can't be kept) goes the common way from its beginning, as if it had come only
then: until its event is durable nothing of a call is recorded or told, and reading it again changes nothing. It may
have been paid for once more than it should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from headgate.access.budget import Allowance
from headgate.access.policy import Edition
from headgate.access.sight import Kept
from headgate.errors import OutboxError
from headgate.failpoints import reach
from headgate.model.caller import Caller
from headgate.model.entity import Entity
from headgate.server.call import Call
from headgate.server.express import Again, Express, Trace, is_quick, recognised_again
from headgate.server.message import Asked
from headgate.server.opened import Opened, opened_now
from headgate.server.paying import price_of
from headgate.server.record import CANCELLED, Alike, Occasion, trace_of
from headgate.server.returning import Returning
from headgate.tools.base import Questioning, Result

_PLANS = 8_192


class Socket(Protocol):
    """Whoever asks, with one request under way."""

    @property
    def peer(self) -> str:
        """The address that it comes from."""

    def answer(self, rest: bytes) -> None:
        """Sends the answer, if there is still somebody to send it to: `rest` follows status and usual headers."""

    def go_the_common_way(self) -> bool:
        """The request is to be answered as if it had come only now. False where nobody is there to be answered."""


class _Plan:
    """How one caller calls one tool with one client: as long as caller, client, policy and entities are the same."""

    __slots__ = (
        "_alike",
        "asker",
        "caller",
        "edition",
        "entities",
        "grant",
        "payment",
        "price",
        "question",
        "tool",
        "view",
    )

    def __init__(
        self, call: Call, tool: Questioning, asker: Asked, edition: Edition, entities: Mapping[str, Entity]
    ) -> None:
        """`call` is any of them, admitted."""
        self.caller = call.caller
        self.asker = asker
        self.edition = edition
        self.entities = entities
        self.grant = call.granted
        self.tool = call.tool
        self.view = call.view()
        self.question = tool.question
        self.price = price_of(call)
        self.payment = None if self.price is None else call.rooms.budget.question(self.price)
        self._alike: dict[tuple[bool, bool], Alike] = {}

    def is_for(self, caller: Caller, asker: Asked, edition: Edition, entities: Mapping[str, Entity]) -> bool:
        """Whether it holds still."""
        return self.caller is caller and self.asker is asker and self.edition is edition and self.entities is entities

    def alike(self, again: Again, make: Callable[[], Alike]) -> Alike:
        """The events of such calls, traced as this one is; `make` makes them of it, where it is the first."""
        trace = trace_of(again)
        found = self._alike.get(trace)
        if found is None:
            found = self._alike[trace] = make()
        return found


class UnderWay:
    """The calls that are on this way now, whichever rooms they began with."""

    def __init__(self) -> None:
        self._calls: set[_Lookup] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._calls)

    def enter(self, lookup: _Lookup) -> None:
        if not self._calls:
            self._is_empty.clear()
        self._calls.add(lookup)

    def leave(self, lookup: _Lookup) -> None:
        self._calls.discard(lookup)
        if not self._calls:
            self._is_empty.set()

    async def settled(self) -> None:
        """Returns once there are none."""
        await self._is_empty.wait()


class Straight:
    """The way, for one set of rooms and settings. For one event loop. `answered` counts the calls that took it."""

    def __init__(self, returning: Returning, express: Express, body_limit: int, under_way: UnderWay) -> None:
        self.answered = 0
        self.rooms = returning.rooms
        self._under_way = under_way
        self._returning = returning
        self._known = returning.known_by
        self._express = express
        self._body_limit = body_limit
        self._is_open = not returning.rooms.recording.must_learn
        self._plans = Kept(_PLANS)

    def take(self, socket: Socket, head: bytes, body: bytes, trace: Trace) -> bool:
        """Whether the request goes this way: then the socket is told once what comes of it, later.

        `head` is the digest of its head but for what varies: the length of the `body`, and the `trace`. Otherwise
        nothing has happened.
        """
        known = self._known(head)
        if known is None or not self._is_open or len(body) > self._body_limit:
            return False
        try:
            caller = self._returning.caller(known)
            again = recognised_again(body, known.name, known.version, trace) if caller is not None else None
            return caller is not None and again is not None and self._begin(socket, head, caller, again)
        except Exception:  # the common way meets it again, and says and records what it is
            return False

    def knows(self, head: bytes) -> bool:
        """Whether a request with that head may go this way."""
        return self._is_open and self._known(head) is not None

    @property
    def is_one_under_way(self) -> bool:
        """Whether a call that is on this way has it for itself."""
        return self._under_way.count == 1

    def end(self, lookup: _Lookup, *, is_answered: bool) -> None:
        """One call less is under way."""
        self.answered += is_answered
        self._under_way.leave(lookup)

    def _begin(self, socket: Socket, head: bytes, caller: Caller, again: Again) -> bool:
        rooms = self.rooms
        opened = opened_now(rooms)
        entities = rooms.toolbox.entities_now()
        plan = None if entities is None else self._plan(head, caller, again, entities, socket.peer)
        if plan is None or not plan.view.is_of(plan.entities):
            return False
        if plan.price is not None and rooms.budget.is_spent(plan.price):
            return False
        admitted_us = (rooms.ticks_ns() - opened.ticks_ns) // 1000
        reading = plan.question(plan.view, again.arguments)
        if reading is None:
            return False
        lookup = _Lookup(self, socket, plan, again, opened, admitted_us, reading.read)
        if plan.payment is None:
            if not reading.send(lookup.came):
                return False
        elif not plan.payment.send(lookup.paid):
            return False
        elif not reading.send(lookup.came):
            lookup.came(None)  # nobody reads that: once it is paid for it goes the common way
        self._under_way.enter(lookup)
        return True

    def _plan(
        self, head: bytes, caller: Caller, again: Again, entities: Mapping[str, Entity], peer: str
    ) -> _Plan | None:
        """How this call is made; None where it can't go this way."""
        place, edition = (head, again.name), self.rooms.policy.edition
        plan: _Plan | None = self._plans.get(place)
        if plan is None or not plan.is_for(caller, again.asker, edition, entities):
            plan = self._planned(caller, again, edition, entities, peer)
            self._plans.pop(place, None)
            if plan is not None:
                self._plans.take(place, lambda: plan)
        return plan

    def _planned(
        self, caller: Caller, again: Again, edition: Edition, entities: Mapping[str, Entity], peer: str
    ) -> _Plan | None:
        toolbox = self.rooms.toolbox
        call = Call("http", peer, self.rooms)
        call.caller, call.asked, call.grant = caller, again.asked(), edition.decide(caller)
        call.tool = tool = toolbox.tool_now(again.name, call.granted)
        if tool is None or not is_quick(tool) or not call.granted.allows(*tool.scopes) or toolbox.mirrors(tool):
            return None
        return _Plan(call, tool, again.asker, edition, entities) if isinstance(tool, Questioning) else None

    def sent(self, again: Again, request_id: str, allowance: Allowance | None, result: Result) -> bytes:
        """The result as it is sent."""
        return self._express.answer(again, request_id, allowance, result)


class _Lookup:
    """One call under way."""

    __slots__ = (
        "_admitted_us", "_again", "_allowance", "_missing", "_opened", "_payment", "_plan", "_read", "_reply", "_sent",
        "_socket", "_straight",
    )  # fmt: skip

    def __init__(
        self,
        straight: Straight,
        socket: Socket,
        plan: _Plan,
        again: Again,
        opened: Opened,
        admitted_us: int,
        read: Callable[[Any], Result | None],
    ) -> None:
        self._straight = straight
        self._socket = socket
        self._plan = plan
        self._again = again
        self._opened = opened
        self._admitted_us = admitted_us
        self._read = read
        self._missing = 1 if plan.payment is None else 2
        self._reply: Any = None
        self._payment: Any = None
        self._allowance: Allowance | None = None
        self._sent = b""

    def paid(self, reply: Any) -> None:
        """That is the reply to its payment."""
        self._payment = reply
        self._go_on()

    def came(self, reply: Any) -> None:
        """That is the reply to its question."""
        self._reply = reply
        self._go_on()

    def _go_on(self) -> None:
        """Once it is read and paid for, in whichever order."""
        self._missing -= 1
        if self._missing:
            return
        try:
            is_closing = self._close()
        except Exception:  # the common way meets it again, and says and records what it is
            is_closing = False
        if not is_closing:
            self._give_up()

    def _close(self) -> bool:
        """The answer is ready, and the event on its way. False where only the common way can tell."""
        payment, rooms, again = self._plan.payment, self._straight.rooms, self._again
        if payment is not None:
            self._allowance = payment.read(self._payment)
            if self._allowance.retry_after_ms:
                return False
        result = self._read(self._reply)
        if result is None:
            return False
        self._sent = self._straight.sent(again, self._opened.id, self._allowance, result)
        alike = self._plan.alike(again, lambda: Alike(self._call(), result))
        event, is_alone = alike.event(self._occasion(), again, result), self._straight.is_one_under_way
        rooms.outbox.post(event, self._opened.id, self._recorded, alone=is_alone)
        return True

    def _occasion(self) -> Occasion:
        opened, left = self._opened, self._allowance
        duration_us = (self._straight.rooms.ticks_ns() - opened.ticks_ns) // 1000
        return Occasion(opened.id, opened.at_ms, duration_us, self._admitted_us, 0 if left is None else left.remaining)

    def _call(self) -> Call:
        """As the page knows it."""
        plan = self._plan
        call = Call("http", self._socket.peer, self._straight.rooms, self._opened)
        call.caller, call.grant, call.tool, call.asked = plan.caller, plan.grant, plan.tool, self._again.asked()
        call.allowance, call.admitted_us = self._allowance, self._admitted_us
        return call

    def _recorded(self, error: OutboxError | None) -> None:
        if error is not None:
            self._give_up()
            return
        reach("call.closed")
        self._straight.end(self, is_answered=True)
        self._socket.answer(self._sent)

    def _give_up(self) -> None:
        self._straight.end(self, is_answered=False)
        if not self._socket.go_the_common_way():
            self._call().close_for_nobody(CANCELLED)
