"""Heartbeats: how a quiet source is told from a silent pipeline (DESIGN §6).

Each second capture writes one record to the pipeline's control topic: the source's head, its time, and
per partition the end that the log has acknowledged once every change up to that head was. A partition
whose position has reached that end is as fresh as that time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from headgate.errors import LogTruncated, Undecodable
from headgate.log.base import Log, Record, Topic
from headgate.model.change import Sequence as SourceSequence
from headgate.model.position import Partition
from headgate.model.table import heartbeat_topic
from headgate.telemetry import logger

KEY = b"heartbeat"
_AT_ONCE = 5_000
_log = logger("flow.heartbeat")
_KEEP = 900  # a quarter of an hour: a lane further behind learns its freshness when it has caught up


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The source held nothing newer than `ends` at `time_ms`, by the source's clock."""

    head: SourceSequence
    time_ms: int
    ends: dict[str, dict[int, int]]
    logs: dict[str, str] = {}
    """Topic → its identity: a recreated topic's ends say nothing of positions in the old one."""


_decode = msgspec.json.Decoder(Heartbeat).decode


def control_topic(pipeline: str) -> Topic:
    """The pipeline's control topic. Only its newest heartbeats matter."""
    return Topic(name=heartbeat_topic(pipeline), partitions=1, retention_ms=3_600_000)


def encode_heartbeat(
    head: SourceSequence, time_ms: int, ends: Mapping[Partition, int], logs: Mapping[str, str]
) -> Record:
    """A heartbeat as a record."""
    beat = Heartbeat(head=head, time_ms=time_ms, ends=nested(ends), logs=dict(logs))
    return Record(KEY, msgspec.json.encode(beat))


def nested(ends: Mapping[Partition, int]) -> dict[str, dict[int, int]]:
    """Ends of partitions by topic and number."""
    found: dict[str, dict[int, int]] = {}
    for partition, end in ends.items():
        found.setdefault(partition.topic, {})[partition.number] = end
    return found


def decode_heartbeat(value: bytes | None) -> Heartbeat:
    """The heartbeat in a record. Undecodable for anything else."""
    try:
        return _decode(value or b"")
    except msgspec.DecodeError as error:
        raise Undecodable("A record of the heartbeats' topic is no heartbeat: see what else writes to it.") from error


class Beats(Protocol):
    """Where heartbeats come from."""

    def take(self) -> Sequence[Heartbeat]:
        """What has come since the last time, in its order. Does not wait."""

    def close(self) -> None:
        """Lets go. Never raises."""


class ControlTopic:
    """The heartbeats that our capture writes: from the newest one on; every process reads all of them."""

    def __init__(self, log: Log, pipeline: str) -> None:
        self._pipeline = pipeline
        self._log = log
        ends = log.end([heartbeat_topic(pipeline)])
        self._reader = log.read({partition: max(0, end - 1) for partition, end in ends.items()})

    def take(self) -> Sequence[Heartbeat]:
        """See `Beats`."""
        found = []
        try:
            records = self._reader.poll(_AT_ONCE, 0.0)
        except LogTruncated:  # the newest one is older than the topic keeps any: no row is lost by that
            self._reader.seek(self._log.end([heartbeat_topic(self._pipeline)]))
            return []
        for record in records:
            try:
                found.append(decode_heartbeat(record.value))
            except Undecodable as error:
                _log.warning("%s: %s", self._pipeline, error.message)
        return found

    def close(self) -> None:
        """See `Beats`."""
        self._reader.close()


class Heartbeats:
    """The newest heartbeats of a pipeline, and what they make of a position."""

    def __init__(self) -> None:
        self._beats: deque[Heartbeat] = deque(maxlen=_KEEP)

    def add(self, beat: Heartbeat) -> None:
        """Takes a heartbeat, in the order of the log."""
        self._beats.append(beat)

    def is_another(self, topic: str, log: str, partitions: int) -> bool:
        """Whether the newest heartbeat knows this topic by another identity, or with more partitions than so many."""
        if not self._beats:
            return False
        newest = self._beats[-1]
        return newest.logs.get(topic, log) != log or len(newest.ends.get(topic, {})) > partitions

    def as_of_ms(self, partition: Partition, offset: int, log: str, partitions: int, known_ms: int) -> int:
        """The time of the newest heartbeat whose end this offset of this log has reached, or what was known.

        A heartbeat counts for readers of all the partitions that its topic had, and for nobody else: in one that they
        do not read, their keys may have changed.
        """
        for beat in reversed(self._beats):
            if beat.time_ms <= known_ms:
                break
            ends = beat.ends.get(partition.topic, {})
            end = ends.get(partition.number) if len(ends) == partitions else None
            if end is not None and offset >= end and beat.logs.get(partition.topic) == log:
                return beat.time_ms
        return known_ms
