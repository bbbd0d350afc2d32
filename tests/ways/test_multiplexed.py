"""The connection that all reads of a process share, on a real server that is killed, frozen and lied about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from headgate.connections._multiplexed import Multiplexed, Script
from headgate.connections.redis import Config
from headgate.errors import StoreError, Unavailable
from headgate.stack import Valkey
from tests.services import started
from tests.ways.deployment import until_async


@asynccontextmanager
async def connected(url: str, **settings: Any) -> AsyncIterator[Multiplexed]:
    connection = Multiplexed(Config.model_validate({"url": url, **settings}))
    try:
        yield connection
    finally:
        await connection.close()


async def test_everyone_gets_their_own_answer(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        await asyncio.gather(*(connection.ask("SET", f"k{n}", n) for n in range(500)))
        answers = await asyncio.gather(*(connection.ask_all([("GET", f"k{n}"), ("ECHO", n)]) for n in range(500)))
    assert answers == [[b"%d" % n, b"%d" % n] for n in range(500)]


async def test_concurrent_reads_share_round_trips(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as other:
        async with connected(redis_url) as connection:
            await connection.ask("PING")
            before = other.info("stats")
            await asyncio.gather(*(connection.ask("GET", "a") for _ in range(1_000)))
            after = other.info("stats")
    commands = after["total_commands_processed"] - before["total_commands_processed"]
    reads = after["total_reads_processed"] - before["total_reads_processed"]
    assert commands >= 1_000
    assert reads < 100


async def test_a_cancelled_read_leaves_the_others_their_answers(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        asked = [asyncio.ensure_future(connection.ask("ECHO", n)) for n in range(100)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers[1::2] == [b"%d" % n for n in range(1, 100, 2)]
        assert await connection.ask("ECHO", "on") == b"on"


async def test_an_error_is_raised_and_the_connection_goes_on(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        await connection.ask("SET", "a", "text")
        results = await asyncio.gather(
            connection.ask("INCR", "a"), connection.ask("GET", "a"), connection.ask("NOSUCH"), return_exceptions=True
        )
    assert isinstance(results[0], StoreError)
    assert results[1] == b"text"
    assert isinstance(results[2], StoreError)
    assert "integer" not in str(results[0])


async def test_a_script_runs_whether_or_not_the_server_has_seen_it(redis_url: str) -> None:
    script = Script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
    with redis.Redis.from_url(redis_url) as other:
        async with connected(redis_url) as connection:
            assert await connection.run(script, ["k"], [1]) == b"1"
            assert await connection.run(script, ["k"], [2]) == b"2"
            other.script_flush()
            assert await connection.run(script, ["k"], [3]) == b"3"


async def test_a_silent_server_is_given_up_and_a_dead_one_noticed_at_once(services_folder: Path) -> None:
    with started(Valkey(services_folder / "silent")) as server:
        async with connected(server.url(0), timeout_s=0.3) as connection:
            assert await until_async(lambda: connection.ask("PING")) == b"PONG"
            server.pause()
            with pytest.raises(Unavailable):
                await connection.ask("PING")
            server.resume()
            assert await until_async(lambda: connection.ask("PING")) == b"PONG"
        async with connected(server.url(0), timeout_s=60) as connection:
            await connection.ask("PING")
            server.pause()
            flying = [asyncio.ensure_future(connection.ask("PING")) for _ in range(3)]
            await asyncio.sleep(0)
            server.kill()
            answers = await asyncio.gather(*flying, return_exceptions=True)
            assert all(isinstance(answer, Unavailable) and answer.retry_after_s > 0 for answer in answers)
            with pytest.raises(Unavailable):
                await connection.ask("PING")
            server.start()
            assert await connection.ask("PING") == b"PONG"


async def test_the_database_the_user_and_the_password_are_those_of_the_config(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as other:
        other.set("here", "yes")
        other.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all")
        try:
            async with connected(redis_url, username="ann", password="secret") as connection:
                assert await connection.ask("GET", "here") == b"yes"
                assert await connection.ask("ACL", "WHOAMI") == b"ann"
            async with connected(redis_url, username="ann", password="wrong") as connection:
                with pytest.raises(StoreError) as refused:
                    await connection.ask("PING")
            assert "wrong" not in str(refused.value)
        finally:
            other.execute_command("ACL", "DELUSER", "ann")


async def test_large_answers_come_whole(redis_url: str) -> None:
    value = b"x" * 5_000_000
    async with connected(redis_url) as connection:
        await connection.ask("SET", "large", value)
        answers = await asyncio.gather(*(connection.ask("GET", "large") for _ in range(5)), connection.ask("PING"))
    assert answers == [value] * 5 + [b"PONG"]


async def test_closing_fails_what_is_in_flight(valkey: Valkey, redis_url: str) -> None:
    async with connected(redis_url) as connection:
        await connection.ask("PING")
        valkey.pause()
        try:
            flying = asyncio.ensure_future(connection.ask("PING"))
            await asyncio.sleep(0)
            await connection.close()
            with pytest.raises(Unavailable):
                await flying
        finally:
            valkey.resume()
        with pytest.raises(Unavailable):
            await connection.ask("PING")
