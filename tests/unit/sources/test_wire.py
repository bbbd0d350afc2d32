"""What numbers and bytes of others' records stand for, beyond what a real database gave (test_debezium_decoder)."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headgate.sources._wire import times
from headgate.sources._wire.shape import Shape, of_avro, of_connect
from headgate.sources._wire.turning import bits_text, column_type, decimal_text, shortest, turning


@given(st.dates())
def test_dates_are_pythons(day: date) -> None:
    assert times.date_text((day - date(1970, 1, 1)).days) == day.isoformat()


@pytest.mark.parametrize(
    ("days", "text"),
    [(0, "1970-01-01"), (-719_528, "0001-01-01 BC"), (-719_163, "0001-12-31 BC"), (-719_162, "0001-01-01"),
     (-735_160, "0044-03-15 BC"), (2_932_897, "10000-01-01")],
)  # fmt: skip
def test_dates_beyond_pythons(days: int, text: str) -> None:
    assert times.date_text(days) == text


@given(st.datetimes(), st.sampled_from([1_000, 1_000_000, 1_000_000_000]))
def test_timestamps_are_pythons(moment: datetime, per_s: int) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    value = (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1) * (per_s // 1000)
    whole, _, fraction = moment.isoformat().partition(".")
    assert times.timestamp_text(value, per_s) == (f"{whole}.{fraction.rstrip('0')}" if fraction else whole)


@pytest.mark.parametrize(
    ("value", "per_s", "text"),
    [(0, 1000, "00:00:00"), (86_400_000, 1000, "24:00:00"), (-3_020_399_000_000, 1_000_000, "-838:59:59"),
     (1, 1_000_000_000, "00:00:00.000000001"), (-500, 1000, "-00:00:00.5")],
)  # fmt: skip
def test_times_may_be_longer_than_a_day(value: int, per_s: int, text: str) -> None:
    assert times.time_text(value, per_s) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "PT0S"), (93_603_500_000, "PT26H3.5S"), (60_000_000, "PT1M"), (-1_500_000, "PT-1.5S"),
     (-5_400_000_000, "PT-1H-30M")],
)  # fmt: skip
def test_lengths_of_time(value: int, text: str) -> None:
    assert times.duration_text(value, 1_000_000) == text


@pytest.mark.parametrize(
    ("given_text", "text"),
    [("P0Y0M1DT2H0M3.5S", "P1DT2H3.5S"), ("P0Y0M0DT0H0M0S", "PT0S"), ("P1Y-2M0DT0H0M0.0S", "P1Y-2M"),
     ("P0Y0M0DT0H-3M0S", "PT-3M"), ("P0Y0M0DT0H0M3.500000S", "PT3.5S")],
)  # fmt: skip
def test_intervals(given_text: str, text: str) -> None:
    assert times.interval_text(given_text) == text


@pytest.mark.parametrize(
    ("given_text", "text"),
    [("2026-11-21T01:01:15.500000Z", "2026-11-21T01:01:15.5Z"), ("2026-11-21T01:01:15Z", "2026-11-21T01:01:15Z"),
     ("2026-11-21T01:01:15.000000Z", "2026-11-21T01:01:15Z"), ("10:00:00.100+02:00", "10:00:00.1+02:00"),
     ("infinity", "infinity")],
)  # fmt: skip
def test_zoned_times_lose_the_zeros_that_say_nothing(given_text: str, text: str) -> None:
    assert times.zoned_text(given_text) == text


@given(st.integers(-(10**40), 10**40), st.integers(-5, 45))
def test_decimals_keep_every_digit(number: int, scale: int) -> None:
    data = number.to_bytes(40, "big", signed=True)
    text = decimal_text(data, scale)
    sign, digits, _ = Decimal(number).as_tuple()
    assert Decimal(text) == Decimal((sign, digits, -scale))
    assert "E" not in text and (scale <= 0 or len(text.partition(".")[2]) == scale)


def test_a_decimal_longer_than_python_writes() -> None:
    assert decimal_text((10**6000 + 1).to_bytes(2500, "big"), 0) == f"1{'0' * 5999}1"


def test_bits_are_as_many_as_they_are() -> None:
    assert bits_text(b"\x15", 5) == "10101"
    assert bits_text(b"\x01\x02", 10) == "1000000001"
    assert bits_text(b"\x01", 0) == "00000001"


def digits(number: float) -> int:
    """How many it needs, wherever its point is."""
    return len(Decimal(repr(number)).normalize().as_tuple().digits)


@given(st.floats(width=32))
@example(999999986991104.0)
def test_a_32_bit_number_is_as_short_as_it_can_be(number: float) -> None:
    short = shortest(number)
    if not math.isfinite(number):
        assert short in ("NaN", "Infinity", "-Infinity")
        return
    assert struct.pack("<f", short) == struct.pack("<f", number)
    assert digits(short) <= digits(number)


AVRO: list[tuple[Any, Any, Any, str]] = [
    ({"type": "int", "logicalType": "date"}, 19_782, "2024-02-29", "date"),
    ({"type": "int", "logicalType": "time-millis"}, 500, "00:00:00.5", "time"),
    ({"type": "long", "logicalType": "time-micros"}, 1, "00:00:00.000001", "time"),
    ({"type": "long", "logicalType": "timestamp-millis"}, 500, "1970-01-01T00:00:00.5Z", "timestamp"),
    ({"type": "long", "logicalType": "timestamp-micros"}, 0, "1970-01-01T00:00:00Z", "timestamp"),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, 0, "1970-01-01T00:00:00", "timestamp"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, b"\x04\x1a", "10.50", "decimal"),
    ({"type": "fixed", "name": "f", "size": 2, "logicalType": "decimal", "precision": 4}, b"\xff\xff", "-1", "decimal"),
    (["null", {"type": "array", "items": {"type": "int", "logicalType": "date"}}], [0, None], ["1970-01-01", None],
     "array"),
    ({"type": "map", "values": "double"}, {"a": math.inf}, {"a": "Infinity"}, "json"),
    ({"type": "record", "name": "r", "fields": [{"name": "d", "type": {"type": "int", "logicalType": "date"}},
                                                {"name": "s", "type": "string"}]},
     {"d": 0, "s": "x"}, {"d": "1970-01-01", "s": "x"}, "json"),
    ("double", 1.5, 1.5, "number"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "read", "type_"), AVRO)
def test_avros_own_logical_types(schema: Any, value: Any, read: Any, type_: str) -> None:
    shape = of_avro(schema)
    turn = turning(shape, binary=True)
    assert turn is not None and turn(value) == read
    assert column_type(shape) == type_


@pytest.mark.parametrize("schema", ["string", "long", "boolean", "bytes", ["null", "string"], {"type": "enum",
                                    "name": "e", "symbols": ["a"]}])  # fmt: skip
def test_what_needs_no_turning_is_left_alone(schema: Any) -> None:
    assert turning(of_avro(schema), binary=True) is None


def test_a_type_is_known_by_its_name_once_it_was_met_and_one_that_holds_itself_has_no_inside() -> None:
    node = {"type": "record", "name": "Node", "namespace": "n", "fields": [
        {"name": "day", "type": {"type": "record", "name": "Day", "fields": [{"name": "v", "type": "int"}]}},
        {"name": "again", "type": ["null", "Day"]}, {"name": "next", "type": ["null", "n.Node"]},
    ]}  # fmt: skip
    shape = of_avro(node)
    again, following = shape.field("again"), shape.field("next")
    assert again is not None and again.field("v") == Shape(kind="int32")
    assert following is not None and following.kind == "union"


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="schema"):
        of_connect({"type": ["null"]})
    with pytest.raises(ValueError, match="schema"):
        of_avro({"name": "x"})


def test_the_calendar_is_the_one_of_the_clock() -> None:
    assert times.timestamp_text(1_795_226_475_500, 1000) == (
        datetime.fromtimestamp(1_795_226_475, UTC).replace(tzinfo=None).isoformat() + ".5"
    )
