"""What this process says of its half of a pipeline: a report each second that vanishes when it dies.

It lives as long as the process, however long one step of the half takes: a thread of its own repeats what was last
said, and the time to live is worth several repetitions that come late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from headgate.errors import HeadgateError
from headgate.model.pipeline import REPORT_TTL_MS, Fault, Half, PipelineState, Report, report_key
from headgate.state.base import State
from headgate.telemetry import Clock, is_due, logger

_log = logger("flow")
_EVERY_MS = 1_000
_REPEAT_MS = 3_000
"""A half that says nothing for so long is held up by one step, or its machine by others: it is spoken for."""


class Meter:
    """Events and bytes per second over the last report's interval. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events = 0
        self._bytes = 0

    def add(self, events: int, size: int) -> None:
        """Counts what has just passed."""
        with self._lock:
            self._events += events
            self._bytes += size

    def take(self, interval_ms: int) -> tuple[float, float]:
        """Events/s and bytes/s since the last take, and starts anew."""
        with self._lock:
            events, size = self._events, self._bytes
            self._events = self._bytes = 0
        seconds = max(interval_ms, 1) / 1000
        return round(events / seconds, 1), round(size / seconds, 1)


class Reporter:
    """Publishes one half's reports into `state`. One thread uses it, but for `latest` and `remind`."""

    def __init__(self, state: State, pipeline: str, half: Half, process: str, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self.meter = Meter()
        self._report = Report(pipeline=pipeline, half=half, process=process, state="stopped", time_ms=clock())
        self._published_ms = 0
        self._lock = threading.Lock()
        self._publishing = threading.RLock()
        self._woken = threading.Event()
        self._is_ticked = False
        self._is_told = False
        self._has_thread = False

    @property
    def latest(self) -> Report:
        """The newest report of this process."""
        with self._lock:
            return self._report

    def state(self, state: PipelineState) -> None:
        """Enters a state; one without a fault clears the fault. Published at once when it is another."""
        if state != self._report.state or self._report.fault is not None:
            self._replace(state=state, fault=None)
            self.publish()

    def fault(self, error: HeadgateError) -> None:
        """Says why this half stands still. Published at once when it is another reason than before."""
        known = self._report.fault
        is_known = known is not None and (known.code, known.message) == (error.code, error.message)
        since = known.since_ms if known and known.code == error.code else self._clock()
        self._replace(state="error", fault=Fault(code=error.code, message=error.message, since_ms=since))
        if is_known:
            self.tick()
        else:
            self.publish()

    def note(self, **values: object) -> None:
        """Sets fields of the next report."""
        self._replace(**values)

    @contextmanager
    def reminding(self, lag_records: Callable[[], int | None] | None = None) -> Iterator[None]:
        """Publishes the half's ticks from a thread of its own, so that the half never waits for the state.

        That thread also repeats what the half itself is too busy to say, and a fault each second: the half may be held
        up by what is wrong. `lag_records` is asked, from another thread as it may wait for a server, while the half
        stands still.
        """
        ended = threading.Event()

        def publish() -> None:
            while not ended.is_set():
                self._woken.wait(_EVERY_MS / 1000)
                self._woken.clear()
                self._publish_ticked()
                self.remind()

        def measure() -> None:
            while not ended.wait(_EVERY_MS / 1000):
                if lag_records is not None and self._stands_still and (lag := lag_records()) is not None:
                    self.note(lag_records=lag)

        acts = [publish] if lag_records is None else [publish, measure]
        name = f"remind-{self._report.pipeline}"
        threads = [threading.Thread(target=act, name=name, daemon=True) for act in acts]
        self._has_thread = True
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._has_thread = False
            ended.set()
            self._woken.set()
            for thread in threads:
                thread.join()

    @property
    def _stands_still(self) -> bool:
        return self._report.fault is not None or self._report.state == "paused"

    def remind(self) -> None:
        """Repeats what was last said, unless it was withdrawn: a fault after a second, else after three.

        The lag of a half that says nothing itself grows with the time.
        """
        with self._publishing:
            every_ms = _EVERY_MS if self._report.fault is not None else _REPEAT_MS
            if self._is_told and is_due(self._clock(), self._published_ms, every_ms):
                self._grow_lag()
                self._publish()

    def tick(self) -> None:
        """Publishes when a second has passed since the last time. While `reminding` it only has that done."""
        if not self._is_due():
            return
        if self._has_thread:
            self._is_ticked = True
            self._woken.set()
        else:
            self.publish()

    def _is_due(self) -> bool:
        return is_due(self._clock(), self._published_ms, _EVERY_MS)

    def _publish_ticked(self) -> None:
        with self._publishing:  # whoever withdraws takes the tick back
            is_ticked, self._is_ticked = self._is_ticked, False
            if is_ticked and self._is_due():
                self.publish()

    def publish(self) -> None:
        """Publishes now. A state that does not answer is noted and passed over: reports never stop the flow."""
        with self._publishing:
            if self._stands_still:
                self._grow_lag()
            self._publish()

    def _grow_lag(self) -> None:
        if self._report.lag_ms is not None:
            self._replace(lag_ms=self._report.lag_ms + max(0, self._clock() - self._report.time_ms))

    def _publish(self) -> None:
        now = self._clock()
        self._is_told = True
        events, size = self.meter.take(now - self._published_ms)
        self._published_ms = now
        self._replace(time_ms=now, events_per_s=events, bytes_per_s=size)
        report = self.latest
        try:
            self._state.put(report_key(report), msgspec.json.encode(report), ttl_ms=REPORT_TTL_MS)
        except HeadgateError as error:
            _log.warning("a report could not be published: %s", error.message)

    def withdraw(self) -> None:
        """Takes the report back when the half ends as it should, or is another process's."""
        with self._publishing:
            self._is_ticked = self._is_told = False
            self._replace(state="stopped", fault=None)
            try:
                self._state.delete(report_key(self._report))
            except HeadgateError:
                pass  # its time to live ends it

    def _replace(self, **values: object) -> None:
        with self._lock:
            self._report = msgspec.structs.replace(self._report, **values)
