"""A restarted connector tells old changes again: no row ever goes back, none is lost, and silence is no freshness."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headgate.stack import Connect, Kafka, Postgres
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways.debezium import HEARTBEAT, Connector, config_of, connector
from tests.ways.deployment import (
    all_rows,
    caught_up,
    frozen_walsender,
    headgate,
    reader_of,
    ready,
    until,
    until_async,
)
from tests.ways.test_staleness import Agent, agent_of

_ROWS = 40
_CRASHES = 2
_FORGETFUL = {
    "group.id": "forgetful",
    "config.storage.topic": "forgetful.configs",
    "offset.storage.topic": "forgetful.offsets",
    "status.storage.topic": "forgetful.status",
    "offset.flush.interval.ms": "7000",  # what was sent since then is sent again after a crash
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "1500",
}
_pause = threading.Event()
"""Never set: writers and watchers take their time."""


@pytest.fixture
def forgetful(services_folder: Path, kafka: Kafka) -> Iterator[Connect]:
    """A Kafka Connect of its own, to be killed, which seldom notes how far it has come."""
    with started(Connect(services_folder / "forgetful", kafka, settings=_FORGETFUL)) as server:
        yield server


class Writing:
    """Transactions that overlap, each of which counts some rows up, for the length of a block."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed),)) for seed in range(3)]

    def __enter__(self) -> Writing:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, dice: random.Random) -> None:
        with psycopg.connect(self._database) as owner:
            while not self._stop.is_set():
                for number in sorted(dice.sample(range(1, _ROWS + 1), dice.randint(1, 6))):
                    owner.execute("update counted set v = v + 1 where id = %s", [number])
                    _pause.wait(dice.choice((0, 0, 0.005)))
                owner.commit()
                _pause.wait(0.005)


class Watching:
    """Reads all rows without a pause for the length of a block, and notes each that goes back."""

    def __init__(self, config: Path) -> None:
        self.gone_back: list[str] = []
        self.looks = 0
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        reader, app = reader_of(self._config)
        seen: dict[int, int] = {}
        try:
            while not self._stop.is_set():
                for row in await all_rows(reader, "counted"):
                    if row["v"] < seen.get(row["id"], 0):
                        self.gone_back.append(f"{row} after {seen[row['id']]}")
                    seen[row["id"]] = row["v"]
                self.looks += 1
        finally:
            await reader.close()
            app.close()


def _await_changes(database: str, most: int) -> None:
    before = sum(counted(database).values())
    until(lambda: sum(counted(database).values()) > before + most)


def counted(database: str) -> dict[int, int]:
    with psycopg.connect(database) as owner:
        return dict(owner.execute("select id, v from counted").fetchall())


async def stored(config: Path, since_ms: int) -> dict[int, int]:
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "counted", since_ms)
        return {row["id"]: row["v"] for row in await all_rows(reader, "counted")}
    finally:
        await reader.close()
        app.close()


async def ends_as(config: Path, wanted: dict[int, int]) -> None:
    """Returns once the store holds that, which nobody changes any more.

    The connector's heartbeat is no proof of that: without `exactly.once.support` it may overtake a change that its
    producer still holds (docs/sources.md).
    """

    async def is_so() -> bool:
        return await stored(config, 0) == wanted

    await until_async(is_so)


def repeated(made: Connector, kafka: Kafka, table: str = "public.counted") -> int:
    """How many changes the topic holds more than once."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "none", "enable.partition.eof": True}
    )
    topic = f"{made.name}.{table}"
    consumer.assign([TopicPartition(topic, number, 0) for number in range(3)])
    seen: list[bytes] = []
    ends = 0
    while ends < 3:
        message = consumer.poll(60)
        assert message is not None
        if (error := message.error()) is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            ends += 1
        elif b'"op":"u"' in (message.value() or b""):
            value = message.value() or b""
            seen.append(value[: value.index(b',"ts_ms":', value.index(b'"op":"u"'))])
    consumer.close()
    return len(seen) - len(set(seen))


async def test_no_row_goes_back_when_the_connector_is_killed_before_it_has_noted_how_far_it_was(
    tmp_path: Path, kafka: Kafka, forgetful: Connect, database: str, redis_url: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table counted (id int primary key, v bigint)")
        owner.execute("insert into counted select n, 0 from generate_series(1, %s) n", [_ROWS])
    with connector(forgetful, database, "public.counted") as made:
        config = config_of(tmp_path, made, kafka, redis_url, "public.counted",
                           f"entities: {{counted: {{from: {made.name}.public.counted}}}}")  # fmt: skip
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            with Watching(config) as watching, Writing(database):
                made.await_noted()
                for _ in range(_CRASHES):
                    _await_changes(database, 2_000)
                    forgetful.kill()
                    forgetful.start()
                    made.await_running()
                    assert await stored(config, wall_clock_ms())
            await ends_as(config, counted(database))
            assert watching.looks > 20
            assert watching.gone_back == []
        assert repeated(made, kafka) > 0, "nothing was told again, so that nothing was shown"


def told(agent: Agent) -> dict[str, Any]:
    result = agent.call("lookup", {"entity": "counted", "key": 1})
    found: dict[str, Any] = result["_meta"]["headgate/freshness"]
    return found


def assert_as_of_goes_on(agent: Agent, times: int = 5) -> None:
    """What is answered is as of later and later, though nothing changes."""
    for _ in range(times):
        before = told(agent)["as_of_ms"]
        until(lambda: told(agent)["as_of_ms"] > before)  # noqa: B023 - asked at once
        assert told(agent)["state"] == "fresh"


def test_an_idle_connector_is_fresh_and_a_silent_database_is_not(
    tmp_path: Path, kafka: Kafka, connect: Connect, postgres: Postgres, database: str, redis_url: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table counted (id int primary key, v bigint); insert into counted values (1, 1)")
    with connector(connect, database, "public.counted") as made:
        config_of(tmp_path, made, kafka, redis_url, "public.counted", heartbeat=f"{{table: {HEARTBEAT}}}",
                  entities=f"entities: {{counted: {{from: {made.name}.public.counted}}}}")  # fmt: skip
        with headgate(tmp_path, "run") as process, agent_of(process) as agent:
            until(lambda: ready(process.url()))
            until(lambda: told(agent)["state"] == "fresh")
            assert_as_of_goes_on(agent)
            with frozen_walsender(postgres):
                before = told(agent)["as_of_ms"]
                until(lambda: told(agent)["staleness_ms"] > 8_000)
                until(lambda: made.state() == "RUNNING")  # its status knows nothing of it
                assert told(agent)["as_of_ms"] >= before
                assert told(agent)["staleness_ms"] > 8_000
            until(lambda: told(agent)["staleness_ms"] < 5_000)


def test_without_heartbeats_freshness_is_unknown(
    tmp_path: Path, kafka: Kafka, connect: Connect, database: str, redis_url: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table counted (id int primary key, v bigint); insert into counted values (1, 1)")
    with connector(connect, database, "public.counted") as made:
        config_of(tmp_path, made, kafka, redis_url, "public.counted", heartbeat="null",
                  entities=f"entities: {{counted: {{from: {made.name}.public.counted}}}}")  # fmt: skip
        with headgate(tmp_path, "run") as process, agent_of(process) as agent:
            until(lambda: ready(process.url()))
            for _ in range(12):
                assert told(agent)["state"] == "unknown"
                _pause.wait(0.25)


@pytest.mark.parametrize("partitions", ["1", "3"])
def test_a_truncate_empties_one_partition_and_stops_the_entity_of_several(
    partitions: str, tmp_path: Path, kafka: Kafka, connect: Connect, database: str, redis_url: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table counted (id int primary key, v bigint); insert into counted values (1, 1), (2, 2)")
        with connector(
            connect, database, "public.counted", **{"topic.creation.default.partitions": partitions}
        ) as made:
            config_of(tmp_path, made, kafka, redis_url, "public.counted",
                      f"entities: {{counted: {{from: {made.name}.public.counted}}}}")  # fmt: skip
            with headgate(tmp_path, "run") as process, agent_of(process) as agent:
                until(lambda: ready(process.url()))
                until(lambda: value_of(agent, 2) == 2)
                owner.execute("truncate counted; insert into counted values (2, 3)")
                if partitions == "1":
                    until(lambda: (value_of(agent, 1), value_of(agent, 2)) == (None, 3))
                else:
                    until(lambda: "truncate_unclear" in faults(agent, made.name))
                    assert value_of(agent, 1) == 1


def value_of(agent: Agent, key: int) -> int | None:
    rows = agent.call("lookup", {"entity": "counted", "key": key})["structuredContent"]["rows"]
    return rows[0]["values"]["v"] if rows else None


def faults(agent: Agent, pipeline: str) -> list[str]:
    answer = agent.call("get_pipeline_errors", {"pipeline_id": pipeline})
    return [fault["code"] for fault in answer["structuredContent"]["faults"]]
