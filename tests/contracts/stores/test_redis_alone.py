"""What only a server can do to us: not answer, forget its scripts, forget everything, be full, refuse us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
import redis
from pydantic import SecretStr

from headgate.connections.redis import Config, diagnose
from headgate.errors import Refused, StoreError, Unavailable, UnknownEntity
from headgate.stack import Valkey
from headgate.stores.base import Query
from tests.contracts.stores.cases import CUSTOMER, Feed, Store, customer, keys
from tests.contracts.stores.test_round_trips import monitored
from tests.ways.deployment import until_async

WITHIN_S = 60


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """A store on a database of its own, whose server may be tormented."""
    store = Store("redis", Config(url=SecretStr(redis_url)))
    yield store
    await store.close()


@pytest.fixture
async def impatient(redis_url: str) -> AsyncIterator[Store]:
    """The same store for one who waits a second for an answer."""
    store = Store("redis", Config(url=SecretStr(redis_url), timeout_s=1.0))
    yield store
    await store.close()


async def test_a_frozen_server_is_unavailable_and_comes_back(store: Store, impatient: Store, valkey: Valkey) -> None:
    feed, reader = store.feed(), impatient.reader()
    feed.show(customer(1))

    async def answers() -> bool:
        return keys((await reader.get("customer", ["1"])).rows) == ["1"]

    await until_async(answers)
    valkey.pause()
    try:
        async with asyncio.timeout(WITHIN_S):
            for question in (reader.get("customer", ["1"]), reader.find("customer", Query()), reader.count("customer")):
                with pytest.raises(Unavailable) as refusal:
                    await question
                assert refusal.value.retry_after_s > 0
        with pytest.raises(Unavailable):
            feed.put(customer(2))
    finally:
        valkey.resume()
    await until_async(answers)
    feed.progress = feed.writer.claim("customer", [0, 1])  # what was sent may have been done, or not
    feed.put(customer(2))
    assert keys((await store.reader().find("customer", Query())).rows) == ["1", "2"]


async def test_a_killed_server_that_forgot_everything_refuses_the_writer(store: Store, valkey: Valkey) -> None:
    feed, reader = store.feed(), store.reader()
    feed.show(customer(1))
    await reader.get("customer", ["1"])
    valkey.kill()
    with pytest.raises(Unavailable):
        feed.put(customer(2))
    with pytest.raises(Unavailable):
        await reader.get("customer", ["1"])
    valkey.start()
    with pytest.raises(Refused):
        feed.put(customer(2))
    with pytest.raises(UnknownEntity):
        await reader.get("customer", ["1"])
    again = Feed(store.writer(CUSTOMER), CUSTOMER)
    again.show(customer(3))
    assert keys((await reader.find("customer", Query())).rows) == ["3"]


async def test_forgotten_scripts_are_sent_again(store: Store) -> None:
    store.feed().show(customer(1))
    reader = store.reader()
    await reader.find("customer", Query())
    with closing(store.target.connect()) as client:
        client.script_flush()
    assert keys((await reader.find("customer", Query())).rows) == ["1"]


def test_a_step_is_written_without_a_question_before_it(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="old"))
    feed.put(customer(1, plan="new"))
    with monitored(store.target) as sent:
        feed.put(customer(1, plan="newer"))
    assert sent[0] == "MULTI", "its keys are watched, and known, since the step before"


@pytest.mark.parametrize("between", ["nothing", "a sweep", "a question"])
def test_whoever_took_over_between_two_steps_is_seen(store: Store, between: str) -> None:
    """Also when something else on the connection has ended what it watches."""
    feed = store.feed()
    feed.show(customer(1, plan="old"))
    feed.put(customer(1, plan="new"))
    if between == "a sweep":
        feed.writer.sweep("customer", 10)
    elif between == "a question":
        feed.writer.dead_letter_ids("shop")
    store.writer(CUSTOMER).claim("customer", [0, 1])
    with pytest.raises(Refused):
        feed.put(customer(1, plan="too late"))


async def test_a_full_server_takes_none_of_a_step(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1, plan="old"))
    with closing(store.target.connect()) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(Unavailable, match="memory"):
                feed.put(customer(1, plan="new"), customer(2))
            levels = {finding.level for finding in diagnose("cache", store.target)}
            assert "warning" in levels
        finally:
            client.config_set("maxmemory", 0)
    found = await store.reader().find("customer", Query())
    assert found.watermark.partitions == feed.progress
    feed.put(customer(2))


async def test_a_cancelled_read_leaves_the_reader_whole(store: Store, valkey: Valkey) -> None:
    store.feed().show(customer(1))
    reader = store.reader()
    await reader.get("customer", ["1"])
    valkey.pause()
    try:
        reading = asyncio.create_task(reader.get("customer", ["1"]))
        for _ in range(20):  # until its command is on the way
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    finally:
        valkey.resume()
    found = await asyncio.gather(*(reader.get("customer", ["1"]) for _ in range(200)))
    assert all(keys(rows.rows) == ["1"] for rows in found)


async def test_a_cancelled_read_asks_nothing_more(store: Store, valkey: Valkey, redis_url: str) -> None:
    """The catalog is asked for first: of a read that is cancelled while that is under way, it is all there is."""
    store.feed().show(customer(1))
    reader = store.reader()
    await reader.dead_letters("shop", 1)
    with redis.Redis.from_url(redis_url) as other:
        before = _scripts_run(other)
        valkey.pause()
        try:
            reading = asyncio.create_task(reader.find("customer", Query()))
            await asyncio.wait({reading}, timeout=0.1)  # its first question is on the way, and stays there
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        finally:
            valkey.resume()
        await reader.dead_letters("shop", 1)  # on the same connection, and so behind whatever was asked
        assert reading.cancelled()
        cancelled = _scripts_run(other) - before
        assert cancelled == 2, "the catalog, and the letters"
        await reader.find("customer", Query())
        assert _scripts_run(other) - before >= cancelled + 2, "the catalog, and the rows"


def _scripts_run(server: redis.Redis) -> int:
    stats: dict[str, dict[str, int]] = server.info("commandstats")
    return sum(stats.get(name, {}).get("calls", 0) for name in ("cmdstat_eval", "cmdstat_evalsha"))


async def test_a_wrong_password_is_no_matter_of_waiting(store: Store, redis_url: str) -> None:
    wrong = Config(url=SecretStr(redis_url), password=SecretStr("hunter2"))
    reader = Store("redis", wrong).reader()
    with pytest.raises(StoreError, match="password") as refusal:
        await reader.get("customer", ["1"])
    assert "hunter2" not in str(refusal.value)
    await reader.close()
    (finding,) = diagnose("cache", wrong)
    assert finding.level == "error" and "hunter2" not in finding.message + finding.mend


def test_doctor_names_eviction(redis_url: str) -> None:
    config = Config(url=SecretStr(redis_url))
    findings = diagnose("cache", config)
    assert [finding.level for finding in findings] == ["ok"] * 5
    with closing(config.connect()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            wrong = [finding for finding in diagnose("cache", config) if finding.level == "error"]
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert len(wrong) == 1 and "allkeys-lru" in wrong[0].message and "noeviction" in wrong[0].mend
