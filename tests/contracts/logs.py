"""The kinds of logs that the contract is held against, on the real thing, and what its tests do with them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from headgate import plugins
from headgate.connections import kafka as kafka_connection
from headgate.log.base import Log, Logged, Reader, Record, Topic
from headgate.model.position import Partition, Position
from headgate.telemetry import wall_clock_ms

WITHIN_S = 60.0
Closable = TypeVar("Closable")

WAIVERS = {
    ("sqlite", "groups"): "the embedded log has one reader a data folder, which gets every partition",
}


# --- the kinds -----------------------------------------------------------------------------------


class Kind(Protocol):
    """One kind of log, on the real thing."""

    @property
    def target(self) -> Any:
        """What `open_log` takes."""

    def expire(self, log: Log, partition: Partition) -> None:
        """Makes the log lose what it holds of a partition, as age would."""


@dataclass
class Sqlite:
    target: Path

    def expire(self, log: Any, partition: Partition) -> None:
        assert log.prune(wall_clock_ms() + 8 * 24 * 3_600_000) > 0


@dataclass
class Kafka:
    target: kafka_connection.Config

    def expire(self, log: Log, partition: Partition) -> None:
        admin = AdminClient({"bootstrap.servers": self.target.bootstrap_servers})
        place = TopicPartition(*partition, log.end([partition.topic])[partition])
        for answer in admin.delete_records([place]).values():
            answer.result(WITHIN_S)


def _sqlite(request: pytest.FixtureRequest) -> Kind:
    folder: Path = request.getfixturevalue("tmp_path")
    return Sqlite(folder / "data" / "log.db")


def _kafka(request: pytest.FixtureRequest) -> Kind:
    server = request.getfixturevalue("kafka")
    return Kafka(kafka_connection.Config(bootstrap_servers=server.bootstrap_servers))


KINDS: dict[str, Callable[[pytest.FixtureRequest], Kind]] = {"sqlite": _sqlite, "kafka": _kafka}


@dataclass
class House:
    """A log of one kind, and whatever a test opens on it."""

    name: str
    kind: Kind
    prefix: str
    opened: list[Any] = field(default_factory=list)

    def open(self) -> Log:
        """The log, as another process would open it."""
        log: Log = plugins.load("log", self.name).open_log(self.kind.target, clock=wall_clock_ms)
        self.keep(log)
        return log

    def keep(self, closable: Closable) -> Closable:
        """Closes it at the end."""
        self.opened.append(closable)
        return closable

    def topic(self, **settings: Any) -> Topic:
        """A topic that no other test has."""
        return Topic(name=f"{self.prefix}{uuid.uuid4().hex[:6]}", **settings)

    def made(self, log: Log, **settings: Any) -> str:
        """A new topic's name."""
        topic = self.topic(**settings)
        log.ensure([topic])
        return topic.name


def waive(house: House, what: str) -> None:
    """Skips, with the listed reason, what a kind need not do."""
    if (house.name, what) in WAIVERS:
        pytest.skip(WAIVERS[house.name, what])


# --- steps of the tests ---------------------------------------------------------------------------


def append(house: House, log: Log, topic: str, records: Sequence[Record], partition: int | None = None) -> None:
    """Appends durably."""
    appender = house.keep(log.appender())
    for record in records:
        appender.append(topic, record, partition)
    appender.flush(WITHIN_S)


def numbered(count: int, start: int = 0) -> list[Record]:
    return [Record(b"k%d" % n, b"v%d" % n) for n in range(start, start + count)]


def drain(reader: Reader, count: int) -> list[Logged]:
    """Exactly `count` records: fails when they do not come, or more come with them."""
    deadline, found = time.monotonic() + WITHIN_S, list[Logged]()
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came in time"
        found += reader.poll(1_000, 0.5)
    assert len(found) == count
    return found


def poll_until(reader: Reader, holds: Callable[[], bool]) -> list[Logged]:
    deadline, found = time.monotonic() + WITHIN_S, list[Logged]()
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        found += reader.poll(1_000, 0.1)
    return found


def poll_until_raised(reader: Reader) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        reader.poll(100, 0.5)


def start_of(topic: str, partitions: int = 1) -> Position:
    return {Partition(topic, number): 0 for number in range(partitions)}


def nothing(_: frozenset[Partition]) -> None:
    """Nobody minds when these partitions go."""


def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"
