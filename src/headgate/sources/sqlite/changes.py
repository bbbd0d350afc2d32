"""Reads noted changes: the change table's entries and the rows they name, of one moment.

Several changes of a row fold into its newest: what a row was in between is known to nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from headgate.model.change import Change, Op
from headgate.model.change import Sequence as SourceSequence
from headgate.sources.sqlite.database import BUILT_IN, name
from headgate.sources.sqlite.rows import RowShape
from headgate.sources.sqlite.schema import Definition, Part
from headgate.sources.sqlite.triggers import CHANGES


class Source(msgspec.Struct, frozen=True):
    """A table, how its rows look, and the id up to which its snapshot shows all changes."""

    table: Definition
    shape: RowShape
    covered: int


class Span(msgspec.Struct, frozen=True):
    """Entries with `after` < id <= `last`. `whole` when it reaches the head; else `time_ms` is the last one's."""

    after: int
    last: int
    whole: bool
    time_ms: int = 0


def next_span(connection: sqlite3.Connection, after: int, head: int, limit: int) -> Span:
    """Up to `limit` entries after an id, or up to the head if there are no more."""
    row = connection.execute(
        f"SELECT id, time_ms FROM {CHANGES} WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", (after, limit - 1)
    ).fetchone()
    if row and row[0] < head:
        return Span(after, int(row[0]), False, int(row[1]))
    return Span(after, max(head, after), True)


def read_changes(connection: sqlite3.Connection, span: Span, sources: Mapping[str, Source]) -> list[Change]:
    """The newest change of each row in the span, in the order of the entries."""
    touched = connection.execute(
        f"SELECT DISTINCT tbl FROM {CHANGES} WHERE id > ? AND id <= ?", (span.after, span.last)
    ).fetchall()
    found: list[Change] = []
    for (table,) in touched:
        if table in sources:
            found.extend(_of_table(connection, span, sources[table]))
    found.sort(key=_order)
    return found


def _order(change: Change) -> SourceSequence:
    return change.sequence or SourceSequence(0, 0)


def _of_table(connection: sqlite3.Connection, span: Span, source: Source) -> Iterable[Change]:
    after = max(span.after, source.covered)
    rows = connection.execute(_query(source.table), (after, span.last, source.table.name))
    width = len(source.table.key)
    for newest, created, time_ms, *values in rows:
        key = values[:width]
        if None not in key:
            yield _change(source, int(newest), bool(created), int(time_ms), key, values[width:])


def _query(table: Definition) -> str:
    """Each distinct key's newest entry, beside the row that its index takes for that key, as it is now.

    SQLite takes the bare columns of a group from the row that holds its one max()
    (https://www.sqlite.org/lang_select.html#bareagg).
    """
    keys = [f"k{place}" for place in range(1, len(table.key) + 1)]
    groups = ", ".join(f"{key}, typeof({key})" for key in keys)
    parts = zip(table.key, keys, strict=True)
    same = [f"t.{name(part.column)} = c.{key} COLLATE {_collation(part)}" for part, key in parts]
    columns = ", ".join(f"t.{name(column.name)}" for column in table.table.columns)
    return (
        f"SELECT c.id, c.created, c.time_ms, {', '.join(f'c.{key}' for key in keys)}, {columns} FROM"
        f" (SELECT max(id) AS id, sum(op = 'i') > 0 AS created, time_ms, {', '.join(keys)} FROM {CHANGES}"
        f" WHERE id > ? AND id <= ? AND tbl = ? GROUP BY {groups}) AS c"
        f" LEFT JOIN main.{name(table.name)} AS t ON {' AND '.join(same)}"
    )


def _collation(part: Part) -> str:
    """The index's own, so that the index is used; one that the owner's program made is unknown here."""
    return part.collation if part.collation.upper() in BUILT_IN else "BINARY"


def _change(source: Source, newest: int, created: bool, time_ms: int, noted: list[Any], values: list[Any]) -> Change:
    key = source.shape.key(noted)
    after = _row_of_key(source, key, values)
    op: Op = "d" if after is None else "c" if created else "u"
    sequence = SourceSequence(newest, newest)
    return Change(op=op, table=source.table.table.name, key=key, after=after, sequence=sequence, time_ms=time_ms)


def _row_of_key(source: Source, key: bytes, values: list[Any]) -> bytes | None:
    """The row, if there is one and its key is spelled so: to SQLite 1 and 1.0, or a and A, may be the same key."""
    if all(value is None for value in values):
        return None
    found, row = source.shape.row(values)
    return row if found == key else None
