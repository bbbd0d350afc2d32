"""Budgets: who pays for what, from which bucket, and what a caller is told when it can't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headgate.access.budget import Budget, BudgetsConfig
from headgate.errors import BudgetSpent, Unavailable
from headgate.model.caller import Caller, Method
from headgate.state.base import Buckets, Taken
from headgate.state.sqlite import open_buckets


class Hand:
    """A clock that stands until it is moved."""

    now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Counted:
    """Buckets that count how often they are asked."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self.asked = 0

    async def take(self, key: str, cost: int, capacity: int, period_ms: int) -> Taken:
        self.asked += 1
        return await self._buckets.take(key, cost, capacity, period_ms)

    async def close(self) -> None:
        await self._buckets.close()


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
async def buckets(tmp_path: Path, clock: Hand) -> AsyncIterator[Counted]:
    opened = Counted(open_buckets(tmp_path / "state.db", clock=clock))
    yield opened
    await opened.close()


def budget(buckets: Buckets, clock: Hand, **config: Any) -> Budget:
    return Budget(BudgetsConfig.model_validate(config), buckets, clock)


def caller(subject: str = "ada", method: Method = "jwt", issuer: str = "", network: str = "") -> Caller:
    return Caller(subject=subject, method=method, scopes=frozenset(), issuer=issuer, network=network)


async def spend(budget: Budget, who: Caller, class_: Any = "read", tool: str = "lookup") -> int:
    """How many calls go through before one is refused."""
    price = budget.price(who, class_, tool)
    assert price is not None
    count = 0
    while (allowance := await budget.take(price)).retry_after_ms == 0:
        count += 1
        assert (allowance.limit, allowance.class_) == (price.rate.calls, class_)
    with pytest.raises(BudgetSpent):
        allowance.require()
    return count


async def test_a_hundred_reads_and_ten_writes_a_minute_unless_set(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock)
    assert (await spend(held, caller()), await spend(held, caller(), "write")) == (100, 10)
    clock.now_ms += 60_000
    assert (await spend(held, caller()), await spend(held, caller(), "write")) == (100, 10)
    clock.now_ms += 6_000
    assert (await spend(held, caller()), await spend(held, caller(), "write")) == (10, 1)


async def test_each_caller_has_a_budget_of_its_own(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock, read=3)
    others = [
        caller("ada"), caller("grace"), caller("ada", "api_key"), caller("ada", issuer="https://other.example"),
        caller("ada", "mtls"),
    ]  # fmt: skip
    assert [await spend(held, each) for each in others] == [3] * 5
    assert await spend(held, caller("ada")) == 0


async def test_anonymous_callers_are_told_apart_by_their_network(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock, read=3)
    here, there = [caller("anonymous", "anonymous", network=each) for each in ("192.0.2.0/24", "198.51.100.0/24")]
    assert [await spend(held, each) for each in (here, there, here)] == [3, 3, 0]
    assert await spend(held, caller(network="a")) == 3
    assert await spend(held, caller(network="b")) == 0


async def test_tools_cost_what_the_config_says(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock, read={"calls": 12, "per_s": 3600}, write=2, costs={"find": 5, "docs": 0, "dear": 12})
    assert held.price(caller(), "read", "docs") is None
    assert await spend(held, caller("anonymous", "anonymous"), tool="docs") == 12  # nothing is free for strangers
    assert await spend(held, caller(), tool="find") == 2
    assert await spend(held, caller(), tool="lookup") == 2
    assert await spend(held, caller("grace"), tool="dear") == 1
    assert await spend(held, caller(), "write", tool="dear") == 1  # never more than a whole budget


async def test_the_local_user_is_exempt_unless_the_config_says_otherwise(buckets: Counted, clock: Hand) -> None:
    local = caller("tester", "local")
    assert budget(buckets, clock).price(local, "write", "x") is None
    assert await spend(budget(buckets, clock, read=2, local=True), local) == 2


async def test_a_refusal_says_when_to_come_back_and_keeps_its_word(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock, read={"calls": 4, "per_s": 60})
    await spend(held, caller())
    price = held.price(caller(), "read", "lookup")
    assert price is not None
    refused = await held.take(price)
    with pytest.raises(BudgetSpent, match=r"4 reads in 60 seconds is spent: come back in 15 seconds\.") as said:
        refused.require()
    assert said.value.retry_after_s == 15
    clock.now_ms += refused.retry_after_ms - 1
    assert (await held.take(price)).retry_after_ms == 1
    clock.now_ms += 1
    assert (await held.take(price)).retry_after_ms == 0


async def test_who_does_not_wait_is_refused_from_memory(buckets: Counted, clock: Hand) -> None:
    held = budget(buckets, clock, read=3, costs={"find": 3})
    await spend(held, caller())
    asked = buckets.asked
    for tool in ("lookup", "find"):
        price = held.price(caller(), "read", tool)
        assert price is not None
        for _ in range(50):
            assert (await held.take(price)).retry_after_ms > 0
    assert buckets.asked == asked
    clock.now_ms += 20_000
    assert await spend(held, caller()) == 1
    dear = held.price(caller(), "read", "find")
    assert dear is not None
    await held.take(dear)
    clock.now_ms += 20_000
    assert await spend(held, caller()) == 1  # what can't be paid does not stand in the way of what can


async def test_nothing_goes_through_that_nobody_counts(tmp_path: Path, clock: Hand) -> None:
    held = budget(open_buckets(tmp_path / "missing" / "state.db", clock=clock), clock)
    price = held.price(caller(), "read", "lookup")
    assert price is not None
    with pytest.raises(Unavailable):
        await held.take(price)
    await held.close()
