"""Reads what the owner's tables are: PRAGMA table_list, table_xinfo, index_list, index_xinfo, foreign_key_list.

https://www.sqlite.org/pragma.html. Views, virtual tables and their shadow tables, SQLite's own tables and
ours are passed over. A table whose only key is the hidden rowid has no key here.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from headgate.errors import SourceError, TableWithoutKey
from headgate.model.table import Column, ColumnType, ForeignKey, Table

SCHEMA = "main"
OURS = ("headgate_changes", "headgate_state")


class Part(msgspec.Struct, frozen=True):
    """A column as an index compares it. `filler` is what REPLACE puts for a forbidden null, as SQL."""

    column: str
    collation: str
    filler: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the owner, and what its triggers need to know."""

    table: Table
    key: tuple[Part, ...] = ()
    conflicts: tuple[tuple[Part, ...], ...] = ()
    """Per unique index through which REPLACE may remove a row with another key: its columns."""
    opaque: tuple[str, ...] = ()
    """Unique indexes over expressions: what REPLACE removes through them is not seen."""

    @property
    def name(self) -> str:
        """The table's name without its schema."""
        return self.table.name.partition(".")[2]

    @property
    def shape(self) -> str:
        """Names how rows look: when it changes, every row must be read again."""
        form = [[(column.name, column.native) for column in self.table.columns], self.key]
        return hashlib.sha256(msgspec.json.encode(form)).hexdigest()[:16]


def read_tables(connection: sqlite3.Connection) -> dict[str, Definition]:
    """All tables of the owner by their names without schema, those without a key too."""
    names = [
        str(row[0])
        for row in connection.execute(
            "SELECT name FROM pragma_table_list WHERE schema = ? AND type = 'table' ORDER BY name", (SCHEMA,)
        )
    ]
    kept = [name for name in names if not name.lower().startswith("sqlite_") and name.lower() not in OURS]
    keys = {name.lower(): _key_of(connection, name) for name in kept}
    spelled = {name.lower(): name for name in kept}
    return {name: _read_table(connection, name, keys, spelled) for name in kept}


def choose(tables: Mapping[str, Definition], wanted: Sequence[str]) -> dict[str, Definition]:
    """The tables that the config names, or all with a key if it names none.

    SourceError names a table that is not there; TableWithoutKey one that can't be captured.
    """
    if not wanted:
        return {name: table for name, table in tables.items() if table.key}
    found = {}
    for given in wanted:
        name = unqualified(given)
        table = next((tables[spelled] for spelled in tables if spelled.lower() == name.lower()), None)
        if table is None:
            raise SourceError(f"there is no table {name!r} in the SQLite file: create it, or take it out of `tables`")
        found[table.name] = require_key(table)
    return found


def require_key(table: Definition) -> Definition:
    """The table itself. TableWithoutKey if it has no primary key."""
    if not table.key:
        raise TableWithoutKey(
            f"table {table.table.name!r} has no primary key: give it one, or take it out of `tables`",
            table=table.table.name,
        )
    return table


def unqualified(table: str) -> str:
    """A table's name without the schema, however the config wrote it."""
    return table.removeprefix(f"{SCHEMA}.")


def _read_table(
    connection: sqlite3.Connection, name: str, keys: Mapping[str, tuple[str, ...]], spelled: Mapping[str, str]
) -> Definition:
    facts = connection.execute('SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)', (name,))
    rows = facts.fetchall()
    key = keys[name.lower()]
    fillers = {str(row[0]): str(row[3]) for row in rows if row[2] and row[3] is not None}
    indexes = _indexes(connection, name, fillers)
    key_parts = _key_parts(key, indexes)
    return Definition(
        table=Table(
            name=f"{SCHEMA}.{name}",
            columns=tuple(_column(row, key) for row in rows),
            key=key,
            unique=_column_sets(indexes, unique=True),
            indexed=_column_sets(indexes, unique=False),
            foreign_keys=_foreign_keys(connection, name, keys, spelled),
        ),
        key=key_parts,
        conflicts=tuple(i.parts for i in indexes if i.unique and i.parts and not _identifies(i, rows)),
        opaque=tuple(i.name for i in indexes if i.unique and not i.parts),
    )


def _key_of(connection: sqlite3.Connection, name: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT name FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk", (name,))
    return tuple(str(row[0]) for row in rows)


def _column(row: Sequence[object], key: tuple[str, ...]) -> Column:
    name, native, not_null = str(row[0]), str(row[1] or ""), bool(row[2])
    return Column(name=name, type=column_type(native), native=native, nullable=not not_null and name not in key)


class _Index(msgspec.Struct, frozen=True):
    name: str
    unique: bool
    origin: str
    partial: bool
    parts: tuple[Part, ...]
    """Its columns; none if one of them is an expression."""


def _indexes(connection: sqlite3.Connection, table: str, fillers: Mapping[str, str]) -> list[_Index]:
    found = connection.execute('SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (table,)).fetchall()
    return [
        _Index(str(name), bool(unique), str(origin), bool(partial), _parts(connection, str(name), fillers))
        for name, unique, origin, partial in sorted(found, key=lambda row: str(row[0]))
    ]


def _parts(connection: sqlite3.Connection, index: str, fillers: Mapping[str, str]) -> tuple[Part, ...]:
    rows = connection.execute(
        "SELECT cid, name, coll FROM pragma_index_xinfo(?) WHERE key = 1 ORDER BY seqno", (index,)
    ).fetchall()
    if any(cid < 0 for cid, _, _ in rows):
        return ()
    return tuple(Part(str(name), str(collation), fillers.get(str(name), "")) for _, name, collation in rows)


def _key_parts(key: tuple[str, ...], indexes: Sequence[_Index]) -> tuple[Part, ...]:
    """The key's columns with their index's collations; an INTEGER PRIMARY KEY has no index of its own."""
    own = next((index for index in indexes if index.origin == "pk"), None)
    collations = {part.column: part.collation for part in own.parts} if own else {}
    return tuple(Part(column, collations.get(column, "BINARY")) for column in key)


def _identifies(index: _Index, rows: Sequence[Sequence[object]]) -> bool:
    """Whether a conflict on this index always is a conflict with the very same key, byte for byte."""
    natives = {str(row[0]): str(row[1] or "") for row in rows}
    return index.origin == "pk" and all(
        part.collation == "BINARY" and affinity(natives[part.column]) != "BLOB" for part in index.parts
    )


def _column_sets(indexes: Sequence[_Index], *, unique: bool) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(part.column for part in index.parts)
        for index in indexes
        if index.unique == unique and index.parts and not index.partial and index.origin != "pk"
    )


def _foreign_keys(
    connection: sqlite3.Connection, name: str, keys: Mapping[str, tuple[str, ...]], spelled: Mapping[str, str]
) -> tuple[ForeignKey, ...]:
    grouped: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, table, source, target in connection.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (name,)
    ):
        grouped.setdefault(number, []).append((str(table), str(source), target))
    return tuple(_foreign_key(parts, keys, spelled) for parts in grouped.values() if parts[0][0].lower() in keys)


def _foreign_key(
    parts: Sequence[tuple[str, str, str | None]], keys: Mapping[str, tuple[str, ...]], spelled: Mapping[str, str]
) -> ForeignKey:
    parent = parts[0][0].lower()
    named = tuple(target for _, _, target in parts if target is not None)
    return ForeignKey(
        columns=tuple(source for _, source, _ in parts),
        table=f"{SCHEMA}.{spelled[parent]}",
        refers_to=named or keys[parent],
    )


_TYPES: tuple[tuple[str, ColumnType], ...] = (
    ("BOOL", "boolean"), ("JSON", "json"), ("UUID", "uuid"), ("DATETIME", "timestamp"), ("TIMESTAMP", "timestamp"),
    ("DATE", "date"), ("TIME", "time"), ("DECIMAL", "decimal"), ("NUMERIC", "decimal"), ("INT", "integer"),
    ("CHAR", "string"), ("CLOB", "string"), ("TEXT", "string"), ("BLOB", "bytes"), ("REAL", "number"),
    ("FLOA", "number"), ("DOUB", "number"),
)  # fmt: skip


def column_type(native: str) -> ColumnType:
    """What a declared type promises: the first word found in it. Without any it may hold all: json."""
    declared = native.upper()
    if declared in ("", "ANY"):
        return "json"
    return next((kind for word, kind in _TYPES if word in declared), "number")


def affinity(native: str) -> str:
    """The column's affinity, by https://www.sqlite.org/datatype3.html#determination_of_column_affinity."""
    declared = native.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if declared in ("", "ANY") or "BLOB" in declared:
        return "BLOB"
    return "REAL" if any(word in declared for word in ("REAL", "FLOA", "DOUB")) else "NUMERIC"
