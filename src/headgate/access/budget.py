"""Budgets: how much a caller may do in a time, held across all processes by token buckets in `state`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, NamedTuple, cast

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from headgate.errors import BudgetSpent
from headgate.model.caller import Caller
from headgate.model.question import Question
from headgate.state.base import Buckets, Posting, Taken

Class = Literal["read", "write"]

_REMEMBERED = 10_000


class Rate(BaseModel):
    """So many calls at once, and as many again evenly within `per_s` seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    calls: int = Field(ge=1, le=1_000_000)
    per_s: float = Field(60.0, ge=0.001, le=86_400)

    @property
    def period_ms(self) -> int:
        return round(self.per_s * 1000)


def _a_minute(value: Any) -> Any:
    """A bare number is calls a minute."""
    return {"calls": value} if isinstance(value, int) and not isinstance(value, bool) else value


_Rate = Annotated[Rate, BeforeValidator(_a_minute)]


class BudgetsConfig(BaseModel):
    """What each caller may spend. A number is calls a minute."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    read: _Rate = Rate(calls=100)
    write: _Rate = Rate(calls=10)
    costs: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Tool → what a call costs; 1 unless set, and 0 for one that is free to all but anonymous callers."""
    local: bool = False
    """Whether the local user is held to them."""

    @model_validator(mode="after")
    def _can_be_paid(self) -> BudgetsConfig:
        most = max(self.read.calls, self.write.calls)
        dear = sorted(tool for tool, cost in self.costs.items() if cost > most)
        if dear:
            raise ValueError(f"{', '.join(dear)} costs more than a whole budget: raise the budget or lower the cost")
        return self


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller has left after a call."""

    class_: Class = msgspec.field(name="class")
    limit: int
    """What a full budget holds."""
    per_s: float
    """In how many seconds an empty one fills."""
    remaining: int
    retry_after_ms: int = 0
    """When this call could not be paid for: in how long it can be."""

    def require(self) -> None:
        """Returns if the call is paid for. BudgetSpent otherwise, which says when to come back."""
        if self.retry_after_ms:
            seconds = -(-self.retry_after_ms // 1000)
            raise BudgetSpent(
                f"The budget of {self.limit} {self.class_}s in {self.per_s:g} seconds is spent: "
                f"come back in {seconds} second{'s' if seconds > 1 else ''}.",
                retry_after_s=seconds,
            )


class Price(NamedTuple):
    """What one call takes from one bucket."""

    bucket: str
    class_: Class
    cost: int
    rate: Rate


class Budget:
    """Takes from the buckets for calls. For one event loop.

    A call that could not be paid for is refused from memory until it can be, so that a caller who does not
    wait costs neither state nor store anything.
    """

    def __init__(self, config: BudgetsConfig, buckets: Buckets, ticks_ms: Callable[[], int]) -> None:
        """`ticks_ms` is a steady clock."""
        self._config = config
        self._buckets = buckets
        self._ticks_ms = ticks_ms
        self._spent: OrderedDict[str, _Spent] = OrderedDict()
        self._rates: Mapping[Class, Rate] = {"read": config.read, "write": config.write}

    def price(self, caller: Caller, class_: Class, tool: str) -> Price | None:
        """What the call costs this caller; None if nothing, as no call of an anonymous one does."""
        cost = max(self._config.costs.get(tool, 1), int(caller.is_anonymous))
        if cost == 0 or (caller.method == "local" and not self._config.local):
            return None
        rate = self._rates[class_]
        return Price(_bucket_of(class_, *caller.who), class_, min(cost, rate.calls), rate)

    async def take(self, price: Price) -> Allowance:
        """Pays for a call, if it can be paid for, and answers what is left; `Allowance.require` tells.

        Unavailable when the state does not answer: no call is made that nobody has counted.
        """
        now = self._ticks_ms()
        known = self._known(price, now)
        if known is not None:
            return known
        rate = price.rate
        return self._paid(price, now, await self._buckets.take(price.bucket, price.cost, rate.calls, rate.period_ms))

    def begin(self, price: Price) -> asyncio.Future[Allowance]:
        """As `take`, but under way at once, so that what is asked next shares its round trip."""
        now = self._ticks_ms()
        known = self._known(price, now)
        if known is not None:
            settled: asyncio.Future[Allowance] = asyncio.get_running_loop().create_future()
            settled.set_result(known)
            return settled
        rate = price.rate
        if not hasattr(self._buckets, "begin"):
            return asyncio.ensure_future(self.take(price))
        buckets = cast("Posting", self._buckets)
        return buckets.begin(price.bucket, price.cost, rate.calls, rate.period_ms, partial(self._paid, price, now))

    def question(self, price: Price) -> Question[Allowance]:
        """As `take`, ready to be sent any number of times, where it is not known that it `is_spent`."""
        rate = price.rate
        if not hasattr(self._buckets, "question"):
            return _asked_of_a_task(partial(self.take, price))
        asked = cast("Posting", self._buckets).question(price.bucket, price.cost, rate.calls, rate.period_ms)
        read = asked.read

        def paid(reply: Any) -> Allowance:
            taken = read(reply)
            if taken.ok:
                return _allowance(price, taken.remaining)
            return self._paid(price, self._ticks_ms(), taken)

        return Question(asked.send, paid)

    def is_spent(self, price: Price) -> bool:
        """Whether it is known that this can't be paid for yet."""
        return bool(self._spent) and self._known(price, self._ticks_ms()) is not None

    def _known(self, price: Price, now: int) -> Allowance | None:
        """What is left of a bucket of which it is known that this can't be paid from it yet."""
        spent = self._spent.get(price.bucket) if self._spent else None
        if spent is not None and spent.cost <= price.cost and now < spent.until:
            return _allowance(price, spent.remaining, spent.until - now)
        return None

    def _paid(self, price: Price, now: int, taken: Taken) -> Allowance:
        if not taken.ok:
            self._remember(price, taken.remaining, now + taken.retry_after_ms)
        return _allowance(price, taken.remaining, taken.retry_after_ms)

    async def close(self) -> None:
        """Lets go of the buckets. Never raises."""
        await self._buckets.close()

    def _remember(self, price: Price, remaining: int, until: int) -> None:
        self._spent[price.bucket] = _Spent(price.cost, remaining, until)
        self._spent.move_to_end(price.bucket)
        if len(self._spent) > _REMEMBERED:
            self._spent.popitem(last=False)


def _asked_of_a_task(take: Callable[[], Coroutine[Any, Any, Allowance]]) -> Question[Allowance]:
    """Where buckets can only be waited for."""

    def send(told: Callable[[Any], None]) -> bool:
        asyncio.ensure_future(take()).add_done_callback(told)
        return True

    return Question(send, lambda task: cast("Allowance", task.result()))


class _Spent(NamedTuple):
    """A cost that can't be paid before `until`: tokens come back with time alone."""

    cost: int
    remaining: int
    until: int


@lru_cache(maxsize=_REMEMBERED)
def _bucket_of(class_: Class, *who: str) -> str:
    return f"{class_}/{hashlib.sha256(msgspec.json.encode(who)).hexdigest()[:32]}"


def _allowance(price: Price, remaining: int, retry_after_ms: int = 0) -> Allowance:
    return Allowance(
        class_=price.class_,
        limit=price.rate.calls,
        per_s=price.rate.per_s,
        remaining=remaining,
        retry_after_ms=retry_after_ms,
    )
