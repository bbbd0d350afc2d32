"""How topics that others fill are looked at beside their records: samples of them, and beats of their freshness."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headgate.errors import HeadgateError, LogTruncated
from headgate.flow.heartbeat import Heartbeat, nested
from headgate.log.base import Log, Reader
from headgate.model.change import Sequence as SourceSequence
from headgate.model.position import Partition
from headgate.sources.base import Pulse, Sample
from headgate.telemetry import Clock, logger

_log = logger("flow.feeding")
_SAMPLED: Final = 20
"""Records of each partition, at most."""
_SAMPLE_WITHIN_S: Final = 2.0
_EVERY_S: Final = 1.0
_POLL_S: Final = 0.2
_BEATS: Final = 1_000
_NO_ORDER: Final = SourceSequence(0, 0)


def sampler(log: Log) -> Callable[[str], Sequence[Sample]]:
    """Some of the newest records of a topic, by their times; none when it is empty, or not there."""

    def sample(topic: str) -> Sequence[Sample]:
        if topic not in log.partitions([topic]):
            return []
        ends = {place: end for place, end in log.end([topic]).items() if end > 0}
        try:
            return _sample(log, {place: max(0, end - _SAMPLED) for place, end in ends.items()}, ends)
        except LogTruncated:  # it has forgotten that much
            return _sample(log, dict.fromkeys(ends), ends)

    return sample


def _sample(log: Log, start: Mapping[Partition, int | None], ends: Mapping[Partition, int]) -> list[Sample]:
    if not start:
        return []
    reader = log.read(start, tell_ends=True)
    found: list[Sample] = []
    deadline = time.monotonic() + _SAMPLE_WITHIN_S
    try:
        while time.monotonic() < deadline and any(reader.reached().get(place, 0) < end for place, end in ends.items()):
            found += [Sample(each.time_ms, each.key, each.value) for each in reader.poll(_BEATS, _POLL_S)]
    finally:
        reader.close()
    return sorted(found, key=lambda each: each.time_ms)


class FeedBeats:
    """The beats of topics that others fill, and what these topics are, looked at from a thread of its own.

    A beat counts for the ends that the partitions had once it had been read: what was written before it is there.
    """

    def __init__(self, log: Log, topics: Sequence[str], pulse: Pulse | None, clock: Clock, name: str) -> None:
        self._log = log
        self._topics = list(topics)
        self._pulse = pulse
        self._clock = clock
        self._found: deque[Heartbeat] = deque(maxlen=_BEATS)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"beats-{name}", daemon=True)
        self._thread.start()

    def take(self) -> Sequence[Heartbeat]:
        """What has come since the last time."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def close(self) -> None:
        """Ends the thread. Never raises."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._look()
            except HeadgateError as error:
                _log.debug("beats stand still: %s", error.message)
            except Exception:
                _log.exception("beats failed")
            self._closed.wait(_EVERY_S)

    def _look(self) -> None:
        if self._pulse is None or self._pulse.topic is None:
            while not self._closed.is_set():
                self._note(self._clock() if self._pulse is not None else 0)
                self._closed.wait(_EVERY_S)
            return
        newest = {place: max(0, end - 1) for place, end in self._log.end([self._pulse.topic]).items()}
        if not newest:  # the connector has not made its topic yet
            self._note(0)
            return
        reader = self._log.read(newest)
        try:
            while not self._closed.is_set():
                self._take_beats(reader, self._pulse)
        finally:
            reader.close()

    def _take_beats(self, reader: Reader, pulse: Pulse) -> None:
        try:
            records = reader.poll(_BEATS, _EVERY_S)
        except LogTruncated:
            assert pulse.topic is not None  # only such a pulse is polled
            reader.seek(self._log.end([pulse.topic]))
            return
        times = [found for each in records if (found := pulse.time_of(each.key, each.value)) is not None]
        self._note(max(times, default=0))

    def _note(self, time_ms: int) -> None:
        """Asked after the beat was read."""
        ends, logs = self._log.end(self._topics), self._log.identities(self._topics)
        self._found.append(Heartbeat(head=_NO_ORDER, time_ms=time_ms, ends=nested(ends), logs=logs))
