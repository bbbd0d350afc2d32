"""Any topic as an entity: upserted by key, or the newest records of each key. Real Kafka, Redis and registry."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

# The library exports it by documentation, but not to type checkers.
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # isort: skip

from headgate.connections.registry import Config, Registry, framed
from headgate.stack import Kafka
from headgate.stack import Registry as RegistryServer
from headgate.stores.base import Reader
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import (
    BASICS,
    PROGRAM,
    all_rows,
    caught_up,
    connections,
    headgate,
    reader_of,
    ready,
    until,
    until_async,
    write_config,
)
from tests.ways.test_staleness import Agent, agent_of

_PARTITIONS = 3


class Topic:
    """A topic that someone else fills."""

    def __init__(self, kafka: Kafka, name: str) -> None:
        self.name = name
        self._servers: dict[str, str | int | float | bool] = {"bootstrap.servers": kafka.bootstrap_servers}
        self._admin = AdminClient(self._servers)
        self._producer = Producer(self._servers)
        self.create()

    def create(self, partitions: int = _PARTITIONS) -> None:
        for created in self._admin.create_topics([NewTopic(self.name, partitions, 1)]).values():
            created.result(60)

    def delete(self) -> None:
        for deleted in self._admin.delete_topics([self.name]).values():
            deleted.result(60)
        until(lambda: self.name not in self._admin.list_topics(timeout=60).topics)

    def send(self, *records: tuple[str | bytes | None, Any]) -> None:
        """Records of a key and a value, which is encoded as JSON unless it is bytes or None."""
        for key, value in records:
            self._producer.produce(self.name, _encoded(value), key)
        assert self._producer.flush(60) == 0

    def send_at_once(self, *records: tuple[str, Any], commit: bool) -> None:
        """The same in one transaction, whose end takes a place in each partition."""
        producer = Producer({**self._servers, "transactional.id": f"{self.name}-{commit}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for key, value in records:
            producer.produce(self.name, _encoded(value), key)
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)


def _encoded(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else json.dumps(value).encode()


@pytest.fixture
def topic(kafka: Kafka, topic_prefix: str) -> Topic:
    return Topic(kafka, f"{topic_prefix}orders")


def write(folder: Path, kafka: Kafka, redis_url: str, topic: Topic, settings: str, more: str = "") -> Path:
    text = f"""
{BASICS}{connections(kafka, redis_url)}{more}pipelines:
  feed:
    source:
      kind: topic
      topics: {{orders: {{topic: {topic.name}, {settings}}}}}
      freshness: log
{"      format: avro" if more else ""}
{"      registry: schemas" if more else ""}
    log: main
    store: cache
entities:
  order: {{from: feed.orders}}
"""
    return write_config(folder, text)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Agent]:
    with headgate(folder, "run") as process:
        until(lambda: ready(process.url()))
        with agent_of(process) as agent:
            yield agent


async def rows(config: Path) -> dict[Any, dict[str, Any]]:
    """All rows, once the store says that it holds what the topic holds now."""
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "order", wall_clock_ms())
        return {row["id"]: row for row in await all_rows(reader, "order") if row}
    finally:
        await reader.close()
        app.close()


async def test_json_is_upserted_by_key_and_what_can_not_be_read_is_set_aside(
    tmp_path: Path, kafka: Kafka, redis_url: str, topic: Topic
) -> None:
    config = write(tmp_path, kafka, redis_url, topic, "key: [id]")
    topic.send(("a", {"amount": 1}), ("b", {"id": "b", "amount": 2}), ("c", {"amount": 3}))
    with running(tmp_path) as agent:
        topic.send(("a", {"amount": 10}), ("c", None), ("d", b"no JSON"), ("e", {"amount": 5}))
        found = await rows(config)
        assert {key: row.get("amount") for key, row in found.items()} == {"a": 10, "b": 2, "e": 5}
        answer = agent.call("lookup", {"entity": "order", "key": "a"})
        assert answer["structuredContent"]["rows"][0]["values"] == {"id": "a", "amount": 10}
        assert answer["_meta"]["headgate/freshness"]["state"] == "fresh"
        letters = agent.call("get_pipeline_errors", {"pipeline_id": "feed"})["structuredContent"]["dead_letters"]
        assert [letter["code"] for letter in letters] == ["change_undecodable"]
        assert letters[0]["topic"] == topic.name
        topic.send(("d", {"amount": 4}))
        assert (await rows(config))["d"] == {"id": "d", "amount": 4}


async def test_a_position_comes_to_an_end_that_holds_no_record(
    tmp_path: Path, kafka: Kafka, redis_url: str, topic: Topic
) -> None:
    config = write(tmp_path, kafka, redis_url, topic, "key: [id]")
    topic.send_at_once(*((str(n), {"n": n}) for n in range(30)), commit=True)
    with running(tmp_path):
        assert len(await rows(config)) == 30
        topic.send_at_once(*((str(n), {"n": -1}) for n in range(40)), commit=False)
        assert {row["n"] for row in (await rows(config)).values()} == set(range(30))


async def test_avro_by_a_registry(
    tmp_path: Path, kafka: Kafka, registry: RegistryServer, redis_url: str, topic: Topic
) -> None:
    schemas = Registry(Config(url=registry.url))
    first = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}, {"name": "due", "type": {
        "type": "int", "logicalType": "date"}}]}  # fmt: skip
    price = {"name": "price", "default": None,
             "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]}  # fmt: skip
    second = {**first, "fields": [*first["fields"], price]}
    send = avro_sender(topic, schemas)
    more = f'  schemas: {{kind: registry, url: "{registry.url}"}}\n'
    config = write(tmp_path, kafka, redis_url, topic, "key: [id]", more)
    send(first, [{"id": 1, "due": 0}])
    with running(tmp_path) as agent:
        send(second, [{"id": 2, "due": 1, "price": b"\x04\x1a"}])
        assert await rows(config) == {
            1: {"id": 1, "due": "1970-01-01"},
            2: {"id": 2, "due": "1970-01-02", "price": "10.50"},
        }
        until(lambda: types(agent).get("price") == "decimal")
        assert types(agent)["due"] == "date"
    schemas.close()


def types(agent: Agent) -> dict[str, str]:
    (entity,) = agent.call("describe_data", {"entity": "order"})["structuredContent"]["entities"]
    return {field["name"]: field["type"] for field in entity["fields"]}


def avro_sender(topic: Topic, schemas: Registry) -> Callable[[Any, Sequence[dict[str, Any]]], None]:
    def send(schema: Any, records: Sequence[dict[str, Any]]) -> None:
        number = schemas.register(f"{topic.name}-value", json.dumps(schema))
        assert schemas.register(f"{topic.name}-value", json.dumps(schema)) == number
        plain = json.loads(json.dumps(schema).replace("logicalType", "meant"))
        for record in records:
            data = io.BytesIO()
            fastavro.schemaless_writer(data, fastavro.parse_schema(plain), record)
            topic.send((str(record["id"]), framed(number, data.getvalue())))

    return send


async def test_the_newest_records_of_a_key_are_counted_exactly_once_whatever_dies(
    tmp_path: Path, kafka: Kafka, redis_url: str, topic: Topic
) -> None:
    config = write(tmp_path, kafka, redis_url, topic, "key: [id], latest: 3")
    with headgate(tmp_path, "run") as process:
        until(lambda: ready(process.url()))
        for round_ in range(4):
            topic.send(*((str(n % 5), {"n": round_ * 500 + n}) for n in range(500)))
            process.crash()
            process.start()
        found = await rows(config)
        assert {row["count"] for row in found.values()} == {400}
        for key, row in found.items():
            newest = [1995 + int(key) - 5 * back for back in range(3)]
            assert [record["n"] for record in row["latest"]] == newest


async def test_a_recreated_topic_fills_a_newer_generation_beside_the_old(
    tmp_path: Path, kafka: Kafka, redis_url: str, topic: Topic
) -> None:
    config = write(tmp_path, kafka, redis_url, topic, "key: [id]")
    topic.send(*((str(n), {"n": n}) for n in range(50)))
    with running(tmp_path) as agent:
        assert len(await rows(config)) == 50
        topic.delete()
        topic.create()
        topic.send(("1", {"n": -1}), ("new", {"n": -2}))
        until(lambda: agent.call("lookup", {"entity": "order", "key": "new"})["structuredContent"]["rows"])
        found = await rows(config)
        assert {key: row["n"] for key, row in found.items()} == {1: -1, "new": -2}


async def test_someone_who_wants_it_read_again_gets_a_newer_generation(
    tmp_path: Path, kafka: Kafka, redis_url: str, topic: Topic
) -> None:
    config = write(tmp_path, kafka, redis_url, topic, "key: [id]")
    topic.send(*((str(n), {"n": n}) for n in range(50)))
    with running(tmp_path):
        before = await rows(config)
        assert before
        await asyncio.to_thread(want_again, tmp_path)
        reader, app = reader_of(config)
        try:
            await until_async(lambda: is_of_generation(reader, 2))
        finally:
            await reader.close()
            app.close()
        assert await rows(config) == before


def want_again(folder: Path) -> None:
    wish = [str(PROGRAM), "pipeline", "resnapshot", "feed", "topic.orders"]
    subprocess.run(wish, cwd=folder, check=True, timeout=60)


async def is_of_generation(reader: Reader, wanted: int) -> bool:
    return (await reader.watermark("order")).generation == wanted
