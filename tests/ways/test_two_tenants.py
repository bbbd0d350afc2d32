"""Two tenants on one server, over the HTTP door: nothing of one ever reaches the other, whatever either asks."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from headgate.app import App
from headgate.config import load
from headgate.server.http import Door
from headgate.server.listen import serve
from headgate.serving.serve import beside_a_door
from headgate.serving.settings import settings_of
from tests.ways.deployment import PATIENCE_S, Process, headgate, ready, until, until_async, write_at_once, write_config
from tests.ways.tenants import EMBEDDED, TENANTS, Caller, Row, Shared, Shop, fill, on_redis, policy

CALLS_SHORT, SECONDS_SHORT, CALLS_LONG = 4_000, 4.0, 100_000
WORKERS = 6

OPEN = policy("{email: {treatment: mask, lookup: true}}")
CLOSED = policy("{email: hide, score: hide}")
REFUSED = "a changed policy is refused"
BROKEN = policy("{email: show, id: hide}")


def _furnish(folder: Path, config: str) -> list[Row]:
    rows = fill(folder / "shop.db")
    (folder / "policy.yaml").write_text(OPEN)
    write_config(folder, config)
    return rows


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return _furnish(tmp_path, EMBEDDED)


@pytest.fixture
def process(tmp_path: Path, rows: list[Row]) -> Iterator[Process]:
    with headgate(tmp_path, "run") as process:
        yield process


@pytest.fixture
def shop(tmp_path: Path, rows: list[Row], process: Process) -> Shop:
    url = process.url()
    until(lambda: ready(url))
    return Shop(url, tmp_path, rows)


@asynccontextmanager
async def served_here(folder: Path) -> AsyncIterator[tuple[str, Door]]:
    """What `headgate serve` serves, in this process: so a test can look at its door."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    with App(load(folder / "headgate.yaml", os.environ)) as app:
        async with beside_a_door(app):
            door = Door(app.rooms, settings_of(app.config, None))
            serving = asyncio.create_task(
                serve(door, "127.0.0.1", 0, ready=port.set_result, stop=stop, has_identity=True)
            )
            try:
                yield f"http://127.0.0.1:{await asyncio.wait_for(port, PATIENCE_S)}/mcp", door
            finally:
                stop.set()
                await asyncio.wait_for(serving, PATIENCE_S)


@asynccontextmanager
async def shop_on_redis(folder: Path, redis_url: str) -> AsyncIterator[tuple[Shop, Door]]:
    """The shop where one row by its key goes the straight way, and the door that counts how many did."""
    rows = _furnish(folder, on_redis(redis_url))
    with headgate(folder, "sync"):
        async with served_here(folder) as (url, door), httpx.AsyncClient() as http:

            async def is_ready() -> bool:
                return (await http.get(url.replace("/mcp", "/readyz"))).status_code == 200

            await until_async(is_ready)
            yield Shop(url, folder, rows), door


Enough = Callable[[int, Sequence[Caller]], bool]
"""Whether so many calls by these callers show what is to be shown."""


async def _ask_at_random(shop: Shop, calls: int, seconds: float, enough: Enough) -> tuple[int, list[Caller]]:
    """Both tenants at once, until so many calls are made, or so much time has gone and it was enough."""
    shared = Shared.nothing()
    left = itertools.count(calls, -1)
    until_s = time.monotonic() + seconds
    done = 0
    async with httpx.AsyncClient(timeout=60) as http:
        callers = [
            # each name is of both tenants: what is remembered of callers must not be told apart by their names alone
            Caller(http, shop, TENANTS[number % 2], random.Random(number), shared, f"agent {number // 2}")
            for number in range(WORKERS)
        ]

        async def work(caller: Caller) -> None:
            nonlocal done
            while next(left) > 0 and (time.monotonic() < until_s or not enough(done, callers)):
                await caller.anything()
                done += 1
            caller.line.close()

        await asyncio.gather(*map(work, callers))
    return done, callers


def _is_enough(done: int, callers: Sequence[Caller]) -> bool:
    return done > 200 and all(caller.rows_seen > 5 and caller.told for caller in callers)


def _most_went_straight(door: Door, callers: Sequence[Caller]) -> bool:
    assert door.straight is not None, "the store can be asked so"
    return door.straight.answered > 0.8 * sum(caller.looked_up for caller in callers)


async def test_nothing_of_one_tenant_reaches_the_other(shop: Shop) -> None:
    assert _is_enough(*await _ask_at_random(shop, CALLS_SHORT, SECONDS_SHORT, _is_enough))


async def test_nothing_of_one_tenant_reaches_the_other_by_the_straight_way(tmp_path: Path, redis_url: str) -> None:
    async with shop_on_redis(tmp_path, redis_url) as (shop, door):
        done, callers = await _ask_at_random(shop, CALLS_SHORT, SECONDS_SHORT, _is_enough)
        assert _is_enough(done, callers) and _most_went_straight(door, callers)


@pytest.mark.soak
async def test_nothing_of_one_tenant_reaches_the_other_in_a_hundred_thousand_calls(shop: Shop) -> None:
    done, callers = await _ask_at_random(shop, CALLS_LONG, 3_600.0, lambda done, callers: True)
    assert done >= CALLS_LONG and all(caller.rows_seen > 1_000 for caller in callers)


@pytest.mark.soak
async def test_nothing_reaches_the_other_in_a_hundred_thousand_calls_by_the_straight_way(
    tmp_path: Path, redis_url: str
) -> None:
    async with shop_on_redis(tmp_path, redis_url) as (shop, door):
        done, callers = await _ask_at_random(shop, CALLS_LONG, 3_600.0, lambda done, callers: True)
        assert done >= CALLS_LONG and all(caller.rows_seen > 1_000 for caller in callers)
        assert _most_went_straight(door, callers)


# --- a policy that changes under load ---------------------------------------------------------------


async def test_each_answer_is_by_one_policy_while_it_changes(shop: Shop, process: Process) -> None:
    """Whoever asks gets the one before or the one after, never a mixture, and never what a broken one would give."""
    seen: list[frozenset[str]] = []
    policies = {OPEN: frozenset({"id", "tenant", "name", "email", "plan", "score"}),
                CLOSED: frozenset({"id", "tenant", "name", "plan"})}  # fmt: skip
    stop = asyncio.Event()
    async with httpx.AsyncClient(timeout=60) as http:
        caller = Caller(http, shop, TENANTS[0], random.Random(1), Shared.nothing())
        own = [row.id for row in shop.own(TENANTS[0])]

        async def load() -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                [row] = (await caller.call("lookup_customer", customer_id=own[number % len(own)]))["structuredContent"][
                    "rows"
                ]
                assert row["values"].get("email", "u***@").startswith("u***@")
                seen.append(frozenset(row["values"]))

        loading = asyncio.gather(*(load() for _ in range(3)))
        try:
            for text in (CLOSED, OPEN, BROKEN, CLOSED):
                write_at_once(shop.folder / "policy.yaml", text)
                wanted = policies.get(text, policies[OPEN])
                async with asyncio.timeout(PATIENCE_S):
                    while seen[-3:] != [wanted] * 3 or (text == BROKEN and REFUSED not in process.text()):
                        assert not loading.done(), loading.exception()
                        await asyncio.sleep(0.02)
        finally:
            stop.set()
            await loading
    assert set(seen) == set(policies.values())
    kept = {file.read_text() for file in (shop.folder / "data" / "policies").iterdir()}
    assert kept == {OPEN, CLOSED}, "every version that held is archived, and no other"
