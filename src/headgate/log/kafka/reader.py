"""Reads partitions of Kafka, as one of a group or alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headgate.connections.kafka import Config, error_of, explain, is_passing
from headgate.errors import LogTruncated
from headgate.log.base import NO_GROUP, Headers, Logged, OnAssign, OnRevoke, Slice
from headgate.log.kafka.health import Health, made
from headgate.model.position import Partition, Position
from headgate.telemetry import logger

_TRUNCATED = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION})
_COMMIT_EVERY_S = 0.1
_CONSUME_MOST = 1_000_000
"""librdkafka's own limit."""
_log = logger("log")


def _settings(config: Config, group: str) -> dict[str, Any]:
    return {
        **config.librdkafka(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        # The default leaves a partition idle for a second whenever the local queue was full.
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 50,
        # Both bound memory: what a fetch brings counts only once it is there, unpacked, from every partition.
        "queued.max.messages.kbytes": 8_192,
        "fetch.message.max.bytes": 524_288,
        # A broker holds a fetch for so long when there is nothing; a partition that is new must wait for it.
        "fetch.wait.max.ms": 50,
        "fetch.max.bytes": max(52_428_800, 2 * config.message_max_bytes),
        **_membership(config, group),
    }


def _membership(config: Config, group: str) -> dict[str, Any]:
    if group == NO_GROUP:
        return {}
    if config.group_protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {
        "partition.assignment.strategy": "cooperative-sticky",
        # A member that was killed is missed after ten seconds, not after 45.
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
    }


class _Cursor:
    """One partition that is this reader's, and how far it was read."""

    __slots__ = ("next_offset", "partition")

    def __init__(self, partition: Partition, next_offset: int | None) -> None:
        self.partition = partition
        self.next_offset = next_offset
        """None is the beginning, wherever that is."""

    def place(self) -> TopicPartition:
        """Where to read on, as librdkafka wants it."""
        offset = OFFSET_BEGINNING if self.next_offset is None else self.next_offset
        return TopicPartition(*self.partition, offset)


class KafkaReader:
    """The `Reader` on Kafka. While the cluster is away `poll` returns nothing, and goes on when it is back.

    What a rebalance callback raises comes out of the `poll` that called it, and of each one after.
    """

    def __init__(
        self, config: Config, group: str, on_assign: OnAssign, on_revoke: OnRevoke, *, tell_ends: bool
    ) -> None:
        self._grouped = group != NO_GROUP
        self._on_assign = on_assign
        self._on_revoke = on_revoke
        self._health = Health("a reader")
        self._cursors: dict[str, dict[int, _Cursor]] = {}
        self._given_up: set[Partition] = set()
        self._truncated: set[Partition] = set()
        self._failure: BaseException | None = None
        self._closed = False
        self._uncommitted: dict[Partition, int] = {}
        self._committed_s = 0.0
        ends = {"enable.partition.eof": tell_ends}
        self._consumer = made(Consumer, {**_settings(config, group), **ends, **self._health.settings()})

    @classmethod
    def follow(
        cls,
        config: Config,
        topics: Sequence[str],
        group: str,
        on_assign: OnAssign,
        on_revoke: OnRevoke,
        *,
        tell_ends: bool = False,
    ) -> KafkaReader:
        """A member of a group; `poll` calls the callbacks as partitions come and go."""
        reader = cls(config, group, on_assign, on_revoke, tell_ends=tell_ends)
        reader._consumer.subscribe(list(topics), on_assign=reader._assigned, on_revoke=reader._revoked)
        return reader

    @classmethod
    def read(cls, config: Config, start: Mapping[Partition, int | None], *, tell_ends: bool = False) -> KafkaReader:
        """A reader of exactly these partitions."""
        reader = cls(config, NO_GROUP, lambda _: {}, lambda _: None, tell_ends=tell_ends)
        reader._consumer.assign([])
        reader._begin(start)
        return reader

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Logged]:
        """Up to `max_records` records; empty when none came within `timeout_s`.

        Those of partitions that went to another reader meanwhile are left out. LogTruncated as long as a
        position is not held (`seek` mends it); Unavailable when the cluster refuses this connection;
        LogError when it does not allow to read.
        """
        found = self.poll_slices(max_records, timeout_s)
        return [mine.record(place) for mine in found for place in range(len(mine))]

    def poll_slices(self, max_records: int, timeout_s: float) -> Sequence[Slice]:
        """As `poll`, with one slice for each partition."""
        self._raise_failure()
        self._commit_if_due()
        found = self._take(self._fetch(max_records, timeout_s))
        if not found:
            self._raise_failure()
        return found

    def assigned(self) -> frozenset[Partition]:
        """The partitions that are this reader's now."""
        return frozenset(cursor.partition for cursor in self._all())

    def seek(self, position: Position) -> None:
        """Goes on from these offsets; partitions that are not assigned are passed over."""
        wanted = {partition: position[partition] for partition in self.assigned() if partition in position}
        if wanted:
            # librdkafka's own seek refuses a partition that it does not fetch at the moment.
            self._consumer.incremental_unassign([TopicPartition(*partition) for partition in wanted])
            self._begin(wanted)

    def commit(self, position: Position) -> None:
        """Notes the group's offsets in Kafka, in the background; failing is no matter. Outside a group, nothing.

        Ten times a second is enough for a hint: a commit costs the broker about what a small batch does.
        """
        if self._grouped:
            self._uncommitted.update(position)
            self._commit_if_due()

    def _commit_if_due(self) -> None:
        now = time.monotonic()
        if self._uncommitted and now - self._committed_s >= _COMMIT_EVERY_S:
            self._committed_s = now
            self._commit_now()

    def _commit_now(self) -> None:
        mine = self.assigned()
        places = [TopicPartition(*place, offset) for place, offset in self._uncommitted.items() if place in mine]
        self._uncommitted.clear()
        if not places:
            return
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException:
            _log.debug("a group's offsets were not committed", exc_info=True)

    def reached(self) -> Mapping[Partition, int]:
        """Per assigned partition that was read from, the next offset to read."""
        return {cursor.partition: cursor.next_offset for cursor in self._all() if cursor.next_offset is not None}

    def lag(self) -> Mapping[Partition, int]:
        """Per assigned partition, how many offsets lie ahead by the last answer that brought records."""
        found = {cursor.partition: self._lag(cursor) for cursor in self._all()}
        return {partition: lag for partition, lag in found.items() if lag is not None}

    def close(self) -> None:
        """Gives up its partitions (`on_revoke` is told) and leaves the group. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._commit_now()
        try:
            self._consumer.close()
        except (KafkaException, RuntimeError):
            _log.warning("a reader did not leave its group in order", exc_info=True)

    # --- records ---------------------------------------------------------------------------------

    def _fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        self._given_up.clear()
        try:
            first = self._consumer.poll(timeout_s)
            if first is None:
                return []
            # `consume` waits its whole timeout for the whole number: the waiting is done by `poll`.
            return [first, *self._consumer.consume(min(max_records, _CONSUME_MOST) - 1, 0)]
        except KafkaException as exception:
            raise explain(error_of(exception), "read the log") from exception

    def _take(self, messages: list[Message]) -> list[Slice]:
        ends: list[Message] = []
        if any(map(Message.error, messages)):
            ends = [message for message in messages if _is_end(message)]
            messages = [message for message in messages if not self._is_error(message)]
        found: list[Slice] = []
        for partition, mine in self._by_partition(messages).items():
            cursor = self._cursors.get(partition.topic, {}).get(partition.number)
            if cursor is None or partition in self._given_up:
                continue  # it was given up between `poll` and `consume`
            found.append(_slice(partition, mine))
            cursor.next_offset = found[-1].offsets[-1] + 1
        for end in ends:
            self._note_end(end)
        if self._given_up:
            self._read_again()
        return found

    def _note_end(self, message: Message) -> None:
        """Up to there no record is left, though offsets may be: what ends a transaction has one too."""
        place: Any = (message.topic(), message.partition(), message.offset())
        cursor = self._cursors.get(place[0], {}).get(place[1])
        if cursor is not None and cursor.partition not in self._given_up:
            cursor.next_offset = max(cursor.next_offset or 0, place[2])

    def _by_partition(self, messages: list[Message]) -> dict[Partition, list[Message]]:
        cursors = self._all()
        if messages and len(cursors) == 1 and not self._given_up:
            return {cursors[0].partition: messages}
        found: dict[tuple[Any, Any], list[Message]] = {}
        places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
        for place, message in zip(places, messages, strict=True):
            found.setdefault(place, []).append(message)
        return {Partition(*place): mine for place, mine in found.items()}

    def _is_error(self, message: Message) -> bool:
        error = message.error()
        if error is not None and not _is_end(message):
            self._hear(error, message)
        return error is not None

    def _read_again(self) -> None:
        """Partitions that went and came back within one `poll`: which of its records were theirs, nobody knows."""
        back = [cursor for cursor in self._all() if cursor.partition in self._given_up]
        self.seek({cursor.partition: cursor.next_offset for cursor in back if cursor.next_offset is not None})

    # --- which partitions ------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        fresh = frozenset(Partition(place.topic, place.partition) for place in places)
        try:
            start = self._on_assign(fresh)
        except BaseException as error:  # comes out of `poll`: librdkafka's thread of calls must not see it
            self._failure = error
            consumer.incremental_assign([])
            return
        self._begin({partition: start.get(partition) for partition in fresh})

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._commit_now()
        gone = self.assigned() & {Partition(place.topic, place.partition) for place in places}
        try:
            if gone:
                self._on_revoke(gone)
        except BaseException as error:  # as above
            self._failure = error
        for partition in gone:
            del self._cursors[partition.topic][partition.number]
        self._truncated -= gone
        self._given_up |= gone
        consumer.incremental_unassign([TopicPartition(*partition) for partition in gone])

    def _begin(self, start: Mapping[Partition, int | None]) -> None:
        cursors = [_Cursor(partition, offset) for partition, offset in start.items()]
        self._consumer.incremental_assign([cursor.place() for cursor in cursors])
        for cursor in cursors:
            self._cursors.setdefault(cursor.partition.topic, {})[cursor.partition.number] = cursor
        self._truncated -= set(start)

    def _all(self) -> list[_Cursor]:
        return [cursor for of_topic in self._cursors.values() for cursor in of_topic.values()]

    def _lag(self, cursor: _Cursor) -> int | None:
        low, high = self._consumer.get_watermark_offsets(cursor.place(), cached=True)
        ahead_of = low if cursor.next_offset is None else cursor.next_offset
        return None if min(high, ahead_of) < 0 else max(0, high - ahead_of)

    # --- what goes wrong -------------------------------------------------------------------------

    def _hear(self, error: KafkaError, message: Message) -> None:
        topic, number = message.topic(), message.partition()
        if error.code() in _TRUNCATED and topic is not None and number is not None:
            self._truncated.add(Partition(topic, number))
        elif is_passing(error):
            _log.debug("reading goes on after %s", error.name())
        else:
            self._failure = explain(error, f"read the topic {topic}" if topic else "read the log")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._truncated:
            raise LogTruncated("Kafka no longer holds this position: the store must be rebuilt")
        refusal = self._health.refusal()
        if refusal is not None:
            raise refusal


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _offsets(messages: list[Message]) -> Sequence[int]:
    """They grow: where none is left out, the first and the last say all."""
    first: Any = messages[0].offset()
    last: Any = messages[-1].offset()
    if last - first + 1 == len(messages):
        return range(first, last + 1)
    offsets: list[Any] = list(map(Message.offset, messages))
    return offsets


def _slice(partition: Partition, messages: list[Message]) -> Slice:
    offsets = _offsets(messages)
    keys: list[Any] = list(map(Message.key, messages))
    values: list[Any] = list(map(Message.value, messages))

    def whole(place: int) -> Logged:
        message = messages[place]
        headers = _headers(message)
        return Logged(partition, offsets[place], message.timestamp()[1], keys[place], values[place], headers)

    return Slice(partition, offsets, keys, values, whole)


def _headers(message: Message) -> Headers:
    headers: Any = message.headers()
    return tuple((name, value or b"") for name, value in headers) if headers else ()
