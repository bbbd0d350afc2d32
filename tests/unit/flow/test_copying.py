"""Dead letters on their way to a topic of their own: each at least once, and whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate.errors import RecordTooLarge, Unavailable
from headgate.flow.copying import Copies
from headgate.flow.lanes import Lane, Lanes
from headgate.flow.letters import Letters
from headgate.flow.retrying import Verdicts
from headgate.flow.standing import Standing
from headgate.log.base import Appender, Log, Logged, Record, Topic
from headgate.log.sqlite import open_log
from headgate.model.pipeline import DeadLetter, dead_letter_topic
from headgate.model.position import Partition
from headgate.stores.base import Writer
from headgate.stores.sqlite import open_writer
from tests.contracts.stores.cases import letter
from tests.unit.flow.test_folding import ENTITY, PARTITION

PLACE = Partition(dead_letter_topic("shop"), 0)


class Rooms:
    """The part of `Materializing` that copying works with, over a log that may fail."""

    pipeline = "shop"
    retention_ms = 60_000

    def __init__(self, log: Log) -> None:
        self.log: Any = self
        self.real = log
        self.now_ms = 1_000
        self.fails: Exception | None = None

    def clock(self) -> int:
        return self.now_ms

    def ensure(self, topics: Sequence[Topic]) -> None:
        self.real.ensure(topics)

    def appender(self) -> Appender:
        if self.fails is not None:
            raise self.fails
        return self.real.appender()

    def copied(self) -> list[Logged]:
        reader = self.real.read({PLACE: 0})
        try:
            return list(reader.poll(100, 0.0))
        finally:
            reader.close()


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    log = open_log(tmp_path / "log.db", clock=lambda: 1)
    yield Rooms(log)
    log.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    opened = open_writer(tmp_path / "store.db", [ENTITY])
    yield opened
    opened.close()


def kept(writer: Writer, *letters: DeadLetter) -> None:
    """Puts letters into the store."""

    (claimed,) = writer.claim(ENTITY.name, [0]).values()
    writer.apply([Verdicts(kept=list(letters)).write(Lane(ENTITY, PARTITION, claimed, claimed))])


def copies(rooms: Any, writer: Writer) -> Copies:
    return Copies(rooms, writer)


def test_a_letter_is_copied_whole_and_once(rooms: Rooms, writer: Writer) -> None:
    kept(writer, letter(3, 7))
    copying = copies(rooms, writer)
    for _ in range(2):
        assert copying.copy(lambda _: True) == set()
    (record,) = rooms.copied()
    assert (record.key, record.value, record.headers[0]) == (b'{"id":1}', b"\xff not JSON", ("h", b"\x00"))
    assert dict(record.headers)["headgate.id"].decode() == letter(3, 7).id
    assert dict(record.headers)["headgate.message"] == b"the record is no JSON"
    copying.close()


def test_what_a_crash_left_unnoted_is_copied_again(rooms: Rooms, writer: Writer) -> None:
    kept(writer, letter(3, 7))
    crashed = copies(rooms, writer)
    assert crashed._append([letter(3, 7)])  # durable on the log, and the process ends here
    crashed.close()
    with closing(copies(rooms, writer)) as later:
        assert later.copy(lambda _: True) == set()
    assert len(rooms.copied()) == 2


def test_a_log_that_does_not_answer_delays_copies_and_nothing_else(rooms: Rooms, writer: Writer) -> None:
    kept(writer, letter(3, 7))
    copying = copies(rooms, writer)
    rooms.fails = Unavailable("away")
    assert copying.copy(lambda _: True) == {letter(3, 7).id}
    rooms.fails = None
    assert copying.copy(lambda _: True) == set()
    assert len(rooms.copied()) == 1
    copying.close()


def test_anothers_letter_is_left_to_it_for_a_minute(rooms: Rooms, writer: Writer) -> None:
    kept(writer, letter(3, 1_000))
    copying = copies(rooms, writer)
    assert copying.copy(lambda _: False) == {letter(3, 0).id}
    rooms.now_ms += 60_001
    assert copying.copy(lambda _: False) == set()
    copying.close()


class Narrow:
    """An appender that takes small records alone."""

    def __init__(self, inner: Appender) -> None:
        self._inner = inner

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        if record.value is not None:
            raise RecordTooLarge("too large")
        self._inner.append(topic, record, partition)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_record_that_our_headers_make_too_large_is_copied_without_its_value(
    rooms: Rooms, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(writer, letter(3, 7))
    real = rooms.real.appender
    monkeypatch.setattr(rooms.real, "appender", lambda: Narrow(real()))
    copying = copies(rooms, writer)
    assert copying.copy(lambda _: True) == set()
    (record,) = rooms.copied()
    assert (record.value, dict(record.headers)["headgate.left-out"]) == (None, b"value")
    copying.close()


def test_while_records_wait_only_letters_of_ours_and_old_ones_are_looked_for(rooms: Rooms, writer: Writer) -> None:
    rooms.now_ms = 1_000_000
    rooms.real.ensure([Topic(name=PARTITION.topic)])
    lanes = Lanes([ENTITY], writer, rooms.real, topic_of=lambda _: PARTITION.topic, lost=lambda _: None, distrust=False)
    surroundings: Any = rooms
    letters = Letters(surroundings, writer, lanes, Standing(), lambda _: pytest.fail("none is retried"), writer.apply)
    letters.tend(idle=False)
    kept(writer, letter(3, 7))  # by another process, which has ended since
    letters.tend(idle=False)
    assert not rooms.copied(), "it has been looked for a moment ago"
    rooms.now_ms += 10_000
    letters.tend(idle=False)
    assert len(rooms.copied()) == 1
    lanes.assign(frozenset({PARTITION}))
    written = Verdicts(kept=[letter(4, 7)]).write(lanes.all()[0])
    writer.apply([written])
    lanes.applied([written])
    letters.tend(idle=False)
    assert len(rooms.copied()) == 2
    kept(writer, letter(5, 7))
    letters.tend(idle=True)
    assert len(rooms.copied()) == 3
    letters.close()
