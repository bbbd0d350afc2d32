"""The step of the page that holds the budget: what a call costs, and the read that travels with its payment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from headgate.access.budget import Allowance, Class, Price
from headgate.server.message import Asked

if TYPE_CHECKING:
    from headgate.server.call import Call

T = TypeVar("T")

_PAID = frozenset({"tools/call", "resources/read", "prompts/get", "resources/subscribe", "subscriptions/listen"})
"""Lists, handshakes and pings read no row and cost nothing: agents are to look around before they ask."""


async def pay(call: Call) -> None:
    """Returns once the call is paid for. BudgetSpent, or Unavailable when nobody can tell what is left."""
    price = price_of(call)
    if price is not None:
        await _pay(call, price)


async def pay_for_a_look(call: Call) -> None:
    """As `pay`, of a call that changes something and only learns that it can't yet: it costs a read."""
    price = call.rooms.budget.price(call.granted.caller, "read", "")
    if price is not None:
        await _pay(call, price)


async def pay_as_a_stranger(call: Call) -> None:
    """As `pay`, of an anonymous caller's call that is free for others: what leaves an event has cost something."""
    if call.granted.caller.is_anonymous and not _is_sold(call.asked):
        price = call.rooms.budget.price(call.granted.caller, "read", "")
        if price is not None:
            await _pay(call, price)


async def read_while_paying(call: Call, act: Callable[[Call], Awaitable[T]]) -> T:
    """Pays and reads at once, so that both share a round trip: what was read is thrown away if it was not paid for.

    A read that is refused is stopped where it is, and nobody learns what it found, how it failed or how long
    it took.
    """
    price = price_of(call)
    if price is None:
        return await act(call)
    if getattr(call.tool, "tells", False):  # what it tells while it reads can't be thrown away
        await _pay(call, price)
        return await act(call)
    reading = _Reading(call.rooms.budget.begin(price))
    try:
        result = await act(call)
    except asyncio.CancelledError:
        if not reading.was_stopped():
            reading.payment.cancel()
            raise
    except Exception:
        reading.is_over = True
        _settle(call, await reading.payment)
        raise
    reading.is_over = True
    _settle(call, await reading.payment)
    return result


class _Reading:
    """A read under way in the task that made this, and stopped there once it is known not to be paid for."""

    def __init__(self, payment: asyncio.Future[Allowance]) -> None:
        self.payment = payment
        self.is_over = False
        self._task = asyncio.current_task()
        self._stopped = False
        payment.add_done_callback(self._paid)

    def was_stopped(self) -> bool:
        """Whether that is why the task was cancelled, and nobody else cancelled it too."""
        self.is_over = True
        return self._stopped and self._task is not None and self._task.uncancel() == 0

    def _paid(self, payment: asyncio.Future[Allowance]) -> None:
        if self.is_over or payment.cancelled() or self._task is None:
            return
        if payment.exception() is not None or payment.result().retry_after_ms:
            self._stopped = True
            self._task.cancel()


async def _pay(call: Call, price: Price) -> None:
    _settle(call, await call.rooms.budget.take(price))


def _settle(call: Call, allowance: Allowance) -> None:
    call.allowance = allowance
    allowance.require()
    call.is_paid = True


def price_of(call: Call) -> Price | None:
    """What the call costs; None of one that is free."""
    asked = call.asked
    if not _is_sold(asked):
        return None
    tool = asked.name if asked.method == "tools/call" else ""
    class_: Class = "write" if call.changes_something else "read"
    return call.rooms.budget.price(call.granted.caller, class_, tool)


def _is_sold(asked: Asked) -> bool:
    return asked.method in _PAID or _completes_rows(asked)


def _completes_rows(asked: Asked) -> bool:
    """Whether keys are gone through: what an argument of a resource's form or of a prompt may name is a key."""
    return asked.method == "completion/complete" and asked.arguments.get("name") == "key"
