"""A row's values as JSON.

Integers and reals are numbers (an infinity, which JSON has not, is the text `Infinity` or `-Infinity`),
text is text, a blob is base64. What the declared type adds: BOOLEAN 0 and 1 are false and true; DECIMAL and
NUMERIC numbers are decimal text; JSON text that is valid JSON, and nests no deeper than a row may, is that
JSON. Dates and times stay as they are. Every column may hold any type in SQLite: a value that its column
does not promise is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from headgate.model.depth import DEEPEST_IN_ROW, check_depth
from headgate.model.table import Column, Table
from headgate.sources.sqlite.schema import affinity

_encode = msgspec.json.Encoder().encode
_skim = msgspec.json.Decoder(msgspec.Raw).decode


class RowShape:
    """How one table's rows and keys become JSON objects. `values` come in the order of the table's columns."""

    def __init__(self, table: Table) -> None:
        self._names = [column.name for column in table.columns]
        self._converters = [
            (place, convert)
            for place, column in enumerate(table.columns)
            if (convert := _converter(column)) is not None
        ]
        self._key_names = table.key
        self._key_places = [self._names.index(name) for name in table.key]
        self._key_converters = [_converter(column) for name in table.key if (column := table.column(name))]

    def row(self, values: Sequence[Any]) -> tuple[bytes, bytes]:
        """The key's and the row's JSON."""
        found = list(values)
        for place, convert in self._converters:
            found[place] = convert(found[place])
        key = {name: found[place] for name, place in zip(self._key_names, self._key_places, strict=True)}
        return _encode(key), _encode(dict(zip(self._names, found, strict=True)))

    def key(self, values: Sequence[Any]) -> bytes:
        """The JSON of a key whose values come in the key's order."""
        parts = zip(self._key_names, self._key_converters, values, strict=True)
        return _encode({name: value if convert is None else convert(value) for name, convert, value in parts})


def _converter(column: Column) -> Callable[[Any], Any] | None:
    if column.type == "boolean":
        return _boolean
    if column.type == "decimal":
        return _decimal
    if column.type == "json" and column.native:
        return _json
    # A column of text affinity turns numbers into text, so that nothing there needs a look.
    return None if affinity(column.native) == "TEXT" else _plain


def _plain(value: Any) -> Any:
    if value.__class__ is float and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _boolean(value: Any) -> Any:
    return bool(value) if value.__class__ is int and value in (0, 1) else _plain(value)


def _decimal(value: Any) -> Any:
    if value.__class__ is int:
        return str(value)
    if value.__class__ is float and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    return _plain(value)


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return _plain(value)
    try:
        check_depth(value.encode(), DEEPEST_IN_ROW)
        return _skim(value)
    except (msgspec.DecodeError, RecursionError):
        return value
