"""Reads tables whole, between markers, all as of one moment, while their owner goes on writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from headgate.model.change import Change, Marker
from headgate.model.change import Sequence as SourceSequence
from headgate.sources.sqlite.database import connect, name, number
from headgate.sources.sqlite.ledger import Entry
from headgate.sources.sqlite.rows import RowShape
from headgate.sources.sqlite.schema import Definition
from headgate.sources.sqlite.triggers import head_id


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some changes of a snapshot. `finished` is the table's entry when its end marker is among them."""

    table: str
    changes: Sequence[Change]
    done: int
    total: int
    finished: Entry | None = None


class Snapshot:
    """One read transaction over some tables, on a connection of its own, so that confirming needs not wait.

    While it is open SQLite's write-ahead file can't start over, so that it grows with what is written.
    """

    def __init__(self, path: Path, version: int) -> None:
        """SQLITE's schema may have become another since `version` was planned for: see `is_current`."""
        self._connection = connect(path)
        self._connection.execute("BEGIN")
        self._head = head_id(self._connection)
        self.is_current = number(self._connection, "PRAGMA schema_version") == version

    def close(self) -> None:
        """Ends the transaction. Idempotent."""
        self._connection.close()

    def read(self, tables: Sequence[Definition], entries: dict[str, Entry], chunk: int, now_ms: int) -> Iterator[Part]:
        """Per table the begin marker, its rows in chunks, and the end marker with the head that they show."""
        total = sum(number(self._connection, f"SELECT count(*) FROM main.{name(table.name)}") for table in tables)
        done = 0
        for table in tables:
            entry = entries[table.name]
            marker = self._marker(table, "begin", entry, now_ms)
            yield Part(table=table.name, changes=[marker], done=done, total=total)
            for changes in self._chunks(table, chunk, now_ms):
                done += len(changes)
                yield Part(table=table.name, changes=changes, done=done, total=total)
            marker = self._marker(table, "end", entry, now_ms)
            finished = msgspec.structs.replace(entry, phase="done", covered=self._head)
            yield Part(table=table.name, changes=[marker], done=done, total=total, finished=finished)

    def _chunks(self, table: Definition, chunk: int, now_ms: int) -> Iterator[list[Change]]:
        sequence = SourceSequence(self._head, self._head)
        for rows in rows_of(self._connection, table, chunk):
            yield [
                Change(op="r", table=table.table.name, key=key, after=row, sequence=sequence, time_ms=now_ms,
                       snapshot=True)
                for key, row in rows
            ]  # fmt: skip

    def _marker(self, table: Definition, phase: str, entry: Entry, now_ms: int) -> Change:
        return Change(
            op="m",
            table=table.table.name,
            sequence=SourceSequence(self._head, self._head),
            time_ms=now_ms,
            snapshot=True,
            marker=Marker("begin" if phase == "begin" else "end", entry.generation),
        )


def rows_of(connection: sqlite3.Connection, table: Definition, chunk: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows of a table as (key, row), as the connection's transaction sees them."""
    columns = ", ".join(name(column.name) for column in table.table.columns)
    held = " AND ".join(f"{name(part.column)} IS NOT NULL" for part in table.key)
    shape = RowShape(table.table)
    cursor = connection.execute(f"SELECT {columns} FROM main.{name(table.name)} WHERE {held}")
    while rows := _fetch(cursor, chunk):
        yield [shape.row(row) for row in rows]


def _fetch(cursor: sqlite3.Cursor, chunk: int) -> list[tuple[object, ...]]:
    return cursor.fetchmany(chunk)
