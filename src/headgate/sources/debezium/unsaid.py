"""Values of JSON without a schema, where the config says more of them than they do: turned if that is enough.

Without a schema nothing tells a precise decimal's digits from text, nor microseconds from milliseconds. What can
be told is; the rest is refused with what to change. Nothing is guessed.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headgate.errors import Undecodable
from headgate.model.change import UNAVAILABLE
from headgate.model.table import ColumnType
from headgate.sources._wire.times import date_text
from headgate.sources._wire.turning import decimal_text, document

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|NaN|[+-]?Infinity")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_UNTURNED: Final = frozenset({b"null", f'"{UNAVAILABLE}"'.encode()})

_encode = msgspec.json.encode
_decode = msgspec.json.decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Unsaid:
    """Checks rows of one table by the types that its config declares. Rows without such a field stay as they are."""

    def __init__(self, types: Mapping[str, ColumnType], decimals: str | None) -> None:
        """`decimals` is the connector's `decimal.handling.mode`, where the config tells it."""
        readings: dict[str, Callable[[str, Any], Any]] = {
            "decimal": _as_it_is if decimals in ("string", "double") else _decimal,
            "date": _date,
            "time": _time,
            "timestamp": _time,
            "duration": _time,
            "json": _document,
        }
        self._readings = {name: readings[said] for name, said in types.items() if said in readings}

    @property
    def reads(self) -> bool:
        """Whether there is any field to look at."""
        return bool(self._readings)

    def row(self, row: bytes) -> bytes:
        """The row. Undecodable names the field that can't be read, and what to set at the connector."""
        if not self._readings:
            return row
        fields = _decode_fields(row)
        is_turned = False
        for name, reading in self._readings.items():
            raw = fields.get(name)
            if raw is None or bytes(raw) in _UNTURNED:
                continue
            value = _decode(raw)
            turned = reading(name, value)
            if turned is not value:
                fields[name] = msgspec.Raw(_encode(turned))
                is_turned = True
        return _encode(fields) if is_turned else row


def _as_it_is(name: str, value: Any) -> Any:
    return value


def _decimal(name: str, value: Any) -> Any:
    """A number, digits with their scale, or text that is a number and can't be base64."""
    if isinstance(value, str) and _NUMBER.fullmatch(value) and not (len(value) % 4 == 0 and _BASE64.fullmatch(value)):
        return value
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        return _with_scale(name, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise Undecodable(
        f"The decimal {name} can't be read: without a schema its bytes have no scale. Set decimal.handling.mode=string "
        "at the connector and `decimals: string` at the source, or let the converter send schemas."
    )


def _with_scale(name: str, value: Mapping[str, Any]) -> str:
    try:
        return decimal_text(a2b_base64(value["value"]), int(value["scale"]))
    except (ValueError, TypeError) as error:
        raise Undecodable(f"The value of {name} is no decimal with a scale.") from error


def _date(name: str, value: Any) -> Any:
    """Every kind of date that Debezium has counts days."""
    return date_text(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _time(name: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Undecodable(
            f"The time {name} can't be read: without a schema its number has no unit. Set "
            "time.precision.mode=isostring at the connector, or let the converter send schemas."
        )
    return value


def _document(name: str, value: Any) -> Any:
    """Debezium sends documents as text."""
    return document(value) if isinstance(value, str) else value
