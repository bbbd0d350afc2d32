"""Appends to Kafka by an idempotent producer, and keeps count of what is durable."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headgate.connections.kafka import Config, error_of, explain
from headgate.errors import HeadgateError, LogError, RecordTooLarge, Unavailable
from headgate.log.base import Record
from headgate.log.kafka.health import Health, made
from headgate.model.position import Partition
from headgate.telemetry import Clock, logger

BUFFER_FULL_WAIT_S = 30.0
CLOSE_WITHIN_S = 5.0
_MOST_WAITING = 1_000
_MOST_WAITING_BYTES = 1_000_000
_OVERHEAD = 512  # what librdkafka counts besides key and value is far below that
_REPORT_WITHIN_S = 1.0
_log = logger("log")


def _settings(config: Config) -> dict[str, Any]:
    return {
        **config.librdkafka(),
        "enable.idempotence": True,  # brings acks=all and endless retries in order
        # Whatever fails for good stops the producer, so that no later record of the partition gets in.
        "enable.gapless.guarantee": True,
        # Without an end: a record that were given up after a time would leave a gap.
        "message.timeout.ms": 0,
        "partitioner": "murmur2_random",
        "message.max.bytes": config.message_max_bytes,
        "compression.type": config.compression,
        "linger.ms": config.linger_ms,
        "max.in.flight.requests.per.connection": config.requests_in_flight,
        "batch.num.messages": 10_000,
        "batch.size": 1_000_000,  # within the 1 MiB that topics of others take by default
        "queue.buffering.max.messages": 50_000,  # each costs memory beyond its bytes
        "queue.buffering.max.kbytes": max(32_768, 2 * config.message_max_bytes // 1_024),
        "retry.backoff.ms": 50,
        "topic.metadata.propagation.max.ms": 10_000,  # how long a topic may be unknown before its records fail
    }


class _Stretch:
    """The records between two checkpoints, and how many of them are not durable yet."""

    __slots__ = ("_owner", "_reports", "outstanding", "token")

    def __init__(self, owner: KafkaAppender) -> None:
        self.outstanding = 0
        self.token: Hashable = None
        self._owner = owner
        self._reports: dict[str, Callable[[KafkaError | None, Any], None]] = {}

    def report(self, topic: str) -> Callable[[KafkaError | None, Any], None]:
        """Takes the delivery reports of this stretch's records in a topic. Called for each record: it is short."""
        made = self._reports.get(topic)
        if made is None:
            made = self._reports[topic] = self._report(topic)
        return made

    def _report(self, topic: str) -> Callable[[KafkaError | None, Any], None]:
        owner = self._owner
        offsets = owner.offsets.setdefault(topic, {})

        def delivered(error: KafkaError | None, message: Any) -> None:
            self.outstanding -= 1
            if error is not None:
                owner.failed(error, topic)
            elif not owner.spent:
                offsets[message.partition()] = message.offset()  # reports of one partition come in its order

        return delivered


class KafkaAppender:
    """The `Appender` on Kafka. Nothing is given up while the cluster is away: the buffer fills, then `append` waits."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._health = Health("an appender")
        self._producer = made(Producer, {**_settings(config), **self._health.settings()})
        self._largest = config.message_max_bytes - _OVERHEAD
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._waiting_records = self._waiting_bytes = 0
        self._closed_stretches: deque[_Stretch] = deque()
        self._stretch = _Stretch(self)
        self._failure: HeadgateError | None = None
        self._closed = False
        self.offsets: dict[str, dict[int, int]] = {}
        """Per topic and partition, the last durable offset."""

    @property
    def spent(self) -> bool:
        """Whether a delivery has failed for good."""
        return self._failure is not None

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        """Takes a record. RecordTooLarge, or LogError after a failed delivery.

        Records that the key's hash places are handed over many at a time, at the latest by `checkpoint`. Waits
        while the buffer is full; Unavailable after 30 s of that, and then the record was not taken.
        """
        if self._failure is not None:
            raise self._failure
        key, value = record.key, record.value
        size = len(key or b"") + len(value or b"")
        if partition is not None or record.headers or size > self._largest:
            self._hand_over(BUFFER_FULL_WAIT_S)  # what came before stays before
            self._append_alone(topic, record, -1 if partition is None else partition)
            return
        if self._waiting_records >= _MOST_WAITING or self._waiting_bytes >= _MOST_WAITING_BYTES:
            self._hand_over(BUFFER_FULL_WAIT_S)
        message = {"key": key, "value": value}
        try:
            self._waiting[topic].append(message)
        except KeyError:
            self._waiting[topic] = [message]
        self._waiting_records += 1
        self._waiting_bytes += size
        self._stretch.outstanding += 1

    def _append_alone(self, topic: str, record: Record, partition: int) -> None:
        headers: Any = list(record.headers) if record.headers else None
        deadline = time.monotonic() + BUFFER_FULL_WAIT_S
        while True:
            try:
                self._producer.produce(
                    topic, record.value, record.key, partition, self._stretch.report(topic),
                    timestamp=self._clock(), headers=headers,
                )  # fmt: skip
                break
            except BufferError as full:
                self._wait_for_room(deadline, full)
            except KafkaException as exception:
                raise self._refused(topic, record, exception) from exception
        self._stretch.outstanding += 1

    def _hand_over(self, timeout_s: float) -> None:
        """Gives librdkafka what waits. Unavailable when it has no room within `timeout_s`: the rest waits on."""
        if not self._waiting_records:
            return
        deadline = time.monotonic() + timeout_s
        for topic, messages in self._waiting.items():
            while messages:
                taken = self._producer.produce_batch(topic, messages, on_delivery=self._stretch.report(topic))
                self._waiting_records -= taken
                refusal = messages[taken]["_error"] if taken < len(messages) else None
                del messages[:taken]  # the first one without room keeps out those after it
                if refusal is not None:
                    self._refuse(topic, refusal, deadline)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._serve(0)

    def _refuse(self, topic: str, error: KafkaError, deadline: float) -> None:
        """Waits for room, if that is what was missing; else the appender is spent."""
        if error.code() == KafkaError._QUEUE_FULL:
            self._wait_for_room(deadline, None)
            return
        self._serve(0)  # when the appender is spent already, why matters more than that it takes no more
        self.failed(error, topic)
        self._raise_failure()

    def checkpoint(self, token: Hashable) -> None:
        """Hands over what waits, and remembers that everything up to `token` is. Waits for room as `append` does."""
        self._hand_over(BUFFER_FULL_WAIT_S)
        if not self._stretch.outstanding and self._closed_stretches:
            self._closed_stretches[-1].token = token  # nothing since the last one: this one takes its place
            return
        self._stretch.token = token
        self._closed_stretches.append(self._stretch)
        self._stretch = _Stretch(self)

    def acknowledged(self, timeout_s: float = 0.0) -> Hashable | None:
        """The newest token whose every earlier record is durable, or None if no new one is.

        Waits up to `timeout_s` for the first one, but not when there is no token to wait for. RecordTooLarge
        or LogError when a delivery failed for good: this appender is then spent.
        """
        deadline = time.monotonic() + timeout_s
        self._serve(0)
        while self._closed_stretches:
            if not self._closed_stretches[0].outstanding:
                return self._newest_durable()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._serve(left)
        return None

    def flush(self, timeout_s: float) -> None:
        """Waits until every record is durable. Unavailable after `timeout_s`: the records are tried on."""
        self._raise_failure()
        deadline = time.monotonic() + timeout_s
        self._hand_over(timeout_s)
        self._settle(deadline - time.monotonic())
        if len(self._producer):
            raise self._health.refusal() or Unavailable("Kafka has not acknowledged every record yet: it is tried on")

    def ends(self) -> dict[Partition, int]:
        """Per partition written by this appender, the end (last durable offset + 1)."""
        return {
            Partition(topic, number): offset + 1
            for topic, offsets in self.offsets.items()
            for number, offset in offsets.items()
        }

    def close(self) -> None:
        """Waits up to 5 s for what is outstanding, then gives up what was not acknowledged. Never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failure is None:
                self._hand_over(CLOSE_WITHIN_S)
                self._settle(CLOSE_WITHIN_S)
        except HeadgateError as error:
            _log.warning("an appender was closed after a failure: %s", error)
        if len(self._producer):
            _log.warning("an appender was closed with records that Kafka has not acknowledged")
            self._producer.purge()
        self._failure = LogError("this appender is closed: open another")

    # --- what comes back -------------------------------------------------------------------------

    def failed(self, error: KafkaError, topic: str) -> None:
        """A delivery failed for good. The first such word counts."""
        self._failure = self._failure or _verdict(error, topic)

    def _newest_durable(self) -> Hashable:
        token: Hashable = None
        while self._closed_stretches and not self._closed_stretches[0].outstanding:
            token = self._closed_stretches.popleft().token
        self._health.well()
        return token

    def _settle(self, timeout_s: float) -> None:
        """Waits until nothing is outstanding, or `timeout_s` are over."""
        # Not `flush`: it goes on calling back when one of the callbacks has raised.
        deadline = time.monotonic() + timeout_s
        while len(self._producer) and (left := deadline - time.monotonic()) > 0:
            self._serve(left)

    def _serve(self, timeout_s: float) -> None:
        try:
            self._producer.poll(timeout_s)
        except KafkaException as exception:  # the producer is spent; the record that did it is reported next
            with suppress(KafkaException):
                self._producer.poll(_REPORT_WITHIN_S)
            self._failure = self._failure or explain(error_of(exception), "take a record")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- what is not taken -----------------------------------------------------------------------

    def _wait_for_room(self, deadline: float, full: BufferError | None) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._health.refusal() or Unavailable(
                "the buffer for Kafka is full and nothing is acknowledged: look whether its brokers run"
            ) from full
        self._serve(min(left, 0.1))

    def _refused(self, topic: str, record: Record, exception: KafkaException) -> HeadgateError:
        self._serve(0)  # when the appender is spent, why matters more than that it takes no more
        error = explain(error_of(exception), f"write a record to the topic {topic}")
        if isinstance(error, RecordTooLarge):
            size = len(record.key or b"") + len(record.value or b"")
            error.details.update(topic=topic, bytes=size)
        return error


def _verdict(error: KafkaError, topic: str) -> HeadgateError:
    """Why a delivery failed for good."""
    verdict = explain(error, f"write a record to the topic {topic}")
    if not isinstance(verdict, LogError):
        verdict = LogError(f"Kafka could not write a record to the topic {topic} (error {error.name()}): is it there?")
    verdict.details["topic"] = topic
    return verdict
