"""What heartbeats make of a position."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.errors import Undecodable
from headgate.flow.heartbeat import ControlTopic, Heartbeats, control_topic, decode_heartbeat, encode_heartbeat
from headgate.log.sqlite import open_log
from headgate.model.change import Sequence
from headgate.model.position import Partition
from headgate.model.table import heartbeat_topic
from headgate.telemetry import wall_clock_ms

LOGS = {"shop.main.orders": "this"}
ZERO, ONE = Partition("shop.main.orders", 0), Partition("shop.main.orders", 1)


def beats(*told: tuple[int, dict[Partition, int]]) -> Heartbeats:
    kept = Heartbeats()
    for time_ms, ends in told:
        kept.add(decode_heartbeat(encode_heartbeat(Sequence(1, 1), time_ms, ends, LOGS).value))
    return kept


def test_a_partition_is_as_fresh_as_the_newest_heartbeat_whose_end_it_has_reached() -> None:
    known = beats((1_000, {ZERO: 5, ONE: 1}), (2_000, {ZERO: 9, ONE: 1}), (3_000, {ZERO: 12, ONE: 1}))
    assert known.as_of_ms(ZERO, 4, "this", 2, 0) == 0
    assert known.as_of_ms(ZERO, 5, "this", 2, 0) == 1_000
    assert known.as_of_ms(ZERO, 11, "this", 2, 0) == 2_000
    assert known.as_of_ms(ZERO, 12, "this", 2, 0) == 3_000
    assert known.as_of_ms(ONE, 1, "this", 2, 0) == 3_000, "a quiet partition stays fresh"


def test_another_topic_of_that_name_says_nothing() -> None:
    known = beats((1_000, {ZERO: 5}))
    assert known.as_of_ms(ZERO, 9, "recreated", 1, 0) == 0
    assert known.is_another("shop.main.orders", "recreated", 1)
    assert not known.is_another("shop.main.orders", "this", 1)
    assert not known.is_another("shop.main.unknown", "any", 1)


def test_a_topic_with_more_partitions_says_nothing_to_readers_of_fewer_of_them_nor_the_other_way_round() -> None:
    known = beats((1_000, {ZERO: 5}), (2_000, {ZERO: 5, ONE: 0}))
    assert known.as_of_ms(ZERO, 9, "this", 1, 0) == 1_000, "its keys may have changed in the other one since"
    assert known.as_of_ms(ZERO, 9, "this", 2, 0) == 2_000
    assert known.is_another("shop.main.orders", "this", 1)
    assert not known.is_another("shop.main.orders", "this", 2)
    assert not known.is_another("shop.main.orders", "this", 3), "whoever writes does not know of it yet"


def test_freshness_never_goes_back() -> None:
    assert beats((1_000, {ZERO: 5})).as_of_ms(ZERO, 5, "this", 1, 9_000) == 9_000


def test_a_table_that_capture_left_out_learns_nothing() -> None:
    assert beats((1_000, {ONE: 0})).as_of_ms(ZERO, 5, "this", 1, 500) == 500


def test_a_newest_heartbeat_that_has_expired_is_no_loss_of_rows(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log.db", clock=wall_clock_ms)
    log.ensure([control_topic("shop")])
    appender = log.appender()

    def beat(time_ms: int) -> None:
        appender.append(heartbeat_topic("shop"), encode_heartbeat(Sequence(1, 1), time_ms, {}, LOGS), 0)
        appender.flush(10)

    beat(1_000)
    assert log.prune(wall_clock_ms() + 8 * 24 * 3_600_000) > 0
    control = ControlTopic(log, "shop")
    assert control.take() == []
    beat(2_000)
    assert [found.time_ms for found in control.take()] == [2_000]
    for each in (control, appender, log):
        each.close()


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[1]", b'{"head":[1],"time_ms":1,"ends":{}}', b"\xff"])
def test_what_is_no_heartbeat_is_said_to_be_none(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_heartbeat(value)
