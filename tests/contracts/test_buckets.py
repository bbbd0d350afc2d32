"""Token buckets, of every kind of state found in the folder, on the real thing: never one token more than there was."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate import plugins
from headgate.connections.redis import Config
from headgate.errors import Unavailable
from headgate.stack import Valkey
from headgate.state.base import Buckets, Taken
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import until_async

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000


# --- the kinds -----------------------------------------------------------------------------------


class Kind(Protocol):
    """One kind of state, on the real thing."""

    name: str
    target: Any


@dataclass
class Named:
    name: str
    target: Any


def _sqlite(request: pytest.FixtureRequest) -> Kind:
    file: Path = request.getfixturevalue("tmp_path") / "state.db"
    open_state(file, clock=wall_clock_ms).close()
    return Named("sqlite", file)


def _redis(request: pytest.FixtureRequest) -> Kind:
    return Named("redis", Config.model_validate({"url": request.getfixturevalue("redis_url")}))


KINDS: dict[str, Callable[[pytest.FixtureRequest], Kind]] = {"sqlite": _sqlite, "redis": _redis}


def test_every_kind_is_tested() -> None:
    assert sorted(KINDS) == plugins.kinds("state")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param](request)


@pytest.fixture
async def buckets(kind: Kind) -> AsyncIterator[Buckets]:
    opened = open_as(kind.name, kind.target)
    yield opened
    await opened.close()


def open_as(name: str, target: Any) -> Buckets:
    opened: Buckets = plugins.load("state", name).open_buckets(target, clock=wall_clock_ms)
    return opened


# --- one bucket ----------------------------------------------------------------------------------


async def test_a_full_bucket_gives_what_it_holds_and_not_one_more(buckets: Buckets) -> None:
    left = [(await buckets.take("a", 1, 5, DAY_MS)).remaining for _ in range(5)]
    refused = await buckets.take("a", 1, 5, DAY_MS)
    assert left == [4, 3, 2, 1, 0]
    assert (refused.ok, refused.remaining) == (False, 0)
    assert 0 < refused.retry_after_ms <= DAY_MS // 5
    assert await buckets.take("b", 1, 5, DAY_MS) == Taken(True, 4)


async def test_a_cost_is_taken_whole_or_not_at_all(buckets: Buckets) -> None:
    assert await buckets.take("a", 7, 10, DAY_MS) == Taken(True, 3)
    refused = await buckets.take("a", 4, 10, DAY_MS)
    assert (refused.ok, refused.remaining) == (False, 3)
    assert 0 < refused.retry_after_ms <= DAY_MS // 10
    assert await buckets.take("a", 3, 10, DAY_MS) == Taken(True, 0)


@pytest.mark.parametrize("cost", [0, -1, 11])
async def test_a_cost_that_can_never_be_taken_is_a_mistake(buckets: Buckets, cost: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await buckets.take("a", cost, 10, DAY_MS)


async def test_tokens_come_back_with_time_and_when_they_were_said_to(buckets: Buckets) -> None:
    assert (await buckets.take("a", 2, 2, 400)).ok
    began = time.monotonic()
    first = await buckets.take("a", 1, 2, 400)
    if not first.ok:  # on a machine that slept meanwhile there is nothing to wait for
        await until_async(lambda: _is_taken(buckets, "a", 1, 2, 400))
        assert time.monotonic() - began >= first.retry_after_ms / 1000 - 0.002  # two clocks, each in whole ms


async def _is_taken(buckets: Buckets, *bucket: Any) -> bool:
    return (await buckets.take(*bucket)).ok


async def test_a_bucket_never_holds_more_than_it_can(buckets: Buckets) -> None:
    assert (await buckets.take("a", 3, 3, 30)).ok
    await until_async(lambda: _is_taken(buckets, "a", 3, 3, 30))
    assert not (await buckets.take("a", 3, 3, DAY_MS)).ok


async def test_another_size_holds_at_once_and_what_was_taken_stays_taken(buckets: Buckets) -> None:
    assert (await buckets.take("a", 8, 10, DAY_MS)).ok
    assert await buckets.take("a", 1, 20, DAY_MS) == Taken(True, 11)
    assert not (await buckets.take("a", 1, 5, DAY_MS)).ok
    assert await buckets.take("a", 1, 20, DAY_MS // 2) == Taken(True, 10)


# --- many at once --------------------------------------------------------------------------------


async def test_many_takes_at_once_on_one_loop_get_the_budget_and_no_more(buckets: Buckets) -> None:
    taken = await asyncio.gather(*(buckets.take("a", 1, 100, DAY_MS) for _ in range(250)))
    assert sum(each.ok for each in taken) == 100
    assert sorted(each.remaining for each in taken if each.ok) == list(range(100))


async def test_many_buckets_at_once_are_as_if_they_were_asked_one_after_the_other(buckets: Buckets) -> None:
    asked = [(f"{number % 3}", 1 + number % 4, 10 + number % 2 * 10, DAY_MS) for number in range(600)]
    together = await asyncio.gather(*(buckets.take(*take) for take in asked))
    apart = [await buckets.take(f"apart {key}", *more) for key, *more in asked]
    assert [(one.ok, one.remaining) for one in together] == [(one.ok, one.remaining) for one in apart]


async def test_takes_that_nobody_waits_for_any_more_hold_nobody_up(buckets: Buckets) -> None:
    taking = [asyncio.create_task(buckets.take("a", 1, 100, DAY_MS)) for _ in range(20)]
    await asyncio.sleep(0)
    for each in taking[::2]:
        each.cancel()
    taken = await asyncio.gather(*taking, return_exceptions=True)
    assert sum(isinstance(each, Taken) and each.ok for each in taken) == 10
    assert 80 <= (await buckets.take("a", 1, 100, DAY_MS)).remaining + 1 <= 90


def _spend(name: str, target: Any, tries: int) -> int:
    async def spend() -> int:
        buckets = open_as(name, target)
        try:
            taken = await asyncio.gather(*(buckets.take("shared", 2, 150, DAY_MS) for _ in range(tries)))
            return sum(each.ok for each in taken)
        finally:
            await buckets.close()

    return asyncio.run(spend())


def test_several_processes_at_once_get_the_budget_and_no_more(kind: Kind) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_spend, kind.name, kind.target, 40) for _ in range(4)]
        assert sum(future.result() for future in futures) == 75


# --- by a clock that is ours ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 7)), max_size=40),
    capacity=st.integers(7, 13),
    period_ms=st.sampled_from([997, 7_000, 60_000]),
)
def test_in_any_time_no_more_is_taken_than_was_there_and_came_back(
    tmp_path: Path, steps: list[tuple[int, int]], capacity: int, period_ms: int
) -> None:
    now = NOW_MS

    async def walk() -> list[tuple[int, int, Taken]]:
        nonlocal now
        buckets: Buckets = plugins.load("state", "sqlite").open_buckets(tmp_path / "buckets.db", clock=lambda: now)
        taken = []
        for wait, cost in steps:
            now += wait
            taken.append((now, cost, await buckets.take("a", cost, capacity, period_ms)))
        await buckets.close()
        return taken

    (tmp_path / "buckets.db").unlink(missing_ok=True)
    taken = asyncio.run(walk())
    for first, (start, _, _) in enumerate(taken):
        spent = 0
        for moment, cost, each in taken[first:]:
            spent += cost if each.ok else 0
            assert spent * period_ms <= capacity * (period_ms + moment - start)
    _assert_told_truly(taken, capacity, period_ms)


def _assert_told_truly(taken: list[tuple[int, int, Taken]], capacity: int, period_ms: int) -> None:
    """A refusal's time is the earliest at which the same cost is there."""
    for (refused_at, cost, refused), (moment, later_cost, later) in itertools.pairwise(taken):
        if not refused.ok and cost == later_cost:
            assert later.ok == (moment >= refused_at + refused.retry_after_ms)


async def test_a_clock_that_is_set_back_locks_nobody_out(tmp_path: Path) -> None:
    now = NOW_MS
    buckets: Buckets = plugins.load("state", "sqlite").open_buckets(tmp_path / "state.db", clock=lambda: now)
    assert (await buckets.take("a", 2, 2, 60_000)).ok
    now -= 3_600_000
    assert not (await buckets.take("a", 1, 2, 60_000)).ok
    now += 30_000
    assert (await buckets.take("a", 1, 2, 60_000)).ok
    await buckets.close()


# --- a server that is away ----------------------------------------------------------------------------


async def test_without_its_server_nothing_is_taken_and_then_it_goes_on(valkey: Valkey, redis_url: str) -> None:
    buckets = open_as("redis", Config.model_validate({"url": redis_url}))
    assert (await buckets.take("a", 1, 5, DAY_MS)).ok
    valkey.kill()
    with pytest.raises(Unavailable):
        await buckets.take("a", 1, 5, DAY_MS)
    valkey.start()

    async def answers() -> bool:
        return (await buckets.take("b", 1, 5, DAY_MS)).ok

    await until_async(answers)
    await buckets.close()


async def test_a_folder_that_is_none_is_said_so(tmp_path: Path) -> None:
    buckets = open_as("sqlite", tmp_path / "missing" / "state.db")
    with pytest.raises(Unavailable):
        await buckets.take("a", 1, 5, DAY_MS)
    await buckets.close()
