"""A table as its source describes it."""

from __future__ import annotations

from typing import Literal

import msgspec

ColumnType = Literal[
    "integer", "number", "decimal", "string", "boolean", "date", "time", "timestamp",
    "duration", "bytes", "json", "uuid", "array",
]  # fmt: skip
"""What an agent may expect in a field. decimal, date, time, timestamp, duration, uuid: text. bytes: base64."""


Doubt = Literal["", "decimal", "time"]
"""What a column may hold in truth where records carry no schema: a decimal's bytes, or a time's number."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column. `native` is the source's own name of its type."""

    name: str
    type: ColumnType
    native: str = ""
    nullable: bool = True
    doubt: Doubt = ""


class ForeignKey(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of this table that hold another table's key."""

    columns: tuple[str, ...]
    table: str
    """`schema.table` that is referred to."""
    refers_to: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table: columns in the source's order, its primary key's columns in the key's order."""

    name: str
    """`schema.table`."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    """The columns of each unique index other than the primary key."""
    indexed: tuple[tuple[str, ...], ...] = ()
    """The columns of each other index."""
    foreign_keys: tuple[ForeignKey, ...] = ()

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)


def topic_of(pipeline: str, table: str) -> str:
    """The topic that carries a table's changes: `<pipeline>.<schema>.<table>`."""
    return f"{pipeline}.{table}"


def heartbeat_topic(pipeline: str) -> str:
    """The pipeline's control topic: heartbeats and table schemas."""
    return f"headgate.heartbeats.{pipeline}"
