"""The way of a change, first half: reads a source and writes the log.

A source's changes become Debezium envelopes, one topic a table, keyed by primary key. What the log has
acknowledged is confirmed to the source, and never anything sooner. Each second a heartbeat says up to
where the log is whole.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from headgate.errors import HeadgateError, SourceBusy, Unavailable
from headgate.failpoints import reach
from headgate.flow.desired import Wishes
from headgate.flow.heartbeat import control_topic
from headgate.flow.lookout import Lookout
from headgate.flow.retry import Backoff
from headgate.flow.status import Reporter
from headgate.flow.stops import Stops
from headgate.flow.writing import LogWriting
from headgate.log.base import Log
from headgate.sources.base import Batch, Capture, Source
from headgate.state.base import State
from headgate.telemetry import Clock, is_due, logger

_log = logger("flow.capture")
_LOOK_UP_EVERY_S = 0.1  # how long a quiet source may keep us from acknowledgements and heartbeats
_DRAIN_S = 10.0
_ASK_EVERY_MS = 1_000
_LOOK_AT_TOPICS_EVERY_S = 3.0
_SILENT_LOG_MS = 5_000


@dataclass(frozen=True)
class Capturing:
    """What capture of one pipeline works with."""

    pipeline: str
    connector: str
    source: Source
    log: Log
    state: State
    partitions: int
    retention_ms: int
    reporter: Reporter
    clock: Clock
    jitter: random.Random


def run_capture(rooms: Capturing, stop: threading.Event) -> None:
    """Captures until `stop`. A fault is reported and tried again; a source held elsewhere is waited for.

    A pipeline that is to be paused lets its source go: the lock is free, and what was not confirmed comes again.
    The source keeps what changes meanwhile (a slot its WAL, triggers their table), for as long as that takes.
    """
    wishes = Wishes(rooms.state, rooms.pipeline)
    with rooms.reporter.reminding(), wishes.looking():
        _capture_until(rooms, wishes, stop)
    rooms.reporter.withdraw()


def _capture_until(rooms: Capturing, wishes: Wishes, stop: threading.Event) -> None:
    backoff = Backoff(rooms.jitter)
    while not stop.is_set():
        wishes.stand_by(rooms.reporter, stop)
        if stop.is_set():
            break
        ending = wishes.run(stop)
        try:
            _capture_once(rooms, ending, backoff)
        except SourceBusy as error:
            _log.info("%s: standing by: %s", rooms.pipeline, error.message)
            rooms.reporter.withdraw()
        except HeadgateError as error:
            _log.warning("%s: capture stands still: %s", rooms.pipeline, error.message)
            _log.debug("%s: what was below it", rooms.pipeline, exc_info=error)
            rooms.reporter.fault(error)
        except Exception as error:
            _log.exception("%s: capture failed", rooms.pipeline)
            rooms.reporter.fault(HeadgateError(f"Capture failed unexpectedly ({type(error).__name__}): see its log."))
        backoff.wait(ending)


def _capture_once(rooms: Capturing, stop: threading.Event, backoff: Backoff) -> None:
    """One run, from taking the source's lock to letting it go."""
    stops = Stops(rooms.state, rooms.pipeline)
    rooms.log.ensure([control_topic(rooms.pipeline)])
    writing = LogWriting(
        rooms.pipeline, rooms.connector, rooms.log, rooms.state, stops, rooms.partitions, rooms.retention_ms
    )
    try:
        writing.learn(rooms.source.tables())
        reach("capture.learned")
        wanted = stops.wanted(writing.layouts)
        capture = rooms.source.capture(resnapshot=wanted, now_ms=rooms.clock)
        try:
            _pump(rooms, capture, writing, stops, stop, backoff)
        finally:
            capture.close()
    finally:
        writing.close()


def _pump(
    rooms: Capturing, capture: Capture, writing: LogWriting, stops: Stops, stop: threading.Event, backoff: Backoff
) -> None:
    """Until `stop`, or until a table is to be read again, for which the run starts anew."""
    covered_ms: int | None = None
    with closing(_Causes(rooms.pipeline, writing, stops, rooms.clock())) as causes:
        for batch in _until(capture.batches(_LOOK_UP_EVERY_S), stop):
            covered_ms = batch.head.time_ms if batch.head else covered_ms
            reach("capture.read")
            writing.write(batch, rooms.clock())
            reach("capture.appended")
            _confirm(capture, writing, rooms.clock())
            writing.beat(rooms.clock())
            writing.remind(rooms.clock())
            rooms.reporter.note(tables=stops.faults())
            _report(rooms, batch, writing, covered_ms)
            backoff.reset()
            if causes.is_due(rooms.clock()) and causes.are_there(in_snapshot=bool(batch.snapshot_done)):
                break
    writing.flush(_DRAIN_S)
    _confirm(capture, writing, rooms.clock())


class _Causes:
    """What makes a run start anew: someone wants a table read again, or a topic has changed under its table.

    Both are asked from threads of their own.
    """

    def __init__(self, pipeline: str, writing: LogWriting, stops: Stops, now_ms: int) -> None:
        self._writing = writing
        self._stops = stops
        self._requests = Lookout(stops.has_requests, _ASK_EVERY_MS / 1000, f"lookout-{pipeline}")
        self._topics = Lookout(writing.is_outdated, _LOOK_AT_TOPICS_EVERY_S, f"topics-{pipeline}")
        self._asked_ms = now_ms

    def is_due(self, now_ms: int) -> bool:
        """Whether a second has passed since it last was."""
        if not is_due(now_ms, self._asked_ms, _ASK_EVERY_MS):
            return False
        self._asked_ms = now_ms
        return True

    def are_there(self, *, in_snapshot: bool) -> bool:
        """A request waits for the end of a snapshot; one whose topic has changed is of no use."""
        if self._topics.take():
            return True
        return not in_snapshot and bool(self._requests.take()) and bool(self._stops.asked(self._writing.layouts))

    def close(self) -> None:
        """Ends the threads. Never raises."""
        self._requests.close()
        self._topics.close()


def _confirm(capture: Capture, writing: LogWriting, now_ms: int) -> None:
    """What the log holds, the source may forget."""
    token = writing.acknowledged(now_ms)
    if token is not None:
        reach("capture.acknowledged")
        capture.confirm(token)
        reach("capture.confirmed")


def _report(rooms: Capturing, batch: Batch, writing: LogWriting, covered_ms: int | None) -> None:
    """`covered_ms` is the time of the newest head: a source that falls silent falls behind."""
    reporter = rooms.reporter
    reporter.meter.add(*writing.take_written())
    if batch.changes:
        reporter.note(last_event_ms=batch.changes[-1].time_ms, batch_size=len(batch.changes))
    if covered_ms is not None:
        reporter.note(lag_ms=max(0, rooms.clock() - covered_ms))
    reporter.note(snapshot_done=batch.snapshot_done, snapshot_total=batch.snapshot_total)
    if writing.silent_ms(rooms.clock()) > _SILENT_LOG_MS:
        reporter.fault(Unavailable("The log acknowledges nothing: see whether it runs and can be reached."))
    else:
        reporter.state("snapshotting" if batch.snapshot_done else "running")
    reporter.tick()


def _until(batches: Iterator[Batch], stop: threading.Event) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        if stop.is_set():
            return
