"""Publishing: every event reaches the log, a writer's in their order, through failures and restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from headgate.audit import outbox_file
from headgate.audit.chain import Chain
from headgate.audit.event import CONTENT_TYPE
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile, file_of, writers
from headgate.audit.publisher import CALLS_TOPIC, SEQ_HEADER, WRITER_HEADER, Publisher
from headgate.audit.stub import stub_in
from headgate.errors import LogError, OutboxError, RecordTooLarge, Unavailable
from headgate.log.base import Appender, Log, Logged, Record, Topic
from headgate.log.sqlite import open_log
from headgate.model.position import Partition

WITHIN_S = 60.0
PLACE = Partition(CALLS_TOPIC.name, 0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(open_log(tmp_path / "log.db", clock=lambda: 0)) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@contextmanager
def running(log: Log, folder: Path, **more: Any) -> Iterator[Publisher]:
    publisher = Publisher(log, folder, clock=lambda: 1_000, **more)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.close()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.005)


def published(log: Log) -> list[tuple[str, int, bytes]]:
    """Writer, number and body of each event on the log."""
    found: list[tuple[str, int, bytes]] = []
    with closing(log.read({PLACE: 0})) as reader:
        while len(found) < log.end([PLACE.topic]).get(PLACE, 0):
            found += map(_parts, reader.poll(1_000, 1.0))
    return found


def _parts(record: Logged) -> tuple[str, int, bytes]:
    headers = dict(record.headers)
    assert headers["content-type"] == CONTENT_TYPE
    assert record.key == headers[WRITER_HEADER]
    assert record.value is not None
    return headers[WRITER_HEADER].decode(), int(headers[SEQ_HEADER]), record.value


def leave(folder: Path, writer: str, count: int) -> None:
    """The file of a writer that died."""
    with closing(OutboxFile(folder, writer, own=True)) as file:
        chain = Chain(writer)
        file.add([chain.add(f"{writer}-{seq}", f"{writer}-{seq}".encode()) for seq in range(1, count + 1)], 0)


def sequence(writer: str, count: int) -> list[tuple[str, int, bytes]]:
    return [(writer, seq, f"{writer}-{seq}".encode()) for seq in range(1, count + 1)]


# --- the way to the log --------------------------------------------------------------------------


async def test_events_reach_the_log_in_their_order(log: Log, folder: Path) -> None:
    with closing(Outbox(folder, "w-1", clock=lambda: 0)) as outbox, running(log, folder, outbox=outbox) as publisher:
        for seq in range(1, 21):
            await outbox.append(f"w-1-{seq}".encode(), f"w-1-{seq}")
        until(lambda: publisher.backlog() == 0)
        assert published(log) == sequence("w-1", 20)
        assert publisher.fault is None


async def test_what_was_published_is_not_published_again(log: Log, folder: Path) -> None:
    with closing(Outbox(folder, "w-1", clock=lambda: 0)) as outbox:
        for seq in range(1, 4):
            with running(log, folder, outbox=outbox):
                await outbox.append(f"w-1-{seq}".encode(), f"w-1-{seq}")
        assert published(log) == sequence("w-1", 3)


async def test_closing_publishes_what_is_left_and_leaves_no_file(log: Log, folder: Path) -> None:
    outbox = Outbox(folder, "w-1", clock=lambda: 0)
    publisher = Publisher(log, folder, clock=lambda: 0, outbox=outbox)
    publisher.start()
    for seq in range(1, 4):
        await outbox.append(f"w-1-{seq}".encode(), f"w-1-{seq}")
    outbox.close()
    publisher.close()
    assert published(log) == sequence("w-1", 3)
    assert list(folder.iterdir()) == []


async def test_other_writers_are_published_living_or_dead(log: Log, folder: Path) -> None:
    leave(folder, "w-dead", 1_200)
    with closing(Outbox(folder, "w-living", clock=lambda: 0)) as living:
        await living.append(b"w-living-1", "w-living-1")
        with running(log, folder) as publisher:
            until(lambda: publisher.backlog() == 0 and writers(folder) == ["w-living"])
            await living.append(b"w-living-2", "w-living-2")
            until(lambda: publisher.backlog() == 0)
    found = published(log)
    assert [each for each in found if each[0] == "w-dead"] == sequence("w-dead", 1_200)
    assert [each for each in found if each[0] == "w-living"] == sequence("w-living", 2)
    assert len(found) == 1_202


async def test_without_adoption_others_are_left_alone(log: Log, folder: Path) -> None:
    leave(folder, "w-dead", 3)
    with closing(Outbox(folder, "w-1", clock=lambda: 0)) as outbox:
        with running(log, folder, outbox=outbox, adopt=False) as publisher:
            await outbox.append(b"w-1-1", "w-1-1")
            until(lambda: publisher.backlog() == 0)
        assert published(log) == sequence("w-1", 1)
    assert "w-dead" in writers(folder)


def test_two_publishers_double_nothing(log: Log, folder: Path) -> None:
    for number in range(10):
        leave(folder, f"w-{number}", 50)
    with running(log, folder), running(log, folder):
        until(lambda: writers(folder) == [])
    found = published(log)
    assert len(found) == len(set(found)) == 500


async def test_what_is_published_is_pruned_by_age_and_number(
    log: Log, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_file, "_SEGMENT_BYTES", 1)
    with closing(Outbox(folder, "w-1", clock=lambda: 900)) as outbox:
        for seq in range(1, 11):
            await outbox.append(f"w-1-{seq}".encode(), f"w-1-{seq}")
        with running(log, folder, retention_ms=200, keep=4):
            until(lambda: stored(folder) == 4)
        with running(log, folder, retention_ms=99, keep=4):
            until(lambda: stored(folder) == 1)  # the end of the chain
    assert published(log) == sequence("w-1", 10)


def stored(folder: Path) -> int:
    with closing(OutboxFile(folder, "w-1")) as file:
        return len(file.events(0, 1_000))


def test_a_broken_file_holds_up_no_other(log: Log, folder: Path) -> None:
    leave(folder, "w-2", 3)
    file_of(folder, "w-1").write_bytes(b"something else " * 100)
    with running(log, folder) as publisher:
        until(lambda: len(published(log)) == 3 and isinstance(publisher.fault, OutboxError))
    assert file_of(folder, "w-1").exists()


# --- a log that fails ----------------------------------------------------------------------------


class Flaky:
    """A real log whose appenders fail as a broker does: before or after a batch is durable, and at once."""

    def __init__(self, log: Log, failures: Sequence[str]) -> None:
        self._log = log
        self.failures = list(failures)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def ensure(self, topics: Sequence[Topic]) -> None:
        if self.failures[:1] == ["ensure"]:
            self.failures.pop(0)
            raise Unavailable("the broker does not answer")
        self._log.ensure(topics)

    def appender(self) -> Appender:
        return FlakyAppender(self._log.appender(), self.failures)


class FlakyAppender:
    def __init__(self, appender: Appender, failures: list[str]) -> None:
        self._appender = appender
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._appender, name)

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        if self._failures[:1] == ["append"]:
            self._failures.pop(0)
            raise LogError("a delivery failed")
        self._appender.append(topic, record, partition)

    def acknowledged(self, timeout_s: float = 0.0) -> Hashable | None:
        token = self._appender.acknowledged(timeout_s)
        if self._failures[:1] == ["acknowledged"]:
            self._failures.pop(0)
            raise LogError("a delivery failed")
        if self._failures[:1] == ["silence"]:
            return None
        return token


def test_a_log_that_fails_loses_nothing(log: Log, folder: Path) -> None:
    leave(folder, "w-1", 700)
    flaky: Any = Flaky(log, ["ensure", "append", "acknowledged"])
    with running(flaky, folder) as publisher:
        until(lambda: writers(folder) == [])
        assert publisher.backlog() == 0
        until(lambda: publisher.fault is None)
    found = published(log)
    assert list(dict.fromkeys(found)) == sequence("w-1", 700)
    assert len(found) > 700, "a batch that was durable before its failure comes twice"


def test_a_log_that_never_answers_stops_no_end(log: Log, folder: Path) -> None:
    leave(folder, "w-1", 3)
    silent: Any = Flaky(log, ["silence"])
    publisher = Publisher(silent, folder, clock=lambda: 0)
    publisher.start()
    until(lambda: log.end([PLACE.topic]).get(PLACE, 0) == 3)
    publisher.close(timeout_s=0.1)
    assert publisher.backlog() == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "headgate-publisher"]


def test_a_log_that_is_gone_stops_no_end(log: Log, folder: Path) -> None:
    leave(folder, "w-1", 3)
    gone: Any = Flaky(log, ["ensure"] * 1_000)
    publisher = Publisher(gone, folder, clock=lambda: 0)
    publisher.start()
    until(lambda: publisher.fault is not None)
    publisher.close(timeout_s=0.1)
    assert publisher.backlog() == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "headgate-publisher"]


def test_closing_what_was_never_started_is_fine(log: Log, folder: Path) -> None:
    Publisher(log, folder, clock=lambda: 0).close()


# --- events that the log refuses -----------------------------------------------------------------


class Narrow:
    """A real log that takes no value beyond a bound: it says so at once, or only when it should be durable."""

    def __init__(self, log: Log, most: int, *, late: bool) -> None:
        self._log = log
        self.most = most
        self.late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def appender(self) -> Appender:
        return NarrowAppender(self._log.appender(), self.most, late=self.late)


class NarrowAppender:
    def __init__(self, appender: Appender, most: int, *, late: bool) -> None:
        self._appender = appender
        self._most = most
        self._late = late
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._appender, name)

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        if len(record.value or b"") > self._most:
            if not self._late:
                raise RecordTooLarge("too large")
            self._failed = True
        if not self._failed:  # after a failure nothing of the partition gets in
            self._appender.append(topic, record, partition)

    def acknowledged(self, timeout_s: float = 0.0) -> Hashable | None:
        if self._failed:
            raise RecordTooLarge("too large")
        return self._appender.acknowledged(timeout_s)


@pytest.mark.parametrize("late", [False, True])
def test_an_event_that_the_log_refuses_holds_up_no_other(log: Log, folder: Path, *, late: bool) -> None:
    chain = Chain("w-1")
    bodies = {seq: b"x" * (5_000 if seq in (3, 7) else 10) for seq in range(1, 11)}
    with closing(OutboxFile(folder, "w-1", own=True)) as file:
        file.add([chain.add(f"e-{seq}", body) for seq, body in bodies.items()], 0)
    narrow: Any = Narrow(log, 1_000, late=late)
    with running(narrow, folder) as publisher:
        until(lambda: publisher.backlog() == 0 and publisher.fault is None)
        assert publisher.withheld == 2
    found = {seq: body for _, seq, body in published(log)}
    assert list(found) == list(range(1, 11))
    stubs = {seq: stub_in(body) for seq, body in found.items()}
    assert {seq for seq, stub in stubs.items() if stub is not None} == {3, 7}
    with closing(OutboxFile(folder, "w-1")) as file:
        assert file.withheld() == {3, 7}
        assert len(file.events(2, 1)[0].body) == 5_000, "it stays where it is whole, though its writer is dead"


async def test_an_event_is_not_published_again_where_that_could_not_be_noted(
    log: Log, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not fill the log with doubles."""
    leave(folder, "w-1", 10)

    def full(self: OutboxFile, upto: int) -> None:
        raise OutboxError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(OutboxFile, "mark_published", full)
        publisher = Publisher(log, folder, clock=lambda: 0)
        publisher.start()
        until(lambda: isinstance(publisher.fault, OutboxError))
        rounds = threading.Event()

        def seen(self: OutboxFile) -> frozenset[int]:
            rounds.set()
            return frozenset()

        patched.setattr(OutboxFile, "withheld", seen)
        assert rounds.wait(WITHIN_S), "it has come round again"
    until(lambda: writers(folder) == [])
    publisher.close()
    assert published(log) == sequence("w-1", 10)
