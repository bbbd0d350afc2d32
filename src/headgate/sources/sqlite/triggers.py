"""The SQL of ours at the source: one change table, and triggers that note a table and a key in it.

Triggers copy key columns only, each into a column without a type, which takes any value as it is. So no
type of the owner's and no `ALTER TABLE` breaks them, and any program that writes the file runs them: they
use functions only that every SQLite has. One limit of SQLite's: a column of a unique index is named by a
trigger, so `DROP COLUMN` of it, right after its index was dropped, is refused until capture has seen that.

`REPLACE` removes rows that stand in the way of a new one without a delete trigger, so triggers before the
write note the keys of those rows. They may note too much (a partial index is taken as whole, `OR IGNORE`
writes nothing after all): then a row is read once more, and is as it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from headgate.sources.sqlite.database import literal, name, number
from headgate.sources.sqlite.schema import Definition, Part

CHANGES = "headgate_changes"
_PREFIX = "headgate_"
_KEY_COLUMNS = 4
_NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)"


def ensure_change_table(connection: sqlite3.Connection, first_id: int, key_columns: int) -> bool:
    """Makes the change table, or widens it for longer keys. Answers whether it was made.

    Ids start above `first_id`, so that a table made anew never counts below the one before it.
    """
    have = number(connection, f"SELECT count(*) FROM pragma_table_info('{CHANGES}') WHERE name GLOB 'k[0-9]*'")
    made = have == 0
    if made:
        have = _KEY_COLUMNS
        keys = ", ".join(f"k{place}" for place in range(1, have + 1))
        connection.execute(
            f"CREATE TABLE {CHANGES} (id INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL,"
            f" op TEXT NOT NULL, time_ms INTEGER NOT NULL, {keys})"
        )
    for place in range(have + 1, key_columns + 1):
        connection.execute(f"ALTER TABLE {CHANGES} ADD COLUMN k{place}")
    if made:
        count_from(connection, first_id)
    return made


def count_from(connection: sqlite3.Connection, first_id: int) -> None:
    """Makes the next ids larger than `first_id`; never lowers them."""
    if not connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = ?", (CHANGES,)).fetchone():
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, 0)", (CHANGES,))
    connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (first_id, CHANGES))


def head_id(connection: sqlite3.Connection) -> int:
    """The id of the newest change committed, consumed ones included."""
    return number(connection, f"SELECT seq FROM sqlite_sequence WHERE name = '{CHANGES}'")


def install(connection: sqlite3.Connection, tables: Iterable[Definition]) -> set[str]:
    """Makes the triggers be exactly those of these tables. Answers the tables where one was missing or another."""
    expected = {trigger: (table.name, sql) for table in tables for trigger, sql in triggers_of(table).items()}
    found = {trigger: (table, sql) for trigger, table, sql in _installed(connection)}
    for trigger, what in found.items():
        if expected.get(trigger) != what:
            connection.execute(f"DROP TRIGGER {name(trigger)}")
    missing = {trigger: what for trigger, what in expected.items() if found.get(trigger) != what}
    for _, sql in missing.values():
        connection.execute(sql)
    return {table for table, _ in missing.values()}


def remove(connection: sqlite3.Connection) -> list[str]:
    """Drops all our triggers and tables. Answers a line for each."""
    taken = []
    for trigger, table, _ in _installed(connection):
        connection.execute(f"DROP TRIGGER {name(trigger)}")
        taken.append(f"trigger {trigger} on {table}")
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('headgate_changes', 'headgate_state')"
    ).fetchall():
        connection.execute(f"DROP TABLE {table}")
        taken.append(f"table {table}")
    return taken


def _installed(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, ?) = ?"
        f" AND instr(sql, '{CHANGES}') > 0 ORDER BY name",
        (len(_PREFIX), _PREFIX),
    )
    return [(str(trigger), str(table), str(sql)) for trigger, table, sql in rows]


def triggers_of(table: Definition) -> dict[str, str]:
    """The triggers of one table: name → SQL."""
    bodies = {
        "insert": ("AFTER INSERT", [_note(table, "i", "NEW")]),
        "update": ("AFTER UPDATE", _notes_of_update(table)),
        "delete": ("AFTER DELETE", [_note(table, "d", "OLD")]),
    }
    if table.conflicts:
        bodies["insert_over"] = ("BEFORE INSERT", [_note_rivals(table, parts) for parts in table.conflicts])
        other = f" AND ({_differs(table, 'r', 'OLD')})"
        bodies["update_over"] = ("BEFORE UPDATE", [_note_rivals(table, parts) + other for parts in table.conflicts])
    return {
        f"{_PREFIX}{event}_{table.name}": (
            f"CREATE TRIGGER {name(f'{_PREFIX}{event}_{table.name}')} {when} ON {name(table.name)} BEGIN "
            + "".join(f"{statement}; " for statement in statements)
            + "END"
        )
        for event, (when, statements) in bodies.items()
    }


def _note(table: Definition, op: str, row: str) -> str:
    keys = ", ".join(f"k{place}" for place in range(1, len(table.key) + 1))
    values = ", ".join(f"{row}.{name(part.column)}" for part in table.key)
    return (
        f"INSERT INTO {CHANGES} (tbl, op, time_ms, {keys})"
        f" SELECT {literal(table.name)}, {literal(op)}, {_NOW_MS}, {values}"
    )


def _notes_of_update(table: Definition) -> list[str]:
    """The new key; before it the old one where they differ, which makes it a delete and a create."""
    moved = _differs(table, "OLD", "NEW")
    return [
        f"{_note(table, 'd', 'OLD')} WHERE {moved}",
        f"{_note(table, 'i', 'NEW')} WHERE {moved}",
        f"{_note(table, 'u', 'NEW')} WHERE NOT ({moved})",
    ]


def _differs(table: Definition, one: str, other: str) -> str:
    """Whether two rows' keys differ in a byte or in type, whatever their collation takes for equal."""
    return " OR ".join(
        f"{one}.{name(part.column)} IS NOT {other}.{name(part.column)} COLLATE BINARY"
        f" OR typeof({one}.{name(part.column)}) <> typeof({other}.{name(part.column)})"
        for part in table.key
    )


def _note_rivals(table: Definition, parts: tuple[Part, ...]) -> str:
    same = " AND ".join(f"r.{name(part.column)} = {_coming(part)} COLLATE {name(part.collation)}" for part in parts)
    return f"{_note(table, 'd', 'r')} FROM {name(table.name)} AS r WHERE {same}"


def _coming(part: Part) -> str:
    new = f"NEW.{name(part.column)}"
    return f"ifnull({new}, {part.filler})" if part.filler else new
