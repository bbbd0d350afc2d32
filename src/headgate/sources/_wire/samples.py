"""What the columns of JSON without a schema seem to be, by rows that were seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from headgate.model.change import UNAVAILABLE
from headgate.model.table import Column, ColumnType, Doubt, Table

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_UNKNOWN = "unknown"
"""The native type of a column that has been null whenever it was seen."""

Doubting: TypeAlias = Callable[[Any], Doubt]
"""What a value may be in truth."""


def certain(value: Any) -> Doubt:
    """Values are what they seem."""
    return ""


def grown(known: Table, row: bytes, doubting: Doubting = certain) -> Table:
    """The table with what this row tells of its columns. A column keeps its type unless a value contradicts it.

    And so it does its doubt, but a doubt that is gone does not come back.
    """
    try:
        values = _decode(row)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return known
    columns = {column.name: column for column in known.columns}
    for name, value in values.items():
        columns[name] = _column(columns.get(name), name, value, doubting)
    return msgspec.structs.replace(known, columns=tuple(columns.values()))


def declared(name: str, key: tuple[str, ...], types: Mapping[str, ColumnType | None]) -> Table:
    """What a config says of a table before any row of it was seen."""
    names = dict.fromkeys((*key, *types))
    columns = (_declared(column, types.get(column), is_key=column in key) for column in names)
    return Table(name=name, columns=tuple(columns), key=key)


def _declared(name: str, type_: ColumnType | None, *, is_key: bool) -> Column:
    if type_ is None:
        return Column(name=name, type="string" if is_key else "json", native=_UNKNOWN, nullable=not is_key)
    return Column(name=name, type=type_, native="declared", nullable=not is_key)


def _column(known: Column | None, name: str, value: Any, doubting: Doubting) -> Column:
    if value is None or value == UNAVAILABLE:
        return known or Column(name=name, type="json", native=_UNKNOWN)
    seen = _type_of(value)
    if known is None or known.native == _UNKNOWN:
        nullable = True if known is None else known.nullable
        return Column(name=name, type=seen, native="seen", nullable=nullable, doubt=doubting(value))
    if known.native != "seen":
        return known
    if known.doubt and doubting(value) != known.doubt:
        known = msgspec.structs.replace(known, doubt="")
    if known.type == seen or (known.type == "number" and seen == "integer"):
        return known
    wider: ColumnType = "number" if {known.type, seen} == {"integer", "number"} else "json"
    return msgspec.structs.replace(known, type=wider)


def _type_of(value: Any) -> ColumnType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "json"
