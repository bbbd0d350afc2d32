"""What every kind of log must do: one suite, run against each kind found in the folder, on the real thing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from headgate import plugins
from headgate.errors import LogError, LogTruncated, RecordTooLarge
from headgate.log.base import Log, Logged, Record, Slice, Topic
from headgate.model.position import Partition, Position
from headgate.telemetry import wall_clock_ms
from tests.contracts.logs import (
    KINDS,
    WITHIN_S,
    House,
    append,
    drain,
    group,
    nothing,
    numbered,
    poll_until,
    poll_until_raised,
    start_of,
    waive,
)


@pytest.fixture(params=plugins.kinds("log"))
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    prefix = request.getfixturevalue("topic_prefix") if request.param == "kafka" else "t."
    house = House(request.param, KINDS[request.param](request), prefix)
    yield house
    for closable in reversed(house.opened):
        closable.close()


@pytest.fixture
def log(house: House) -> Log:
    return house.open()


# --- topics --------------------------------------------------------------------------------------


def test_topics_are_created_once_and_counted(log: Log, house: House) -> None:
    topic, other = house.topic(partitions=3), house.topic(compacted=True)
    log.ensure([topic, other])
    log.ensure([topic, other])
    house.open().ensure([Topic(name=topic.name, partitions=5)])
    missing = house.topic().name
    assert log.partitions([topic.name, other.name, missing]) == {topic.name: 3, other.name: 1}
    assert log.partitions([]) == {}


def test_topics_may_be_created_by_several_at_once(house: House) -> None:
    topics = [house.topic(partitions=2) for _ in range(3)]
    logs = [house.open() for _ in range(4)]
    errors: list[BaseException] = []

    def ensure(log: Log) -> None:
        try:
            log.ensure(topics)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ensure, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert errors == []
    assert logs[0].partitions([topic.name for topic in topics]) == {topic.name: 2 for topic in topics}


def test_a_topic_keeps_its_identity(log: Log, house: House) -> None:
    first, second = house.made(log), house.made(log)
    known = log.identities([first, second, house.topic().name])
    assert set(known) == {first, second}
    assert all(known.values())
    append(house, log, first, numbered(3))
    assert house.open().identities([first, second]) == known


def test_the_end_of_each_partition_is_the_next_offset(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    assert log.end([topic, house.topic().name]) == {Partition(topic, 0): 0, Partition(topic, 1): 0}
    append(house, log, topic, numbered(3), partition=1)
    assert log.end([topic]) == {Partition(topic, 0): 0, Partition(topic, 1): 3}
    assert log.end([]) == {}


# --- records -------------------------------------------------------------------------------------


def test_records_come_back_whole(log: Log, house: House) -> None:
    topic = house.made(log)
    records = [
        Record(b"\x00\xff", b"\x01binary\x00", (("trace", b"\x00\x01"), ("trace", b"again"), ("empty", b""))),
        Record(b"gone", None),
        Record(None, b"no key"),
        Record(b"", b""),
    ]
    before_ms = wall_clock_ms()
    append(house, log, topic, records)
    found = drain(house.keep(log.read(start_of(topic))), 4)
    assert [Record(logged.key, logged.value, logged.headers) for logged in found] == records
    assert [logged.offset for logged in found] == [0, 1, 2, 3]
    assert {logged.partition for logged in found} == {Partition(topic, 0)}
    assert all(before_ms <= logged.time_ms <= wall_clock_ms() for logged in found)


def test_each_partition_keeps_the_order_of_appending(log: Log, house: House) -> None:
    topic = house.made(log, partitions=4)
    append(house, log, topic, [Record(b"%d" % (n % 50), b"%d" % n) for n in range(5_000)])
    found = drain(house.keep(log.read(start_of(topic, 4))), 5_000)
    of_partition = {number: [r for r in found if r.partition.number == number] for number in range(4)}
    for records in of_partition.values():
        assert [r.offset for r in records] == list(range(len(records)))
        values = [int(r.value or b"") for r in records]
        assert values == sorted(values)
    homes = {(r.key, r.partition) for r in found}
    assert len(homes) == 50, "one key lies in one partition"
    assert all(of_partition.values()), "keys are spread"


def test_records_without_a_key_are_spread(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    appender = house.keep(log.appender())
    deadline = time.monotonic() + WITHIN_S
    while len(appender.ends()) < 2:
        assert time.monotonic() < deadline
        appender.append(topic, Record(None, b"v"))
        appender.flush(WITHIN_S)
    assert set(appender.ends()) == {Partition(topic, 0), Partition(topic, 1)}


def test_a_record_that_is_too_large_is_refused_and_the_next_is_taken(log: Log, house: House) -> None:
    topic = house.made(log)
    appender = house.keep(log.appender())
    appender.append(topic, Record(b"k", b"before"))
    with pytest.raises(RecordTooLarge) as raised:
        appender.append(topic, Record(b"k", bytes(9_000_000)))
    assert raised.value.details["topic"] == topic
    appender.append(topic, Record(b"k", bytes(8_000_000)))
    appender.append(topic, Record(b"k", b"after"))
    appender.flush(WITHIN_S)
    sizes = [len(r.value or b"") for r in drain(house.keep(log.read(start_of(topic))), 3)]
    assert sizes == [6, 8_000_000, 5]


def test_a_compacted_topic_takes_no_record_without_a_key(log: Log, house: House) -> None:
    topic = house.made(log, compacted=True)
    appender = house.keep(log.appender())
    with pytest.raises(LogError):  # at the latest when it should be durable
        appender.append(topic, Record(None, b"v"))
        appender.flush(WITHIN_S)
    assert log.end([topic]) == start_of(topic)


def test_a_topic_that_was_never_made_is_an_error(log: Log, house: House) -> None:
    appender = house.keep(log.appender())
    with pytest.raises(LogError):
        appender.append(house.topic().name, Record(b"k", b"v"))
        appender.flush(WITHIN_S)


# --- acknowledgements ----------------------------------------------------------------------------


def test_tokens_are_acknowledged_once_their_records_are_durable(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    appender = house.keep(log.appender())
    assert appender.acknowledged() is None
    for n in range(10):
        for record in numbered(20, n * 20):
            appender.append(topic, record)
        appender.checkpoint(n)
    told: list[Any] = []
    while not told or told[-1] != 9:
        token = appender.acknowledged(WITHIN_S)
        assert token is not None, "a token is outstanding, so it comes"
        told.append(token)
    assert told == sorted(set(told)), "tokens come in order, and each once"
    assert appender.acknowledged() is None
    assert appender.ends() == log.end([topic])
    assert sum(appender.ends().values()) == 200


def test_a_token_with_nothing_before_it_is_acknowledged(log: Log, house: House) -> None:
    topic = house.made(log)
    appender = house.keep(log.appender())
    appender.checkpoint("nothing")
    assert appender.acknowledged(WITHIN_S) == "nothing"
    appender.append(topic, Record(b"k", b"v"))
    appender.checkpoint("one")
    appender.checkpoint("still one")
    token = appender.acknowledged(WITHIN_S)
    while token == "one":
        token = appender.acknowledged(WITHIN_S)
    assert token == "still one"
    assert log.end([topic]) == {Partition(topic, 0): 1}


def test_what_was_flushed_is_there_when_the_log_is_opened_again(house: House) -> None:
    log = house.open()
    topic = house.made(log, partitions=2)
    appender = log.appender()
    for record in numbered(100):
        appender.append(topic, record)
    appender.flush(WITHIN_S)
    appender.close()
    log.close()
    again = house.open()
    assert sum(again.end([topic]).values()) == 100
    assert len(drain(house.keep(again.read(start_of(topic, 2))), 100)) == 100


def test_closing_an_appender_makes_what_it_holds_durable(
    log: Log, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate.log.kafka.appender.CLOSE_WITHIN_S", WITHIN_S)  # a busy broker takes its time
    topic = house.made(log)
    appender = log.appender()
    appender.append(topic, Record(b"k", b"v"))
    appender.close()
    assert log.end([topic]) == {Partition(topic, 0): 1}
    with pytest.raises(LogError):
        appender.append(topic, Record(b"k", b"v"))


def test_two_appenders_share_a_topic(log: Log, house: House) -> None:
    topic = house.made(log)
    one, two = house.keep(log.appender()), house.keep(house.open().appender())
    for n in range(20):
        appender = (one, two)[n % 2]
        appender.append(topic, Record(b"k", b"%d" % n))
        appender.flush(WITHIN_S)
    found = drain(house.keep(log.read(start_of(topic))), 20)
    assert [int(r.value or b"") for r in found] == list(range(20))
    assert one.ends() == {Partition(topic, 0): 19}
    assert two.ends() == {Partition(topic, 0): 20}


# --- reading -------------------------------------------------------------------------------------


def test_an_empty_poll_is_empty(log: Log, house: House) -> None:
    topic = house.made(log)
    reader = house.keep(log.read(start_of(topic)))
    assert list(reader.poll(10, 0.05)) == []
    assert list(reader.poll(10, 0)) == []


def test_reading_starts_and_goes_on_where_it_is_told(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    append(house, log, topic, numbered(10), partition=0)
    append(house, log, topic, numbered(10, 100), partition=1)
    reader = house.keep(log.read({Partition(topic, 0): 7}))
    assert reader.assigned() == {Partition(topic, 0)}
    assert [r.value for r in drain(reader, 3)] == [b"v7", b"v8", b"v9"]
    reader.seek({Partition(topic, 0): 9, Partition(topic, 1): 0})
    assert [r.value for r in drain(reader, 1)] == [b"v9"]


def test_a_poll_is_bounded_and_loses_nothing(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    append(house, log, topic, numbered(50), partition=0)
    append(house, log, topic, numbered(50, 50), partition=1)
    reader = house.keep(log.read(start_of(topic, 2)))
    found: list[Logged] = []
    deadline = time.monotonic() + WITHIN_S
    for size in [1, 2, 7] * 100:
        batch = reader.poll(size, 0.5)
        assert len(batch) <= size
        found += batch
        if len(found) == 100:
            break
        assert time.monotonic() < deadline
    assert {r.value for r in found} == {r.value for r in numbered(100)}
    for number in (0, 1):
        assert [r.offset for r in found if r.partition.number == number] == list(range(50))


def test_slices_are_the_same_records_as_columns(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    for number in range(2):
        mine = [*numbered(5, start=10 * number), Record(b"gone", None, (("why", b"deleted"),))]
        append(house, log, topic, mine, number)
    whole = drain(house.keep(log.read(start_of(topic, 2))), 12)
    reader, found = house.keep(log.read(start_of(topic, 2))), list[Slice]()
    deadline = time.monotonic() + WITHIN_S
    while sum(map(len, found)) < 12:
        assert time.monotonic() < deadline
        found += reader.poll_slices(1_000, 0.5)
    assert sorted(map(_place, _whole(found))) == sorted(map(_place, whole))
    assert {_place(record): record for record in _whole(found)} == {_place(record): record for record in whole}
    for part_of_it in found:
        records = [part_of_it.record(place) for place in range(len(part_of_it))]
        assert {record.partition for record in records} == {part_of_it.partition}
        assert list(part_of_it.offsets) == [record.offset for record in records]
        assert list(part_of_it.keys) == [record.key for record in records]
        assert list(part_of_it.values) == [record.value for record in records]
        assert part_of_it.size() == sum(len(record.value or b"") for record in records)
        tail = part_of_it.part(1, len(part_of_it))
        assert [tail.record(place) for place in range(len(tail))] == records[1:]
        assert list(tail.offsets) == list(part_of_it.offsets)[1:]


def _whole(found: Sequence[Slice]) -> list[Logged]:
    return [mine.record(place) for mine in found for place in range(len(mine))]


def _place(record: Logged) -> tuple[Partition, int]:
    return record.partition, record.offset


def test_a_reader_that_waits_is_woken_by_what_another_thread_appends(log: Log, house: House) -> None:
    topic = house.made(log)
    reader = house.keep(log.read(start_of(topic)))
    found: list[Logged] = []

    def read() -> None:
        found.extend(drain(reader, 3_000))

    thread = threading.Thread(target=read)
    thread.start()
    appender = house.keep(log.appender())
    for n, record in enumerate(numbered(3_000)):
        appender.append(topic, record)
        if not n % 100:
            appender.flush(WITHIN_S)
    appender.flush(WITHIN_S)
    thread.join(WITHIN_S)
    assert [r.value for r in found] == [r.value for r in numbered(3_000)]


def test_a_reader_sees_what_another_process_appends(log: Log, house: House) -> None:
    topic = house.made(log)
    reader = house.keep(log.read(start_of(topic)))
    assert list(reader.poll(10, 0)) == []
    append(house, house.open(), topic, numbered(2))  # a second opening shares nothing with the first
    assert len(drain(reader, 2)) == 2


def test_a_position_that_is_gone_is_told_until_the_reader_is_moved(log: Log, house: House) -> None:
    topic = house.made(log)
    append(house, log, topic, numbered(10))
    house.kind.expire(log, Partition(topic, 0))
    reader = house.keep(log.read({Partition(topic, 0): 4}))
    with pytest.raises(LogTruncated):
        poll_until_raised(reader)
    with pytest.raises(LogTruncated):
        reader.poll(10, 0)
    assert log.end([topic]) == {Partition(topic, 0): 10}
    reader.seek({Partition(topic, 0): 10})
    append(house, log, topic, numbered(1, 10))
    assert [(r.offset, r.value) for r in drain(reader, 1)] == [(10, b"v10")]


def test_a_position_of_another_log_is_told(log: Log, house: House) -> None:
    topic = house.made(log)
    append(house, log, topic, numbered(2))
    with pytest.raises(LogTruncated):
        poll_until_raised(house.keep(log.read({Partition(topic, 0): 1_000})))


def test_lag_is_what_lies_ahead(log: Log, house: House) -> None:
    topic = house.made(log)
    append(house, log, topic, numbered(10))
    reader = house.keep(log.read(start_of(topic)))
    found = list(reader.poll(4, WITHIN_S))
    assert reader.lag() == {Partition(topic, 0): 10 - len(found)}
    drain(reader, 10 - len(found))
    assert reader.lag() == {Partition(topic, 0): 0}


# --- following -----------------------------------------------------------------------------------


def test_a_follower_asks_where_to_start(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    append(house, log, topic, numbered(5), partition=0)
    append(house, log, topic, numbered(5, 100), partition=1)
    asked: list[frozenset[Partition]] = []

    def on_assign(fresh: frozenset[Partition]) -> Position:
        asked.append(fresh)
        return {Partition(topic, 0): 3}  # and nothing of the other: from its start

    reader = house.keep(log.follow([topic], group(), on_assign, nothing))
    found = drain(reader, 7)
    assert frozenset().union(*asked) == reader.assigned() == set(start_of(topic, 2))
    assert [r.value for r in found if r.partition.number == 0] == [b"v3", b"v4"]
    assert [r.offset for r in found if r.partition.number == 1] == [0, 1, 2, 3, 4]


def test_a_partition_without_a_position_starts_at_what_is_left(log: Log, house: House) -> None:
    topic = house.made(log)
    append(house, log, topic, numbered(5))
    house.kind.expire(log, Partition(topic, 0))
    append(house, log, topic, numbered(2, 5))
    reader = house.keep(log.follow([topic], group(), lambda _: {}, nothing))
    assert [(r.offset, r.value) for r in drain(reader, 2)] == [(5, b"v5"), (6, b"v6")]


def test_the_position_is_the_followers_own_and_not_what_it_noted_in_the_log(log: Log, house: House) -> None:
    topic, name = house.made(log), group()
    append(house, log, topic, numbered(5))
    first = log.follow([topic], name, lambda _: {}, nothing)
    drain(first, 5)
    first.commit({Partition(topic, 0): 5})
    first.close()
    second = house.keep(log.follow([topic], name, lambda _: {Partition(topic, 0): 2}, nothing))
    assert [r.offset for r in drain(second, 3)] == [2, 3, 4]


def test_a_follower_is_told_before_its_partitions_go(log: Log, house: House) -> None:
    topic = house.made(log, partitions=2)
    revoked: list[frozenset[Partition]] = []
    reader = log.follow([topic], group(), lambda _: {}, revoked.append)
    poll_until(reader, lambda: len(reader.assigned()) == 2)
    reader.close()
    reader.close()
    assert frozenset().union(*revoked) == set(start_of(topic, 2))


def test_what_a_callback_raises_comes_out_of_poll(log: Log, house: House) -> None:
    topic = house.made(log)

    def on_assign(_: frozenset[Partition]) -> Position:
        raise RuntimeError("the store does not answer")

    reader = house.keep(log.follow([topic], group(), on_assign, nothing))
    with pytest.raises(RuntimeError, match="the store does not answer"):
        poll_until_raised(reader)
    assert reader.assigned() == frozenset()


def test_two_readers_of_a_group_share_the_partitions(log: Log, house: House) -> None:
    waive(house, "groups")
    topic, name = house.made(log, partitions=4), group()
    append(house, log, topic, numbered(400))
    read: dict[Partition, int] = {}

    def here(fresh: frozenset[Partition]) -> Position:
        return {partition: read.get(partition, 0) for partition in fresh}

    def note(records: Sequence[Logged]) -> None:
        for record in records:
            assert record.offset == read.get(record.partition, 0), "nothing comes twice, nothing is left out"
            read[record.partition] = record.offset + 1

    one = house.keep(log.follow([topic], name, here, nothing))
    deadline = time.monotonic() + WITHIN_S
    while sum(read.values()) < 400:
        assert time.monotonic() < deadline
        note(one.poll(50, 0.5))
    assert len(one.assigned()) == 4
    two = house.keep(house.open().follow([topic], name, here, nothing))
    deadline = time.monotonic() + WITHIN_S
    while len(one.assigned()) != 2 or len(two.assigned()) != 2:
        assert time.monotonic() < deadline
        note(one.poll(50, 0.05))
        note(two.poll(50, 0.05))
    assert not one.assigned() & two.assigned()
    append(house, log, topic, numbered(400, 400))
    deadline = time.monotonic() + WITHIN_S
    while sum(read.values()) < 800:
        assert time.monotonic() < deadline
        note(one.poll(50, 0.05))
        note(two.poll(50, 0.05))
    two.close()
    poll_until(one, lambda: len(one.assigned()) == 4)
    assert sum(read.values()) == sum(log.end([topic]).values())


def test_closing_twice_is_no_error(house: House) -> None:
    log = house.open()
    topic = house.made(log)
    appender, reader = log.appender(), log.read(start_of(topic))
    for closable in (appender, reader, log):
        closable.close()
        closable.close()
