"""The log on Kafka, or anything that speaks its protocol, by librdkafka.

Durable means acknowledged by every in-sync replica. Writers are idempotent, keys go to partitions by
murmur2 as with every other Kafka tool, and readers see committed transactions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headgate.connections.kafka import Config
from headgate.log.base import OnAssign, OnRevoke, Topic
from headgate.log.kafka.admin import Admin
from headgate.log.kafka.appender import KafkaAppender
from headgate.log.kafka.reader import KafkaReader
from headgate.model.position import Partition
from headgate.telemetry import Clock


def open_log(target: Config, *, clock: Clock) -> KafkaLog:
    """The log on the cluster `target`. Does not wait for the cluster; `clock` gives the records their times in
    topics that others made and that take them from the producer; in ours it is the broker's clock.

    ConfigError when the settings do not hold.
    """
    return KafkaLog(target, clock)


class KafkaLog:
    """The `Log` on Kafka. Its methods raise Unavailable when the cluster does not answer in `timeout_s`."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._admin = Admin(config)

    def ensure(self, topics: Sequence[Topic]) -> None:
        """Creates the topics that are missing, and waits until each partition has a leader.

        A compacted topic keeps every record, and every tombstone, for `retention_ms` at least. LogError
        when the cluster refuses. Safe to call from several processes.
        """
        self._admin.ensure(topics)

    def partitions(self, topics: Sequence[str]) -> dict[str, int]:
        """How many partitions each existing topic has; a missing topic is left out."""
        return {topic: len(leaders) for topic, leaders in self._admin.leaders(topics).items()}

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """Per existing topic, the id that the cluster gave it."""
        return self._admin.identities(topics)

    def end(self, topics: Sequence[str]) -> dict[Partition, int]:
        """The end of each partition (the high watermark: control records and open transactions counted)."""
        return self._admin.end(topics)

    def appender(self) -> KafkaAppender:
        """A new appender: an idempotent producer of its own."""
        return KafkaAppender(self._config, self._clock)

    def follow(
        self, topics: Sequence[str], group: str, on_assign: OnAssign, on_revoke: OnRevoke, *, tell_ends: bool = False
    ) -> KafkaReader:
        """Reads topics as a member of the consumer group `group`; partitions that are not moved are read on."""
        return KafkaReader.follow(self._config, topics, group, on_assign, on_revoke, tell_ends=tell_ends)

    def read(self, start: Mapping[Partition, int | None], *, tell_ends: bool = False) -> KafkaReader:
        """Reads exactly these partitions from these offsets, as a member of no group. None is the beginning."""
        return KafkaReader.read(self._config, start, tell_ends=tell_ends)

    def close(self) -> None:
        """Lets go of the connections of its own. Never raises. Appenders and readers are closed by their owners."""
        self._admin.close()
