"""Records that Kafka's appender hands over many at a time: in order, once, and beside those that go alone."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from headgate.connections.kafka import Config
from headgate.errors import Unavailable
from headgate.log.base import Logged, Record, Topic
from headgate.log.kafka import KafkaLog, open_log
from headgate.log.kafka import appender as appenders
from headgate.model.position import Partition
from headgate.stack import Kafka
from headgate.telemetry import wall_clock_ms

WITHIN_S = 60.0


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    found = open_log(Config(bootstrap_servers=kafka.bootstrap_servers), clock=wall_clock_ms)
    yield found
    found.close()


@pytest.fixture
def topic(topic_prefix: str) -> str:
    return topic_prefix + uuid.uuid4().hex[:8]


def read_all(log: KafkaLog, topic: str) -> list[Logged]:
    ends = log.end([topic])
    reader = log.read(dict.fromkeys(ends, 0))
    found: list[Logged] = []
    deadline = time.monotonic() + WITHIN_S
    while len(found) < sum(ends.values()):
        assert time.monotonic() < deadline
        found.extend(reader.poll(10_000, 0.5))
    reader.close()
    return found


def assert_in_order(records: list[Logged], count: int, keys: int) -> None:
    """Every number once, and each key's numbers in their order."""
    assert sorted(int(record.value or b"") for record in records) == list(range(count))
    newest = dict.fromkeys(range(keys), -1)
    for record in sorted(records, key=lambda record: (record.partition, record.offset)):
        number = int(record.value or b"")
        assert number > newest[number % keys]
        newest[number % keys] = number


def test_a_full_buffer_makes_wait_and_loses_doubles_and_reorders_nothing(
    log: KafkaLog, kafka: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more than the buffer holds, while the broker is away."""
    monkeypatch.setattr(
        appenders, "BUFFER_FULL_WAIT_S", 3 * WITHIN_S
    )  # a busy machine starts a broker in half a minute
    count, keys = 260_000, 97
    log.ensure([Topic(name=topic, partitions=3)])
    appender = log.appender()
    appender.append(topic, Record(b"0", b"0"))
    appender.flush(WITHIN_S)
    kafka.kill()
    back = threading.Timer(3.0, kafka.start)
    back.start()
    told = []
    for number in range(1, count):
        appender.append(topic, Record(b"%d" % (number % keys), b"%d" % number))
        if not number % 500:
            appender.checkpoint(number)
            told.append(appender.acknowledged())
    appender.checkpoint("last")
    while (token := appender.acknowledged(3 * WITHIN_S)) != "last":
        assert token is not None
        told.append(token)
    back.join()
    numbers = [token for token in told if isinstance(token, int)]
    assert numbers == sorted(set(numbers))
    assert_in_order(read_all(log, topic), count, keys)
    assert appender.ends() == log.end([topic])
    appender.close()


def test_records_that_go_alone_keep_their_place(log: KafkaLog, topic: str) -> None:
    """A marker is written to a partition by its number; what the key's hash places came before, or comes after."""
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    for number in range(0, 3_000, 3):
        appender.append(topic, Record(b"k", b"%d" % number))
        appender.append(topic, Record(b"marker", b"%d" % (number + 1)), 0)
        appender.append(topic, Record(b"k", b"%d" % (number + 2), (("name", b"value"),)))
    appender.flush(WITHIN_S)
    records = read_all(log, topic)
    assert [int(record.value or b"") for record in records] == list(range(3_000))
    assert [bool(record.headers) for record in records] == [False, False, True] * 1_000
    appender.close()


def test_what_waits_is_not_acknowledged_and_flush_hands_it_over(log: KafkaLog, topic: str) -> None:
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    appender.append(topic, Record(b"k", b"0"))
    assert appender.acknowledged(0.2) is None
    assert appender.ends() == {}
    appender.flush(WITHIN_S)
    assert appender.ends() == {Partition(topic, 0): 1}
    appender.append(topic, Record(b"k", None))
    appender.checkpoint("tombstone")
    assert appender.acknowledged(WITHIN_S) == "tombstone"
    assert [record.value for record in read_all(log, topic)] == [b"0", None]
    appender.close()


def test_a_flush_without_a_broker_ends_in_time_and_is_tried_on(log: KafkaLog, kafka: Kafka, topic: str) -> None:
    log.ensure([Topic(name=topic)])
    appender = log.appender()
    appender.append(topic, Record(b"k", b"0"))
    appender.flush(WITHIN_S)
    kafka.kill()
    for number in range(1, 5_000):
        appender.append(topic, Record(b"k", b"%d" % number))
    with pytest.raises(Unavailable):
        appender.flush(0.5)
    kafka.start()
    appender.flush(WITHIN_S)
    assert_in_order(read_all(log, topic), 5_000, 1)
    appender.close()
