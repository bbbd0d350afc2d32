"""What is asked of the cluster itself: its topics, their leaders and their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from headgate.connections.kafka import Config, error_of, explain, is_passing
from headgate.errors import HeadgateError, Unavailable
from headgate.log.base import Topic
from headgate.log.kafka.health import Health, made
from headgate.model.position import Partition

# The library exports these by documentation, but not to type checkers.
from confluent_kafka.admin import NewTopic, OffsetSpec  # type: ignore[attr-defined]  # isort: skip

_AGAIN_S = 0.05
_LEADERS_WITHIN_S = 30.0

_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library's own lack

T = TypeVar("T")


class Admin:
    """Questions to one cluster, from any thread. One that may be answered at the next try is asked again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._health = Health("the cluster")
        self._client = made(AdminClient, {**config.librdkafka(), **self._health.settings()})

    def ensure(self, topics: Sequence[Topic]) -> None:
        """Creates the topics that are missing, and waits until all have leaders.

        One that is being deleted is there still for a moment: it is created again once it is gone.
        """
        deadline = time.monotonic() + _LEADERS_WITHIN_S
        while not self._has_all(topics):
            if time.monotonic() > deadline:
                raise Unavailable("topics of Kafka have no leader: look whether all its brokers run")
            time.sleep(_AGAIN_S)

    def _has_all(self, topics: Sequence[Topic]) -> bool:
        """Whether all are there and have leaders. Creates those that are missing."""
        leaders = self.leaders([topic.name for topic in topics])
        missing = [_new_topic(topic, self._config) for topic in topics if topic.name not in leaders]
        if missing:
            self._ask(lambda: self._create(missing), "create a topic")
        return not missing and all(all(leaders[topic.name]) for topic in topics)

    def leaders(self, topics: Sequence[str]) -> dict[str, list[bool]]:
        """Per existing topic, whether each of its partitions has a leader."""
        return {topic: _leaders(described) for topic, described in self._described(topics).items()}

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """Per existing topic, its id (KIP-516): a recreated topic has another one."""
        return {topic: str(described.topic_id) for topic, described in self._described(topics).items()}

    def _described(self, topics: Sequence[str]) -> dict[str, Any]:
        return self._ask(lambda: self._describe(topics), "describe topics") if topics else {}

    def end(self, topics: Sequence[str]) -> dict[Partition, int]:
        """The high watermark of each partition of the existing topics."""
        places = [
            TopicPartition(topic, number)
            for topic, leaders in self.leaders(topics).items()
            for number in range(len(leaders))
        ]
        return self._ask(lambda: self._list_ends(places), "list offsets") if places else {}

    def close(self) -> None:
        """Takes in what the client still has to say. Its connections end when it is forgotten."""
        self._client.poll(0)

    # --- single requests -------------------------------------------------------------------------

    def _create(self, topics: list[NewTopic]) -> None:
        for answer in self._client.create_topics(topics, request_timeout=self._config.timeout_s).values():
            try:
                answer.result()
            except KafkaException as exception:
                if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def _describe(self, topics: Sequence[str]) -> dict[str, Any]:
        asked = self._client.describe_topics(TopicCollection(list(topics)), request_timeout=self._config.timeout_s)
        return {topic: described for topic, answer in asked.items() if (described := _described(answer)) is not None}

    def _list_ends(self, places: list[TopicPartition]) -> dict[Partition, int]:
        asked = self._client.list_offsets(dict.fromkeys(places, _LATEST), request_timeout=self._config.timeout_s)
        return {Partition(place.topic, place.partition): answer.result().offset for place, answer in asked.items()}

    # --- patience --------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], T], doing: str) -> T:
        deadline = time.monotonic() + self._config.timeout_s
        while True:
            try:
                answer = question()
            except KafkaException as exception:
                error = error_of(exception)
                if not is_passing(error) or time.monotonic() > deadline:
                    raise self._explain(error, doing) from exception
            else:
                self._health.well()
                return answer
            finally:
                self._client.poll(0)
            time.sleep(_AGAIN_S)

    def _explain(self, error: KafkaError, doing: str) -> HeadgateError:
        # A refused connection shows as a timeout of the question; why, was told in the background.
        self._client.poll(0)
        return self._health.refusal() or explain(error, doing)


def _leaders(described: Any) -> list[bool]:
    return [partition.leader is not None and partition.leader.id >= 0 for partition in described.partitions]


def _described(answer: Future[Any]) -> Any | None:
    try:
        return answer.result()
    except KafkaException as exception:
        if error_of(exception).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def _new_topic(topic: Topic, config: Config) -> NewTopic:
    retention = str(topic.retention_ms)
    if topic.compacted:
        settings = {
            "cleanup.policy": "compact",
            "min.compaction.lag.ms": retention,
            "delete.retention.ms": retention,
        }
    else:
        settings = {"cleanup.policy": "delete", "retention.ms": retention}
    # A batch of one record is a little larger than the record.
    settings["max.message.bytes"] = str(config.message_max_bytes + 1024)
    # By the broker's clock: since 4.0 it refuses what a clock says that is an hour ahead, and a producer with it.
    settings["message.timestamp.type"] = "LogAppendTime"
    return NewTopic(
        topic.name,
        num_partitions=topic.partitions,
        replication_factor=config.replication_factor,
        config=settings,
    )
