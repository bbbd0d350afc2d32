"""Rows of one table as JSON objects: from a snapshot's query and from the binary log, byte for byte the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headgate.sources.mysql.schema import Relation

_encode = msgspec.json.encode
_NULL = b"null"


class RowShape:
    """How the rows of a table are written."""

    def __init__(self, relation: Relation) -> None:
        columns = [column.name for column in relation.table.columns]
        self._columns = list(zip(columns, relation.forms, strict=True))
        self._names = {column: _encode(column) + b":" for column in columns}
        self._key = relation.table.key
        self._places = [columns.index(column) for column in self._key]
        self.select_list = ", ".join(
            form.select.format(name=f"`{column.replace('`', '``')}`") for column, form in self._columns
        )

    def from_text(self, row: Sequence[Any]) -> tuple[bytes, bytes]:
        """Key and row of what a query gave."""
        values = [
            _NULL if value is None else form.from_text(value)
            for (_, form), value in zip(self._columns, row, strict=True)
        ]
        return self._object_of_key(values), self._object(values)

    def from_binlog(self, values: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Key and row of what the replication library gave. A column that is not in the event is null."""
        written = [
            _NULL if (value := values.get(column)) is None else form.from_binlog(value)
            for column, form in self._columns
        ]
        return self._object_of_key(written), self._object(written)

    def _object(self, values: Sequence[bytes]) -> bytes:
        pairs = (self._names[column] + value for (column, _), value in zip(self._columns, values, strict=True))
        return b"{" + b",".join(pairs) + b"}"

    def _object_of_key(self, values: Sequence[bytes]) -> bytes:
        pairs = (self._names[column] + values[place] for column, place in zip(self._key, self._places, strict=True))
        return b"{" + b",".join(pairs) + b"}"
