"""Carries call events from the outboxes of a folder to the log, so that a broker's outage loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from headgate.audit.chain import Linked
from headgate.audit.checkpoints import Witness
from headgate.audit.event import CONTENT_TYPE
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile, file_of, publishing_lock, writer_lock, writers
from headgate.audit.stub import stub_of
from headgate.errors import HeadgateError, OutboxError, RecordTooLarge, Unavailable
from headgate.log.base import Appender, Log, Record, Topic
from headgate.telemetry import Clock, logger

_DAY_MS = 24 * 3_600_000

CALLS_TOPIC = Topic(name="headgate.calls", partitions=1, retention_ms=30 * _DAY_MS)
"""Call events and aggregates of refusals, keyed by writer, so that a writer's are in one partition in order."""
WRITER_HEADER = "headgate-writer"
SEQ_HEADER = "headgate-seq"
"""Writer and number, in decimal digits, name an event: a consumer drops a pair that it has seen."""
PREVIOUS_HEADER = "headgate-previous"
LINK_HEADER = "headgate-link"
"""The links of the writer's chain before and at the event, in hex (see `audit.chain`)."""

_AT_ONCE = 2_000
_UNDER_WAY = 4
"""So many stretches of that size may wait for the log at once."""
_MARK_EVERY_S = 0.2
_PRUNES = 8
"""At a time, each a short transaction, so that the writer never waits long."""
_CROWDED = 0.8
"""So full, published events go before their time."""
_IDLE_S = 1.0
_GATHER_S = 0.05
_ACK_S = 0.2
_PRUNE_EVERY_MS = 60_000
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_log = logger("audit")


class _Sent(NamedTuple):
    writer: str
    seq: int


class Publisher:
    """One thread that publishes this process's outbox and, with `adopt`, all others in its folder.

    Others' are those of living processes that publish nothing themselves, and those of dead ones, which are
    removed once all is published. Each event is appended at least once, a writer's events in their order;
    it counts as published when the log has acknowledged it. Two publishers never publish one outbox at once.
    """

    def __init__(
        self,
        log: Log,
        folder: Path,
        *,
        clock: Clock,
        outbox: Outbox | None = None,
        adopt: bool = True,
        retention_ms: int = 7 * _DAY_MS,
        topic_retention_ms: int = CALLS_TOPIC.retention_ms,
        keep: int = 1_000_000,
        max_bytes: int = 0,
        witness: Witness | None = None,
    ) -> None:
        """`outbox` is this process's own, in the same folder.

        Its published events stay in the file for `retention_ms`, and no more than `keep` of them; less when it is
        nearly full, by its bound `max_bytes` (0 is none) or the disk's. `topic_retention_ms` is how long the log
        keeps them, where the topic is made by this; checkpoints of the `witness` that are older are dropped.
        """
        self.fault: HeadgateError | None = None
        """What holds publishing up now, if anything does."""
        self.withheld = 0
        """Of how many events this process has published the digest alone."""
        self._log = log
        self._folder = folder
        self._clock = clock
        self._own = outbox.writer if outbox else None
        self._wake = outbox.committed if outbox else threading.Event()
        self._adopt = adopt
        self._retention_ms = retention_ms
        self._topic = msgspec.structs.replace(CALLS_TOPIC, retention_ms=topic_retention_ms)
        self._keep = keep
        self._max_bytes = max_bytes
        self._witness = witness
        self._sent: dict[str, int] = {}
        """Up to where each writer's events are on the log, also where that could not be noted."""
        self._careful: dict[str, int] = {}
        """Up to where a writer's events go one by one, for the log refused one and did not name it."""
        self._pruned_ms: dict[str, int] = {}
        self._pause_s = _PAUSE_S
        self._others_due_s = 0.0
        self._stopping = threading.Event()
        self._deadline_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="headgate-publisher", daemon=True)

    def start(self) -> None:
        """Begins to publish. Returns at once: a log that does not answer is tried again until it does."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Publishes what is left, for at most about `timeout_s`, then ends. Never raises.

        Close the outbox first: then nothing comes after, and a file that is wholly published is removed.
        """
        self._deadline_s = time.monotonic() + timeout_s
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s + _IDLE_S)

    def hurry(self) -> None:
        """Lets `close` wait no longer: what is left is published by the next process of the folder."""
        self._deadline_s = time.monotonic()
        self._stopping.set()
        self._wake.set()

    def backlog(self) -> int:
        """How many events of this folder (of this process, without `adopt`) wait.

        May be called from any thread. OutboxError when a file can't be read.
        """
        return sum(self._backlog_of(writer) for writer in self._writers())

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over():
            try:
                if self._session():
                    return
            except HeadgateError as error:
                self._note(error)
            except Exception as error:  # a bug must not end publishing unseen
                _log.exception("publishing call events failed and goes on")
                self.fault = Unavailable("publishing failed within: look at the process's log")
                self.fault.__cause__ = error
            self._pause()

    def _session(self) -> bool:
        """Publishes by one appender until it is told to stop; answers True then. Raises when it is spent."""
        self._log.ensure([self._topic])
        with closing(self._log.appender()) as appender:
            while True:
                stopping = self._stopping.is_set()  # before the round, so that the last one sees all there is
                self._round(appender, last=stopping)
                if stopping:
                    return True
                self._wake.wait(_IDLE_S)
                self._stopping.wait(_GATHER_S)
                self._wake.clear()

    def _round(self, appender: Appender, *, last: bool) -> None:
        fault: OutboxError | None = None
        for writer in self._due(last=last):
            try:
                self._publish(writer, appender)
            except OutboxError as error:  # one broken file holds up no other
                fault = error
        self._pause_s = _PAUSE_S
        if fault is None:
            self.fault = None
        else:
            self._note(fault)

    def _due(self, *, last: bool) -> list[str]:
        """Our own outbox each time, the others once a second."""
        now_s = time.monotonic()
        if not last and now_s < self._others_due_s:
            return [self._own] if self._own else []
        self._others_due_s = now_s + _IDLE_S
        return self._writers()

    def _writers(self) -> list[str]:
        own = [self._own] if self._own else []
        others = [writer for writer in writers(self._folder) if writer != self._own] if self._adopt else []
        return own + others

    def _publish(self, writer: str, appender: Appender) -> None:
        """Everything that a writer has, unless another publisher is at it."""
        lock = publishing_lock(self._folder, writer)
        if lock is None:
            return
        try:
            if file_of(self._folder, writer).exists():
                with closing(OutboxFile(self._folder, writer, max_bytes=self._max_bytes)) as file:
                    self._publish_file(file, appender)
                    self._prune(file)
                    self._remove_if_dead(file)
        finally:
            lock.release(remove=not file_of(self._folder, writer).exists())

    def _publish_file(self, file: OutboxFile, appender: Appender) -> None:
        """All that there is, a few stretches under way at a time, so that neither disk nor log waits."""
        handed = settled = max(file.published(), self._sent.get(file.writer, 0))
        withheld = file.withheld()
        noted_s = time.monotonic()
        while True:
            is_careful = handed < self._careful.get(file.writer, 0)
            stretch = file.events(handed, 1 if is_careful else _AT_ONCE)
            if stretch:
                self._hand_over(file, stretch, withheld, appender)
                handed = stretch[-1].seq
            if handed == settled:
                break
            is_full = not stretch or is_careful or handed - settled >= _UNDER_WAY * _AT_ONCE
            settled = self._sent[file.writer] = self._acknowledged(file, settled, appender, wait=is_full)
            if time.monotonic() - noted_s >= _MARK_EVERY_S:
                file.mark_published(settled)
                noted_s = time.monotonic()
        if settled > file.published():
            file.mark_published(settled)

    def _hand_over(
        self, file: OutboxFile, stretch: Sequence[Linked], withheld: frozenset[int], appender: Appender
    ) -> None:
        for event in stretch:
            try:
                body = stub_of(file.writer, event) if event.seq in withheld else event.body
                appender.append(CALLS_TOPIC.name, record_of(file.writer, event, body))
            except RecordTooLarge:
                self._withhold(file, event)
                appender.append(CALLS_TOPIC.name, record_of(file.writer, event, stub_of(file.writer, event)))
        appender.checkpoint(_Sent(file.writer, stretch[-1].seq))

    def _acknowledged(self, file: OutboxFile, settled: int, appender: Appender, *, wait: bool) -> int:
        """Up to where the log has acknowledged this writer's events."""
        while True:
            try:
                token = appender.acknowledged(_ACK_S if wait else 0.0)
            except RecordTooLarge:
                self._note_too_large(file, settled)
                raise
            if isinstance(token, _Sent):
                self._sent[token.writer] = token.seq
                if token.writer == file.writer:
                    return token.seq
            elif not wait:
                return settled
            if self._is_over():
                raise Unavailable("call events are left for the next process: the log did not take them in time")

    def _note_too_large(self, file: OutboxFile, settled: int) -> None:
        """The brokers take less than the appender knew: events go one by one then, and so the large one is found."""
        if settled < self._careful.get(file.writer, 0):
            self._withhold(file, file.events(settled, 1)[0])
        else:
            self._careful[file.writer] = settled + _UNDER_WAY * _AT_ONCE + _AT_ONCE

    def _withhold(self, file: OutboxFile, event: Linked) -> None:
        file.withhold(event.seq)
        self.withheld += 1
        _log.error("event %s is too large for the log (%d bytes): its digest is published in its place, and it stays "
                   "in the outbox", event.id, len(event.body))  # fmt: skip

    def _prune(self, file: OutboxFile) -> None:
        now = self._clock()
        is_crowded = file.room().fill >= _CROWDED
        if not is_crowded and 0 <= now - self._pruned_ms.get(file.writer, -_PRUNE_EVERY_MS) < _PRUNE_EVERY_MS:
            return
        before_ms, keep = (now, 0) if is_crowded else (now - self._retention_ms, self._keep)
        if any(file.prune(before_ms=before_ms, keep=keep) == 0 for _ in range(_PRUNES)):
            self._pruned_ms[file.writer] = now
            if self._witness is not None:
                self._witness.forget(now - self._topic.retention_ms)

    def _remove_if_dead(self, file: OutboxFile) -> None:
        lock = writer_lock(self._folder, file.writer)
        if lock is None:
            return
        drained = False
        try:
            # It may have written between our last look and its end. What was withheld has no other place.
            drained = file.backlog() == 0 and not file.withheld()
            if drained:
                file.remove()
                self._pruned_ms.pop(file.writer, None)
                self._sent.pop(file.writer, None)
        finally:
            lock.release(remove=drained)

    # --- its small parts -------------------------------------------------------------------------

    def _backlog_of(self, writer: str) -> int:
        if not file_of(self._folder, writer).exists():
            return 0
        try:
            with closing(OutboxFile(self._folder, writer)) as file:
                return file.backlog()
        except OutboxError:
            if not file_of(self._folder, writer).exists():  # published and removed in the meantime
                return 0
            raise

    def _is_over(self) -> bool:
        return self._stopping.is_set() and time.monotonic() >= self._deadline_s

    def _pause(self) -> None:
        """Twice as long from failure to failure, until a round succeeds; at the end, as short as at first."""
        if self._stopping.is_set():
            time.sleep(max(0.0, min(_PAUSE_S, self._deadline_s - time.monotonic())))
        else:
            self._stopping.wait(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _note(self, error: HeadgateError) -> None:
        if self.fault is None or self.fault.code != error.code:
            _log.warning("call events wait in the outbox: %s", error.message)
        self.fault = error


def record_of(writer: str, event: Linked, body: bytes) -> Record:
    """An event as the topic carries it; `body` is its own, or its stub."""
    return Record(
        key=writer.encode(),
        value=body,
        headers=(
            ("content-type", CONTENT_TYPE),
            (WRITER_HEADER, writer.encode()),
            (SEQ_HEADER, str(event.seq).encode()),
            (PREVIOUS_HEADER, event.previous.hex().encode()),
            (LINK_HEADER, event.link.hex().encode()),
        ),
    )
