"""What the log on Kafka must do beyond the common contract: outages, other tools' views, the broker's own verdicts."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headgate.connections.kafka import Config
from headgate.errors import LogError, RecordTooLarge, Unavailable
from headgate.log.base import Logged, Reader, Record, Topic
from headgate.log.kafka import KafkaLog, open_log
from headgate.log.kafka.appender import KafkaAppender
from headgate.model.position import Partition
from headgate.stack import Kafka
from headgate.stack.ports import free_port
from headgate.telemetry import wall_clock_ms

# The library exports these by documentation, but not to type checkers.
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # isort: skip

WITHIN_S = 60.0


@pytest.fixture
def config(kafka: Kafka) -> Config:
    return Config(bootstrap_servers=kafka.bootstrap_servers)


@pytest.fixture
def log(config: Config) -> Iterator[KafkaLog]:
    log = open_log(config, clock=wall_clock_ms)
    yield log
    log.close()


@pytest.fixture
def admin(kafka: Kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers})


@pytest.fixture
def topic(topic_prefix: str) -> str:
    return f"{topic_prefix}orders"


def read_all(log: KafkaLog, topic: str) -> dict[int, list[Logged]]:
    """All records of a topic, by partition."""
    ends = log.end([topic])
    reader = log.read(dict.fromkeys(ends, 0))
    found: dict[int, list[Logged]] = {partition.number: [] for partition in ends}
    deadline = time.monotonic() + WITHIN_S
    while sum(map(len, found.values())) < sum(ends.values()):
        assert time.monotonic() < deadline
        for record in reader.poll(1_000, 0.5):
            found[record.partition.number].append(record)
    reader.close()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold in time"


# --- topics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compacted", "expected"),
    [
        (True, {"cleanup.policy": "compact", "min.compaction.lag.ms": "90000", "delete.retention.ms": "90000"}),
        (False, {"cleanup.policy": "delete", "retention.ms": "90000"}),
    ],
)
def test_a_topic_is_created_with_its_retention(
    log: KafkaLog, admin: AdminClient, topic: str, compacted: bool, expected: dict[str, str]
) -> None:
    log.ensure([Topic(name=topic, partitions=2, compacted=compacted, retention_ms=90_000)])
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    settings = {name: entry.value for name, entry in answer.result().items()}
    assert expected.items() <= settings.items()
    assert int(settings["max.message.bytes"]) >= 8 * 1024 * 1024


@pytest.mark.parametrize("off_ms", [-86_400_000, 86_400_000], ids=["behind", "ahead"])
def test_a_clock_that_is_off_keeps_nothing_from_the_log(config: Config, topic: str, off_ms: int) -> None:
    """Records have the broker's times: by ours it would refuse what is an hour ahead, and the producer with it."""
    log = open_log(config, clock=lambda: wall_clock_ms() + off_ms)
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    before_ms = wall_clock_ms()
    appender.append(topic, Record(b"key", b"value"), partition=0)
    appender.flush(WITHIN_S)
    (record,) = read_all(log, topic)[0]
    assert before_ms <= record.time_ms <= wall_clock_ms()
    appender.close()
    log.close()


def test_keys_go_where_every_kafka_tool_looks_for_them(log: KafkaLog, topic: str) -> None:
    # The vectors of Kafka's own test of its hash, UtilsTest.testMurmur2.
    hashes = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    }
    log.ensure([Topic(name=topic, partitions=7)])
    appender = log.appender()
    for key in hashes:
        appender.append(topic, Record(key, b"v"))
    appender.flush(WITHIN_S)  # to close waits for a few seconds only
    appender.close()
    found = {record.key: number for number, records in read_all(log, topic).items() for record in records}
    assert found == {key: (number & 0x7FFFFFFF) % 7 for key, number in hashes.items()}


# --- the broker's verdicts -----------------------------------------------------------------------


def test_what_the_broker_finds_too_large_spends_the_appender(log: KafkaLog, admin: AdminClient, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 1, config={"max.message.bytes": "10000"})])[topic].result(WITHIN_S)
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    appender.append(topic, Record(b"k", b"fits"))
    appender.flush(WITHIN_S)
    with pytest.raises(RecordTooLarge) as raised:  # by whichever of these is the first to hear of it
        appender.append(topic, Record(b"k", random.Random(7).randbytes(200_000)))
        appender.append(topic, Record(b"k", b"later"))
        appender.checkpoint("both")
        appender.acknowledged(WITHIN_S)
    assert raised.value.details["topic"] == topic
    for again in (lambda: appender.append(topic, Record(b"k", b"v")), appender.acknowledged, lambda: appender.flush(1)):
        with pytest.raises(RecordTooLarge):
            again()
    assert appender.ends() == {Partition(topic, 0): 1}
    appender.close()
    assert log.end([topic]) == {Partition(topic, 0): 1}, "what came after the failed record was not written"


def test_aborted_records_are_not_read_and_control_records_count(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    log.ensure([Topic(name=topic)])
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(WITHIN_S)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(WITHIN_S)
        end(WITHIN_S)
    reader = log.read({Partition(topic, 0): 0})
    (found,) = reader.poll(10, WITHIN_S)  # comes once the last control record is written
    assert (found.offset, found.value) == (2, b"committed")
    assert log.end([topic]) == {Partition(topic, 0): 4}
    reader.close()


def test_a_slice_has_the_offsets_that_the_records_have(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    """Control records take offsets between them."""
    log.ensure([Topic(name=topic)])
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(WITHIN_S)
    for _ in range(3):
        producer.begin_transaction()
        for value in (b"one", b"two"):
            producer.produce(topic, value)
        producer.commit_transaction(WITHIN_S)
    reader = log.read({Partition(topic, 0): 0})
    found: list[int] = []

    def is_all_read() -> bool:
        found.extend(offset for mine in reader.poll_slices(10, 0.5) for offset in mine.offsets)
        return len(found) >= 6

    wait_for(is_all_read)
    assert found == [0, 1, 3, 4, 6, 7]
    reader.close()


def test_a_group_notes_its_offsets_for_other_tools(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    log.ensure([Topic(name=topic)])
    group = uuid.uuid4().hex
    reader = log.follow([topic], group, lambda _: {}, lambda _: None)
    wait_for(lambda: bool(reader.poll(1, 0.2) or reader.assigned()))
    reader.commit({Partition(topic, 0): 0})
    reader.commit({})
    asker = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    wait_for(lambda: asker.committed([TopicPartition(topic, 0)], WITHIN_S)[0].offset == 0)
    asker.close()
    reader.close()


def test_the_newer_group_protocol_shares_partitions_too(config: Config, topic: str) -> None:
    log = open_log(config.model_copy(update={"group_protocol": "consumer"}), clock=wall_clock_ms)
    log.ensure([Topic(name=topic, partitions=2)])
    group = uuid.uuid4().hex
    readers = [log.follow([topic], group, lambda _: {}, lambda _: None) for _ in range(2)]

    def shared() -> bool:
        for reader in readers:
            reader.poll(10, 0.05)
        return [len(reader.assigned()) for reader in readers] == [1, 1]

    wait_for(shared)
    for reader in readers:
        reader.close()
    log.close()


# --- outages -------------------------------------------------------------------------------------


def append_numbers(appender: KafkaAppender, topic: str, numbers: range, at: dict[int, Callable[[], None]]) -> list[Any]:
    """Appends numbers to four partitions in turn, a token each ten; returns the tokens told."""
    told: list[Any] = []
    for number in numbers:
        at.get(number, lambda: None)()
        appender.append(topic, Record(b"%d" % number, b"%d" % number), number % 4)
        if not number % 10:
            appender.checkpoint(number)
            told.append(appender.acknowledged())
    return [token for token in told if token is not None]


def test_a_killed_broker_loses_and_doubles_and_reorders_nothing(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    log.ensure([Topic(name=topic, partitions=4)])
    appender = log.appender()
    told = append_numbers(appender, topic, range(40_000), {15_000: kafka.kill, 25_000: kafka.start})
    appender.checkpoint("last")
    while (token := appender.acknowledged(WITHIN_S)) != "last":
        assert token is not None
        told.append(token)
    assert told == sorted(set(told))
    found = read_all(log, topic)
    for number, records in found.items():
        assert [int(record.value or b"") for record in records] == list(range(number, 40_000, 4))
    assert appender.ends() == log.end([topic])
    appender.close()


def test_what_was_acknowledged_before_a_kill_is_there_and_the_rest_is_a_prefix(
    log: KafkaLog, kafka: Kafka, topic: str
) -> None:
    log.ensure([Topic(name=topic, partitions=4)])
    appender = log.appender()
    steps = {10_000: lambda: appender.flush(WITHIN_S), 20_000: kafka.kill}
    told = append_numbers(appender, topic, range(30_000), steps)
    appender.close()
    kafka.start()
    assert told[-1] >= 9_990
    for number, records in read_all(log, topic).items():
        values = [int(record.value or b"") for record in records]
        assert values == list(range(number, 30_000, 4))[: len(values)]
        assert values[-1] > told[-1] - 4


def test_a_reader_goes_on_after_its_broker_was_killed(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    append_numbers_to_one(appender, topic, 0)
    read: list[int] = []
    # A group whose session ran out while its broker was away is joined anew, and asks again where to begin.
    reader = log.follow([topic], uuid.uuid4().hex, lambda _: {Partition(topic, 0): len(read)}, lambda _: None)
    read += read_values(reader, 100)
    assert read == list(range(100))
    kafka.kill()
    assert list(reader.poll(10, 0.5)) == []
    kafka.start()
    append_numbers_to_one(appender, topic, 100)
    assert read_values(reader, 100) == list(range(100, 200))
    reader.close()
    appender.close()


def append_numbers_to_one(appender: KafkaAppender, topic: str, start: int) -> None:
    for number in range(start, start + 100):
        appender.append(topic, Record(b"k", b"%d" % number))
    appender.flush(WITHIN_S)


def read_values(reader: Reader, count: int) -> list[int]:
    found: list[Logged] = []

    def is_whole() -> bool:
        found.extend(reader.poll(1_000, 0.5))
        return len(found) >= count

    wait_for(is_whole)
    return [int(record.value or b"") for record in found]


def test_without_a_cluster_questions_are_answered_with_unavailable() -> None:
    log = open_log(Config(bootstrap_servers=f"127.0.0.1:{free_port()}", timeout_s=0.5), clock=wall_clock_ms)
    for ask in (
        lambda: log.ensure([Topic(name="t")]),
        lambda: log.partitions(["t"]),
        lambda: log.end(["t"]),
    ):
        with pytest.raises(Unavailable):
            ask()
    reader = log.follow(["t"], "g", lambda _: {}, lambda _: None)
    assert list(reader.poll(10, 0.2)) == []
    assert reader.lag() == {}
    appender = log.appender()
    appender.append("t", Record(b"k", b"v"))
    with pytest.raises(Unavailable):
        appender.flush(0.2)
    reader.close()
    appender.close()
    with pytest.raises(LogError):
        appender.flush(0.2)
    log.close()


SPEAKS = """
import sys
from headgate.connections.kafka import Config, diagnose
from headgate.errors import HeadgateError
from headgate.log.base import Record
from headgate.log.kafka import open_log
from headgate.telemetry import wall_clock_ms

config = Config(bootstrap_servers=sys.argv[1], timeout_s=0.5)
log = open_log(config, clock=wall_clock_ms)
reader, appender = log.follow(["t"], "g", lambda _: {}, lambda _: None), log.appender()
appender.append("t", Record(b"k", b"v"))
for ask in (lambda: log.end(["t"]), lambda: appender.flush(1), lambda: reader.poll(1, 1)):
    try:
        ask()
    except HeadgateError:
        pass
print(diagnose("main", config)[0].level)
"""


def test_librdkafka_does_not_talk_on_standard_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SPEAKS, f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, timeout=WITHIN_S, check=True,
    )  # fmt: skip
    assert ended.stdout == "error\n"
    assert "rdkafka" not in ended.stderr
    assert "127.0.0.1" not in ended.stderr
    assert set(ended.stderr.splitlines()) <= {
        f"Kafka does not answer {whose}: it goes on trying" for whose in ("the cluster", "a reader", "an appender")
    }
    assert len(ended.stderr.splitlines()) <= 3


def test_a_recreated_topic_is_another_one(log: KafkaLog, admin: AdminClient, topic_prefix: str) -> None:
    topic = Topic(name=f"{topic_prefix}again")
    log.ensure([topic])
    before = log.identities([topic.name])
    admin.delete_topics([topic.name])[topic.name].result()
    log.ensure([topic])
    after = log.identities([topic.name])
    assert set(after) == {topic.name}
    assert after != before
