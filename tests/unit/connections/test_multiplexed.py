"""When a shared connection to Redis is judged silent: never for what the loop itself did not get round to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from headgate.connections._multiplexed import Multiplexed
from headgate.connections.redis import Config
from headgate.errors import Unavailable
from headgate.stack import Valkey
from tests.ways.deployment import until_async

TIMEOUT_S = 0.5
BUSY_S = 0.7

Loops = Callable[[], asyncio.AbstractEventLoop]
BOTH = pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def on(loops: Loops, work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=loops) as runner:
        return runner.run(work)


def busy(seconds: float) -> None:
    """Keeps the loop from everything else, as work does that is not cut into turns."""
    time.sleep(seconds)


def connection_to(url: str) -> Multiplexed:
    return Multiplexed(Config.model_validate({"url": url, "timeout_s": TIMEOUT_S}))


@BOTH
def test_replies_that_wait_while_the_loop_is_busy_are_read_before_it_is_judged(loops: Loops, redis_url: str) -> None:
    async def asks() -> list[Any]:
        connection = connection_to(redis_url)
        await connection.ask("PING")
        answers: list[Any] = []
        for turns in range(8):  # wherever in the exchange the loop is kept busy
            asked = asyncio.ensure_future(connection.ask("ECHO", turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            busy(BUSY_S)
            answers.append(await asked)
        await connection.close()
        return answers

    assert on(loops, asks()) == [b"%d" % turns for turns in range(8)]


@BOTH
def test_a_loop_that_is_busy_again_and_again_gets_its_replies(loops: Loops, redis_url: str) -> None:
    async def asks() -> list[Any]:
        connection = connection_to(redis_url)
        await connection.ask("PING")
        asked = [asyncio.ensure_future(connection.ask("ECHO", number)) for number in range(16)]
        for _ in range(4):
            busy(BUSY_S)
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked)
        await connection.close()
        return answers

    assert on(loops, asks()) == [b"%d" % number for number in range(16)]


@BOTH
def test_a_loop_that_is_busy_while_it_connects_connects(loops: Loops, redis_url: str) -> None:
    async def asks() -> Any:
        connection = connection_to(redis_url)
        asked = asyncio.ensure_future(connection.ask("PING"))
        await asyncio.sleep(0)
        busy(BUSY_S)
        answer = await asked
        await connection.close()
        return answer

    assert on(loops, asks()) == b"PONG"


@BOTH
def test_a_server_that_is_silent_is_given_up_though_the_loop_is_busy(
    loops: Loops, valkey: Valkey, redis_url: str
) -> None:
    async def asks() -> None:
        connection = connection_to(redis_url)
        await connection.ask("PING")
        valkey.pause()
        try:
            asked = asyncio.ensure_future(connection.ask("PING"))
            async with asyncio.timeout(60):
                while not asked.done():
                    busy(TIMEOUT_S)
                    await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await asked
        finally:
            valkey.resume()
            await connection.close()

    on(loops, asks())


@BOTH
def test_a_server_that_accepts_and_says_nothing_is_given_up(loops: Loops, valkey: Valkey, redis_url: str) -> None:
    async def asks() -> None:
        connection = connection_to(redis_url)
        valkey.pause()
        try:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(connection.ask("PING"), 60)
        finally:
            valkey.resume()
        assert await until_async(lambda: connection.ask("PING")) == b"PONG"
        await connection.close()

    on(loops, asks())
