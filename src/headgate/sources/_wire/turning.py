"""How values that are spelled for machines are turned into what a person reads, by what their schema says they are.

The spelling is that of our own capture (docs/sources.md). What is named here:
https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types and Kafka
Connect's own logical types. Everything else stays as it is, geometry too.
"""

from __future__ import annotations

import struct
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any, Final, TypeAlias

import msgspec

from headgate.model.depth import DEEPEST_IN_ROW, check_depth
from headgate.model.table import ColumnType
from headgate.sources._wire.shape import Shape
from headgate.sources._wire.times import (
    date_text,
    duration_text,
    interval_text,
    time_text,
    timestamp_text,
    zoned_text,
)

Turn: TypeAlias = Callable[[Any], Any]
"""A decoded value, which is not null, as what stands in the row's JSON. ValueError and its kin: no such value."""

MILLIS, MICROS, NANOS = 1_000, 1_000_000, 1_000_000_000
_MOST_DIGITS_BYTES: Final = 1_600  # Python writes no integer of more than 4,300 digits
_FLOAT: Final = struct.Struct("<f")


def turning(shape: Shape, *, binary: bool) -> Turn | None:
    """How a value of this shape is turned; None where it stays as it is.

    `binary`: bytes come as bytes and numbers may be infinite, as in Avro; else bytes are base64, as in JSON.
    """
    data: Turn = _same if binary else _from_base64
    named = _named(shape, data)
    if named is not None:
        return named
    if shape.kind == "array" and shape.items is not None:
        return _each(turning(shape.items, binary=binary))
    if shape.kind == "map" and shape.items is not None:
        return _each_value(turning(shape.items, binary=binary))
    if shape.kind == "struct":
        inside = {name: turn for name, each in shape.fields if (turn := turning(each, binary=binary)) is not None}
        return _fields(inside) if inside else None
    if binary:
        return _IN_BINARY.get(shape.kind)
    return None


def column_type(shape: Shape) -> ColumnType:
    """What an agent may expect of it once it has been turned."""
    return _TYPE_OF_NAME.get(shape.name) or _TYPE_OF_KIND.get(shape.kind, "json")


# --- by name -------------------------------------------------------------------------------------


def _named(shape: Shape, data: Turn) -> Turn | None:
    parameters = shape.parameters
    if shape.name in ("org.apache.kafka.connect.data.Decimal", "avro.decimal") and shape.kind == "bytes":
        scale = int(parameters.get("scale", "0"))
        return lambda value: decimal_text(data(value), scale)
    if shape.name == "io.debezium.data.VariableScaleDecimal":
        return lambda value: decimal_text(data(value["value"]), int(value["scale"]))
    if shape.name == "io.debezium.data.Bits":
        length = int(parameters.get("length", "0"))
        return lambda value: bits_text(data(value), length)
    if shape.kind == "string":
        return _OF_TEXT.get(shape.name)
    return _OF_NUMBER.get(shape.name) if shape.kind.startswith("int") else None


def decimal_text(data: bytes, scale: int) -> str:
    """An unscaled two's complement number, most significant byte first, as a decimal with every digit."""
    number = int.from_bytes(data, "big", signed=True)
    digits = str(abs(number)) if len(data) < _MOST_DIGITS_BYTES else format(Decimal(abs(number)), "f")
    if scale > 0:
        digits = digits.rjust(scale + 1, "0")
        digits = f"{digits[:-scale]}.{digits[-scale:]}"
    elif number:
        digits += "0" * -scale
    return f"-{digits}" if number < 0 else digits


def bits_text(data: bytes, length: int) -> str:
    """Bits, the least significant byte first, as text of `length` noughts and ones."""
    width = min(length, 8 * len(data)) if length > 0 else 8 * len(data)
    return f"{int.from_bytes(data, 'little'):0{max(width, 1)}b}"


def document(text: str) -> Any:
    """A JSON document as itself; text that is none, or nests deeper than a row may, stays text."""
    try:
        msgspec.json.decode(text)
        raw = text.encode()
        check_depth(raw, DEEPEST_IN_ROW)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    return msgspec.Raw(raw)


def _zoned(value: int, per_s: int) -> str:
    return timestamp_text(value, per_s) + "Z"


_OF_TEXT: Final[Mapping[str, Turn]] = {
    "io.debezium.data.Json": document,
    "io.debezium.time.ZonedTimestamp": zoned_text,
    "io.debezium.time.ZonedTime": zoned_text,
    "io.debezium.time.Interval": interval_text,
    "io.debezium.time.IsoDate": lambda value: value.removesuffix("Z"),
    "io.debezium.time.IsoTime": lambda value: zoned_text(value).removesuffix("Z"),
    "io.debezium.time.IsoTimestamp": lambda value: zoned_text(value).removesuffix("Z"),
}
_OF_NUMBER: Final[Mapping[str, Turn]] = {
    "io.debezium.time.Date": date_text,
    "org.apache.kafka.connect.data.Date": date_text,
    "avro.date": date_text,
    "io.debezium.time.Time": lambda value: time_text(value, MILLIS),
    "org.apache.kafka.connect.data.Time": lambda value: time_text(value, MILLIS),
    "avro.time-millis": lambda value: time_text(value, MILLIS),
    "io.debezium.time.MicroTime": lambda value: time_text(value, MICROS),
    "avro.time-micros": lambda value: time_text(value, MICROS),
    "io.debezium.time.NanoTime": lambda value: time_text(value, NANOS),
    "io.debezium.time.Timestamp": lambda value: timestamp_text(value, MILLIS),
    "org.apache.kafka.connect.data.Timestamp": lambda value: timestamp_text(value, MILLIS),
    "avro.local-timestamp-millis": lambda value: timestamp_text(value, MILLIS),
    "io.debezium.time.MicroTimestamp": lambda value: timestamp_text(value, MICROS),
    "avro.local-timestamp-micros": lambda value: timestamp_text(value, MICROS),
    "io.debezium.time.NanoTimestamp": lambda value: timestamp_text(value, NANOS),
    "avro.local-timestamp-nanos": lambda value: timestamp_text(value, NANOS),
    "avro.timestamp-millis": lambda value: _zoned(value, MILLIS),
    "avro.timestamp-micros": lambda value: _zoned(value, MICROS),
    "avro.timestamp-nanos": lambda value: _zoned(value, NANOS),
    "io.debezium.time.MicroDuration": lambda value: duration_text(value, MICROS),
    "io.debezium.time.NanoDuration": lambda value: duration_text(value, NANOS),
}

_TYPE_OF_NAME: Final[Mapping[str, ColumnType]] = {
    "org.apache.kafka.connect.data.Decimal": "decimal",
    "avro.decimal": "decimal",
    "io.debezium.data.VariableScaleDecimal": "decimal",
    "io.debezium.data.Bits": "string",
    "io.debezium.data.Json": "json",
    "io.debezium.data.Uuid": "uuid",
    "avro.uuid": "uuid",
    "io.debezium.time.ZonedTimestamp": "timestamp",
    "io.debezium.time.ZonedTime": "time",
    "io.debezium.time.Interval": "duration",
    "io.debezium.time.IsoDate": "date",
    "io.debezium.time.IsoTime": "time",
    "io.debezium.time.IsoTimestamp": "timestamp",
    **{name: "date" for name in _OF_NUMBER if name.lower().endswith("date")},
    **{name: "time" for name in _OF_NUMBER if ".time-" in name or name.endswith("Time")},
    **{name: "timestamp" for name in _OF_NUMBER if "timestamp" in name.lower()},
    **{name: "duration" for name in _OF_NUMBER if name.endswith("Duration")},
}
_TYPE_OF_KIND: Final[Mapping[str, ColumnType]] = {
    **dict.fromkeys(("int8", "int16", "int32", "int64"), "integer"),
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "string": "string",
    "bytes": "bytes",
    "array": "array",
}

# --- by kind -------------------------------------------------------------------------------------


def shortest(value: float) -> Any:
    """The shortest number that is the same in 32 bits; `NaN`, `Infinity` and `-Infinity` as text."""
    if not isfinite(value):
        return finite(value)
    packed = _FLOAT.pack(value)
    return next(short for digits in range(6, 18) if _FLOAT.pack(short := float(f"{value:.{digits}g}")) == packed)


def finite(value: float) -> Any:
    """The number; `NaN`, `Infinity` and `-Infinity` as text, as JSON has none of them."""
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


_IN_BINARY: Final[Mapping[str, Turn]] = {"float": shortest, "double": finite}


def _each(turn: Turn | None) -> Turn | None:
    if turn is None:
        return None
    return lambda values: [None if value is None else turn(value) for value in values]


def _each_value(turn: Turn | None) -> Turn | None:
    if turn is None:
        return None
    return lambda values: {key: None if value is None else turn(value) for key, value in values.items()}


def _fields(turns: Mapping[str, Turn]) -> Turn:
    def turn_fields(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: turns[name](value) if value is not None and name in turns else value for name, value in values.items()
        }

    return turn_fields


def _same(value: Any) -> Any:
    return value


def _from_base64(text: str) -> bytes:
    try:
        return a2b_base64(text)
    except Base64Error as error:
        raise ValueError("no base64") from error
