"""When a shared connection to Redis is judged silent: never for what the loop itself did not get round to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis
import uvloop

from headgate.connections import _wire
from headgate.connections._multiplexed import Multiplexed
from headgate.connections._wire import packed_command
from headgate.connections.redis import Config
from headgate.errors import Unavailable
from headgate.stack import Valkey
from tests.ways.deployment import until, until_async

TIMEOUT_S = 0.5
BUSY_S = 0.7
PATIENCE_S = 60.0

Loops = Callable[[], asyncio.AbstractEventLoop]
BOTH = pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def on(loops: Loops, work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=loops) as runner:
        return runner.run(work)


def busy(seconds: float) -> None:
    """Keeps the loop from everything else, as work does that is not cut into turns."""
    time.sleep(seconds)


def connection_to(url: str, timeout_s: float = TIMEOUT_S) -> Multiplexed:
    return Multiplexed(Config.model_validate({"url": url, "timeout_s": timeout_s}))


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
def test_what_is_asked_alone_is_answered_before_the_loop_goes_on(
    loops: Loops, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "_MOMENT_S", PATIENCE_S)

    async def asks() -> list[list[bytes]]:
        connection = connection_to(redis_url, PATIENCE_S)
        await connection.ask("PING")
        found = []
        for number in range(3):
            heard: list[bytes] = []
            assert connection.post(packed_command(("ECHO", number)), heard.append)
            await asyncio.sleep(0)  # it leaves at the end of this turn
            found.append(heard)
        await connection.close()
        return found

    assert on(loops, asks()) == [[b"%d" % number] for number in range(3)]


@BOTH
def test_what_takes_longer_than_a_moment_comes_by_the_loop(
    loops: Loops, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "_MOMENT_S", 0.0)
    monkeypatch.setattr(_wire, "_DEAF_FOR", 3)

    async def asks() -> list[Any]:
        connection = connection_to(redis_url, PATIENCE_S)
        answers = [await connection.ask("ECHO", number) for number in range(10)]
        await connection.close()
        return answers

    assert on(loops, asks()) == [b"%d" % number for number in range(10)]


@BOTH
def test_a_connection_that_ends_while_it_is_listened_to_fails_what_is_asked(
    loops: Loops, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wire, "_MOMENT_S", PATIENCE_S)

    async def asks() -> list[Any]:
        connection = connection_to(valkey.url(), PATIENCE_S)
        killer = threading.Thread(target=kill_who_waits, args=[valkey.url(), await connection.ask("CLIENT", "ID")])
        killer.start()
        with pytest.raises(Unavailable):
            await connection.ask("BLPOP", "nothing", 0)
        killer.join()
        answers = [await connection.ask("PING")]
        await connection.close()
        return answers

    assert on(loops, asks()) == [b"PONG"]


def kill_who_waits(url: str, ident: int) -> None:
    """Ends that connection, once it waits for something."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        until(lambda: any(int(each["id"]) == ident and each["cmd"] == "blpop" for each in client.client_list()))
        client.client_kill_filter(_id=str(ident))


def test_many_questions_of_one_turn_do_not_wait_for_its_end(redis_url: str) -> None:
    async def asks() -> list[int]:
        connection = connection_to(redis_url, PATIENCE_S)
        await connection.ask("PING")
        heard: list[int] = []
        key = uuid.uuid4().hex
        for _ in range(100):
            assert connection.post(packed_command(("INCR", key)), heard.append)
        with contextlib.closing(redis.Redis.from_url(redis_url)) as other:
            until(lambda: other.get(key))  # the loop has not gone on
        assert not heard
        await connection.ask("DEL", key)  # whose reply comes after all of theirs
        await connection.close()
        return heard

    assert on(uvloop.new_event_loop, asks()) == list(range(1, 101))


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
