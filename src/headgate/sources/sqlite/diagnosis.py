"""What stands in the way of capturing a SQLite file, with the mend."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from headgate.errors import HeadgateError
from headgate.model.finding import Finding, Level
from headgate.sources.sqlite.database import OLDEST, connect, fault, faults, is_busy, name
from headgate.sources.sqlite.schema import Definition, choose, read_tables


def examine(path: Path, wanted: Sequence[str]) -> list[Finding]:
    """All findings; the last word is `ok` when nothing is an error. Never raises for what it finds."""
    findings: list[Finding] = []
    try:
        with faults(), closing(connect(path, busy_ms=500)) as connection:
            findings.extend(_of_library())
            findings.extend(_of_file(connection))
            findings.extend(_of_tables(connection, wanted))
    except HeadgateError as error:
        findings.append(_of_error(error))
    if all(finding.level != "error" for finding in findings):
        findings.append(_finding("ok", "the SQLite file can be captured"))
    return findings


def _finding(level: Level, message: str, mend: str = "") -> Finding:
    return Finding(level=level, part="source", message=message, mend=mend)


def _of_error(error: HeadgateError) -> Finding:
    problem, _, mend = error.message.partition(": ")
    return _finding("error", problem, mend)


def _of_library() -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < OLDEST:
        yield _finding(
            "error",
            f"Python's SQLite is {sqlite3.sqlite_version}, and 3.37 is the oldest that tells what a table is",
            "use a Python with a newer SQLite",
        )


def _of_file(connection: sqlite3.Connection) -> Iterator[Finding]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if is_busy(error):
            yield _finding("warning", "another program holds the file's lock for now", "capture waits for it")
        else:
            yield _of_error(fault(error))
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        yield _finding(
            "warning",
            f"the file's journal mode is {mode}, in which readers and writers wait for each other",
            "nothing to do: capture switches it to WAL, and `headgate detach` switches it back",
        )


def _of_tables(connection: sqlite3.Connection, wanted: Sequence[str]) -> Iterator[Finding]:
    tables = read_tables(connection)
    if not wanted:
        yield from _without_key(tables.values())
    for table in choose(tables, wanted).values():
        yield from _of_table(connection, table)


def _without_key(tables: Iterable[Definition]) -> Iterator[Finding]:
    for table in tables:
        if not table.key:
            yield _finding(
                "warning",
                f"table {table.table.name!r} has no primary key, and so is not captured",
                "give it one if its rows are needed",
            )


def _of_table(connection: sqlite3.Connection, table: Definition) -> Iterator[Finding]:
    for index in table.opaque:
        yield _finding(
            "warning",
            f"index {index!r} of {table.table.name!r} is unique over an expression: a row that REPLACE removes"
            " through it is not seen to go",
            "delete such rows in a statement of their own, or put the expression into a generated column",
        )
    null = " OR ".join(f"{name(part.column)} IS NULL" for part in table.key)
    if connection.execute(f"SELECT 1 FROM main.{name(table.name)} WHERE {null} LIMIT 1").fetchone():
        yield _finding(
            "warning",
            f"table {table.table.name!r} has rows with a null in their key: they are not captured",
            "give these rows a key",
        )
