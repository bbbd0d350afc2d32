"""Rows of one schema as JSON: which of their values are turned, and which columns they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headgate.errors import Undecodable
from headgate.model.change import UNAVAILABLE
from headgate.model.table import Column, Table
from headgate.sources._wire.shape import Shape
from headgate.sources._wire.turning import Turn, column_type, turning

_LEFT_OUT: Final[Sequence[Any]] = (
    UNAVAILABLE,
    UNAVAILABLE.encode(),
    [UNAVAILABLE],
    {UNAVAILABLE: UNAVAILABLE},
    list(UNAVAILABLE.encode()),
    ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
)
"""What Debezium puts in the place of a value that the source left out, in columns of several types."""
_MARKS: Final = (
    UNAVAILABLE.encode(),
    b"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
    b"[95,95,100,101,98,101,122,105,117,109,95,",
    b"\xbe\x01\xbe\x01\xc8\x01\xca\x01\xc4\x01",  # the same numbers in Avro,
    b"\xbe\x01\x02\xbe\x01\x02\xc8\x01\x02\xca\x01\x02",  # and where each may be null
    b"b68a35a7-17ad-35b3-af2a-ae46edb4545a",
)
_LEFT_OUT_JSON: Final = frozenset(msgspec.json.encode(value) for value in _LEFT_OUT)
_QUOTED: Final = msgspec.Raw(msgspec.json.encode(UNAVAILABLE))
_UNTURNED: Final = frozenset({b"null", bytes(_QUOTED)})

_encode = msgspec.json.encode
_decode = msgspec.json.decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class RowForm:
    """How rows of one shape become JSON. Of no shape: they are JSON, and stay as they are."""

    def __init__(self, shape: Shape | None, *, binary: bool) -> None:
        self.shape = shape
        fields = () if shape is None else shape.fields
        turns = ((name, turning(each, binary=binary)) for name, each in fields)
        self._turns: dict[str, Turn] = {name: turn for name, turn in turns if turn is not None}

    def of_json(self, row: bytes, *, has_left_out: bool) -> bytes:
        """A row given as JSON. Its bytes are untouched where no column is turned and none is left out."""
        if not self._turns and not has_left_out:
            return row
        fields = _decode_fields(row)
        if has_left_out:
            fields |= {name: _QUOTED for name, value in fields.items() if bytes(value) in _LEFT_OUT_JSON}
        for name, turn in self._turns.items():
            value = fields.get(name)
            if value is not None and bytes(value) not in _UNTURNED:
                fields[name] = msgspec.Raw(_encode(_turned(name, turn, _decode(value))))
        return _encode(fields)

    def of_values(self, row: Mapping[str, Any], *, has_left_out: bool) -> bytes:
        """A row given as values, as Avro has them."""
        values = dict(row)
        if has_left_out:
            values |= {name: UNAVAILABLE for name, value in row.items() if value in _LEFT_OUT}
        for name, turn in self._turns.items():
            value = values.get(name)
            if value is not None and value != UNAVAILABLE:
                values[name] = _turned(name, turn, value)
        return _encode(values)


def _turned(name: str, turn: Turn, value: Any) -> Any:
    try:
        return turn(value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise Undecodable(f"The value of {name} is not what its schema says.") from error


def may_leave_out(data: bytes) -> bool:
    """Whether a record may hold a value that stands for one that the source left out."""
    return any(mark in data for mark in _MARKS)


def table_of(name: str, shape: Shape, key: Sequence[str]) -> Table:
    """A table with the columns of a struct's shape."""
    columns = tuple(
        Column(name=column, type=column_type(each), native=each.name or each.kind, nullable=each.optional)
        for column, each in shape.fields
    )
    return Table(name=name, columns=columns, key=tuple(key))
