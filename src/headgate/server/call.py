"""The way of a tool call: the page that every door enters, and whose order is the policy.

open the call event → the door's own rules → identify the caller → read what is asked → decide the grant →
wait for another person's yes where the policy says so → hold the budget → run on a view → close the event → answer.

`admit` is its first half and `run` its second: HTTP must answer 401 and 403 before the SDK, which calls the
second half, has seen the request. The event is opened first, so that a refusal is recorded too, and it is
durable before anything is answered: when it can't be made durable, the caller gets an error and no data.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from headgate.access.approval import ApprovalLimits, Approvals
from headgate.access.budget import Allowance, Budget
from headgate.access.connectors import Connectors
from headgate.access.deadline import ReadingLimits, ReadingTime
from headgate.access.idempotency import Once
from headgate.access.identity import Credentials, Identity
from headgate.access.policy import Policy, require
from headgate.access.sight import Kept
from headgate.access.view import View
from headgate.access.watching import Watching
from headgate.audit.event import encode_cloudevent, event_id
from headgate.audit.lasting import Lasting
from headgate.audit.outbox import Outbox
from headgate.audit.refusals import Refusals
from headgate.errors import HeadgateError, OutboxError
from headgate.failpoints import reach
from headgate.model.caller import Caller, Grant, network_of
from headgate.model.pipeline import PipelineInfo
from headgate.server.approving import approvals_of, require_approval
from headgate.server.message import Asked
from headgate.server.once import run_once
from headgate.server.opened import Opened, opened_now
from headgate.server.paying import pay, pay_as_a_stranger, read_while_paying
from headgate.server.push.push import Push
from headgate.server.record import BROKEN, CANCELLED, Outcome, Recording, answered, event_of, not_answered
from headgate.server.tasks.docket import Docket
from headgate.server.tasks.task import TaskSettings
from headgate.server.toolbox import Toolbox
from headgate.state.base import State
from headgate.stores.base import Reader
from headgate.telemetry import Clock, RandomPool, logger
from headgate.tools._offer import OFFER, Offer
from headgate.tools._resources import scopes_of
from headgate.tools.base import Tool

if TYPE_CHECKING:
    from headgate.server.tasks.working import Work

Doorway = Literal["http", "stdio"]
T = TypeVar("T")

_SETTLE_S = 10.0
_VIEWS = 4_096
_NOTHING_ASKED = Asked(method="")
_log = logger("server.call")


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """What the page calls. Shared by all doors of a process, within one event loop."""

    identity: Identity
    policy: Policy
    budget: Budget
    once: Once
    reader: Reader
    state: State
    pipelines: Sequence[PipelineInfo]
    outbox: Outbox
    refusals: Refusals
    source: str
    """The URI reference that names this deployment in its call events."""
    clock: Clock
    connectors: Connectors | None = None
    """Kafka Connect's connectors, where a connection to one is named."""
    watching: Watching | None = None
    """By what callers wait for changes; shared by all rooms of a process, as `push` is. None: nothing is heard of."""
    push: Push = field(default_factory=Push)
    """The open streams on which clients hear of changes."""
    offer: Offer = OFFER
    approval_limits: ApprovalLimits = field(default_factory=ApprovalLimits)
    reading: ReadingLimits = field(default_factory=ReadingLimits)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    recording: Recording = field(default_factory=Recording)
    """What the record keeps of arguments and results."""
    ticks_ns: Callable[[], int] = time.perf_counter_ns
    """A steady clock, for durations."""
    random_bytes: Callable[[int], bytes] = field(default_factory=lambda: RandomPool().take)

    @property
    def can_hear(self) -> bool:
        """Whether anybody tells of changes, so that clients may subscribe."""
        return self.watching is not None and self.watching.can_hear

    @cached_property
    def toolbox(self) -> Toolbox:
        """The tools over this reader."""
        return Toolbox(self.reader, self.policy.lenses, self.offer.tools)

    @cached_property
    def approvals(self) -> Approvals:
        """Where approvals stand."""
        return approvals_of(self)

    @cached_property
    def closings(self) -> set[asyncio.Future[None]]:
        """Events that are being made durable now, and that nobody waits for."""
        return set()

    @cached_property
    def carried(self) -> set[asyncio.Task[Any]]:
        """Calls that change something, which go on though their clients leave."""
        return set()

    @cached_property
    def docket(self) -> Docket:
        """Where tasks stand."""
        return Docket(self.state, self.clock, self.tasks, self.push.tasks.changed)

    @cached_property
    def works(self) -> dict[str, Work]:
        """The tasks that are worked on in this process, by id."""
        return {}

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way that nobody may be waiting for."""
        return bool(self.carried or self.closings or self.works)

    async def settle(self) -> None:
        """Returns once what nobody waits for is done too: calls that change something, and events of cancelled ones.

        After ten seconds such a call is left, and its outcome unknown. Tasks that read are left to other processes.
        """
        await asyncio.gather(*(work.leave() for work in list(self.works.values())))
        if self.carried:
            await asyncio.wait(self.carried, timeout=_SETTLE_S)
        await self.push.close()
        if self.watching is not None:
            await self.watching.close()
        await asyncio.gather(*self.closings, return_exceptions=True)

    @cached_property
    def _views(self) -> Kept:
        return Kept(_VIEWS)

    @cached_property
    def _first_view(self) -> list[View]:
        return []

    def view_for(self, grant: Grant, tool: str = "") -> View:
        """The store as this grant sees it by that tool. All views share what they know of running processes."""
        place = (id(grant), tool)
        view: View | None = self._views.get(place)
        if view is None or view.grant is not grant:
            if not self._first_view:
                self._first_view.append(self._make_view(grant))
            view = self._first_view[0].with_grant(grant, tool)
            self._views.pop(place, None)
            self._views.take(place, lambda: view)
        return view

    def _make_view(self, grant: Grant) -> View:
        return View(
            self.reader, self.state, self.pipelines, grant, self.clock, self.policy.lenses, approvals=self.approvals,
            connectors=self.connectors, watching=self.watching, reading=ReadingTime(self.reading, self.ticks_ns),
        )  # fmt: skip


class Arrival(Protocol):
    """A request as its door hands it over. Its methods are called in this order, each at most once."""

    @property
    def door(self) -> Doorway: ...

    @property
    def peer(self) -> str:
        """The address that it comes from; empty where there is none."""

    def opened(self, request_id: str) -> None:
        """The call is open under this id, which every answer to it carries, refusals too."""

    def check(self) -> None:
        """The door's own rules, such as Host and Origin. InvalidRequest or OriginRefused."""

    def credentials(self) -> Credentials:
        """What it brings to say who asks."""

    async def read(self) -> Asked:
        """What is asked: only a known caller makes us read a body. InvalidRequest when it is malformed."""


# --- the page ------------------------------------------------------------------------------------


async def admit(arrival: Arrival, rooms: Rooms) -> Call:
    """The first half: who asks, and may they. The call is open, and whoever gets it must run or close it.

    Unauthenticated, Forbidden, InvalidRequest, OriginRefused: refused and recorded (a caller whom nobody knows, an
    anonymous one too, is counted in the aggregate instead). BudgetSpent: of an anonymous caller alone. Unavailable
    when the store, which says what tools there are, or the state, which says what is revoked, does not answer.
    """
    call = Call(arrival.door, arrival.peer, rooms)
    arrival.opened(call.id)
    async with call.recorded():
        arrival.check()
        call.credentials = arrival.credentials()
        call.caller = await rooms.identity.identify(call.credentials)
        call.asked = await arrival.read()
        call.grant = rooms.policy.decide(call.caller)
        tool = await _tool_asked(call.asked, rooms.toolbox, call.grant)
        require(call.grant, tool.scopes if tool else await scopes_needed(call.asked, rooms, call.grant))
        await pay_as_a_stranger(call)
        call.tool = tool
        call.admitted_us = call.elapsed_us()
    return call


async def run(call: Call, act: Callable[[Call], Awaitable[T]]) -> T:
    """The second half: acts on the caller's view within its budget, and answers once the event is durable.

    What `act` raises is recorded and raised again, as are BudgetSpent and, of calls that change something, what
    `run_once` says. OutboxError: the event could not be kept, so that there is no answer. A call that reads and
    is cancelled ends, and is recorded as failed; one that changes something goes on to its end.
    """
    if call.changes_something:
        return await call.carry_through(_change(call, act))
    async with call.recorded():
        result = await read_while_paying(call, act)
        outcome = answered(result)
    await call.close(outcome)
    reach("call.closed")
    return result


async def _change(call: Call, act: Callable[[Call], Awaitable[Any]], *, is_paid: bool = False) -> Any:
    async with call.recorded():
        await require_approval(call, is_paid=is_paid)
        if not is_paid:
            await pay(call)
        result = await run_once(call, act)
        outcome = answered(result)
    await call.close(outcome)
    reach("call.closed")
    return result


# --- work on a task: its caller was identified, and has paid, when the task was made ------------------


async def readmit(call: Call) -> None:
    """Decides anew on a call whose caller and wish are known. Forbidden, Unavailable: refused and recorded."""
    async with call.recorded():
        assert call.caller is not None, "a task has a caller"
        call.grant = call.rooms.policy.decide(call.caller)
        tool = await _tool_asked(call.asked, call.rooms.toolbox, call.grant)
        require(call.grant, tool.scopes if tool else await scopes_needed(call.asked, call.rooms, call.grant))
        call.tool = tool
        call.admitted_us = call.elapsed_us()


async def run_paid(call: Call, act: Callable[[Call], Awaitable[T]]) -> T:
    """As `run`, of a call that was paid for before."""
    call.is_paid = True
    if call.changes_something:
        return await call.carry_through(_change(call, act, is_paid=True))
    async with call.recorded():
        result = await act(call)
        outcome = answered(result)
    await call.close(outcome)
    return result


# --- its steps -----------------------------------------------------------------------------------


async def scopes_needed(asked: Asked, rooms: Rooms, grant: Grant | None = None) -> frozenset[str]:
    """All the scopes that what is asked needs. Unavailable when the store does not answer."""
    match asked.method:
        case "tools/call":
            return await rooms.toolbox.scopes_of_tool(asked.name, grant)
        case "resources/read" | "resources/subscribe":
            return scopes_of(asked.name, rooms.offer.shelves)
        case "prompts/get":
            tools = (
                tool for prompt in rooms.offer.prompts if prompt.info.name == asked.name for tool in prompt.info.tools
            )
            return frozenset[str]().union(*[await rooms.toolbox.scopes_of_tool(tool, grant) for tool in tools])
    return frozenset()


async def _tool_asked(asked: Asked, toolbox: Toolbox, grant: Grant) -> Tool | None:
    return await toolbox.tool(asked.name, grant) if asked.method == "tools/call" else None


class Call:
    """One call under way, and its event: open until `close`, which happens once."""

    def __init__(self, door: Doorway, peer: str, rooms: Rooms, opened: Opened | None = None) -> None:
        """`opened` where it was opened before."""
        self.rooms = rooms
        self.door: Doorway = door
        opened = opened or opened_now(rooms)
        self.id, self.opened_ms, self._opened_ns = opened.id, opened.at_ms, opened.ticks_ns
        self.credentials: Credentials | None = None
        """What the caller was identified by; None of a call that goes on with what another has begun."""
        self.caller: Caller | None = None
        self.asked = _NOTHING_ASKED
        self.grant: Grant | None = None
        self.tool: Tool | None = None
        """What is called, if it is a tool that there is."""
        self.allowance: Allowance | None = None
        """What is left of the budget that the call was paid from, or could not be."""
        self.is_paid = False
        """Whether it has cost something."""
        self.answer_of = ""
        """The id of the call whose answer this one gets again, by its idempotency key."""
        self.approval = ""
        """The id of the approval that it used, waits for, or decides."""
        self.notices: int | None = None
        """How many notices it carried, of a stream that has ended."""
        self.admitted_us: int | None = None
        """How long it took to decide the grant."""
        self.error: HeadgateError | None = None
        """Why it is not answered."""
        self.peer = peer
        self._is_carried = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def granted(self) -> Grant:
        """The grant, which every admitted call has."""
        assert self.grant is not None, "a call acts only once it is admitted"
        return self.grant

    @property
    def changes_something(self) -> bool:
        """Whether a tool is called that does more than read."""
        return self.tool is not None and not self.tool.annotations.read_only

    def view(self) -> View:
        """What the caller may read by the tool that it calls. A row as a resource is what `lookup` answers."""
        return self.rooms.view_for(self.granted, self.asked.name if self.asked.method == "tools/call" else "lookup")

    def elapsed_us(self) -> int:
        """Microseconds since the call was opened."""
        return (self.rooms.ticks_ns() - self._opened_ns) // 1000

    def recorded(self) -> _Recorded:
        """Whatever goes wrong within is recorded before it goes on. OutboxError when that can't be done."""
        return _Recorded(self)

    def twin(self) -> Call:
        """A call of the same caller for the same thing, admitted as this one is, that may have another event."""
        return copy(self)

    def follow(self, twin: Call, *, is_its_event: bool = True) -> None:
        """What came of the twin came of this call; where they share the event, it is recorded too."""
        self.allowance, self.is_paid = twin.allowance, twin.is_paid
        self.error, self.answer_of = twin.error, twin.answer_of
        if is_its_event:
            self._closing = twin._closing

    def take_new_id(self) -> None:
        """Its event is another than its twin's."""
        self.id = event_id(self.rooms.clock(), self.rooms.random_bytes(10))

    @property
    def is_closing(self) -> bool:
        """Whether the outcome stands, and the event is durable or about to be."""
        return self._closing is not None

    @property
    def closed(self) -> bool:
        """Whether the event is durable."""
        closing = self._closing
        return closing is not None and closing.done() and not closing.cancelled() and closing.exception() is None

    async def close(self, outcome: Outcome) -> None:
        """Returns once the event is durable; OutboxError when it can't be. Only the first outcome counts.

        A cancellation of whoever waits here does not stop the event from being written.
        """
        closing = self.begin_to_close(outcome)
        try:
            await closing
        except Exception as error:
            self._tell(error)
            raise

    def close_for_nobody(self, outcome: Outcome) -> None:
        """As `close`, where nobody waits for the event: `Rooms.settle` does."""
        if self._closing is None:
            closing = self.begin_to_close(outcome)
            self.rooms.closings.add(closing)
            closing.add_done_callback(self._closed_with)

    def abandon(self) -> None:
        """Closes the call if it is still open: its client has left, and nobody waits for the event."""
        if not self._is_carried:
            self.close_for_nobody(CANCELLED)

    async def carry_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work to its end, closing included, even if whoever waits here is cancelled."""
        self._is_carried = True
        task = asyncio.create_task(work)
        self.rooms.carried.add(task)
        task.add_done_callback(self._carried_through)
        return await asyncio.shield(task)

    def _carried_through(self, task: asyncio.Task[Any]) -> None:
        self.rooms.carried.discard(task)
        if not task.cancelled():
            task.exception()  # it is in the event; nobody else may be there to ask for it

    def begin_to_close(self, outcome: Outcome) -> asyncio.Future[None]:
        """As `close`, under way at once: done when that would return. Can't be cancelled."""
        if self._closing is None:
            self._closing = self._written(outcome)
        return self._closing

    def _written(self, outcome: Outcome) -> asyncio.Future[None]:
        """Done once the event is durable; whoever waits for it can't cancel it."""
        if self.caller is not None and self.rooms.recording.must_learn:
            return Lasting.of(self._learn_and_write(outcome))
        try:
            return self._write(outcome)
        except Exception as error:
            return Lasting.failed(error)

    async def _learn_and_write(self, outcome: Outcome) -> None:
        await self.rooms.recording.learn(self)
        await self._write(outcome)

    def _write(self, outcome: Outcome) -> asyncio.Future[None]:
        if self._is_counted_alone(outcome):
            self.rooms.refusals.count(outcome.reason or outcome.code, self.door, network_of(self.peer))
            return Lasting.done_already()
        return self.rooms.outbox.put(encode_cloudevent(event_of(self, outcome), self.rooms.source), self.id)

    def _is_counted_alone(self, outcome: Outcome) -> bool:
        """Whether it has no event of its own, so that strangers can't fill the disk: what they are answered costs."""
        if self.caller is None:
            return True
        if not self.caller.is_anonymous or outcome.status == "answered":
            return False
        return outcome.status == "refused" or not self.is_paid

    def _closed_with(self, closing: asyncio.Future[None]) -> None:
        self.rooms.closings.discard(closing)
        error = None if closing.cancelled() else closing.exception()
        if error is not None:
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        if isinstance(error, OutboxError):
            _log.error("call %s could not be recorded, and was not answered: %s", self.id, error.message)
        else:
            _log.error("call %s could not be recorded, and was not answered", self.id, exc_info=error)


class _Recorded:
    """See `Call.recorded`. Cheaper than a generator, as every call goes through two."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case None:
                pass
            case HeadgateError():
                self._call.error = error
                await self._call.close(not_answered(error))
            case asyncio.CancelledError():
                self._call.close_for_nobody(CANCELLED)
            case Exception():
                await self._call.close(BROKEN)
