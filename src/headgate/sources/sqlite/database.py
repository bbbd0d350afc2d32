"""Opens the owner's file, names things in SQL, and says in our words what SQLite refused."""

from __future__ import annotations

import base64
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.errors import HeadgateError, SourceError, SourceNotReady, Unavailable

BUSY_MS = 5_000
BUILT_IN = ("BINARY", "NOCASE", "RTRIM")
"""The collations that every SQLite has."""
OLDEST = (3, 37, 0)
"""The oldest SQLite that tells shadow tables from others (PRAGMA table_list)."""


def connect(path: Path, *, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """A connection that commits by itself and never makes a file. SourceError when there is none.

    May be used by one thread at a time, and closed by another. `synchronous` is NORMAL: what we write
    (installed triggers aside) only forgets consumed changes, so that losing it costs a repetition.
    """
    if not path.is_file():
        raise SourceError("the SQLite file that the source's `path` names does not exist: correct the path")
    with faults():
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_ms / 1000,
        )
        connection.text_factory = decode_text
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            lend_collations(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def lend_collations(connection: sqlite3.Connection) -> None:
    """Lets this connection prepare statements over indexes whose collation the owner's program made.

    The order lent is not theirs: whoever looks up a key must say a collation of `BUILT_IN`.
    """
    indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
    for (index,) in indexes:
        for (collation,) in connection.execute("SELECT coll FROM pragma_index_xinfo(?)", (index,)).fetchall():
            if collation.upper() not in BUILT_IN:
                connection.create_collation(collation, lambda one, other: (one > other) - (one < other))


def decode_text(data: bytes) -> str:
    """Text as SQLite keeps it: not always UTF-8. What is none becomes a data URI (RFC 2397), losing nothing."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def name(identifier: str) -> str:
    """An identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text literal, for triggers, which take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def number(connection: sqlite3.Connection, sql: str) -> int:
    """The one number that a query answers; 0 for no row or null."""
    row = connection.execute(sql).fetchone()
    return int(row[0] or 0) if row else 0


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One read transaction: everything read within is of one moment. Never blocks a writer in WAL mode."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _end(connection, "COMMIT")


@contextmanager
def writing(connection: sqlite3.Connection, *, wait: bool = True) -> Iterator[None]:
    """One write transaction; rolled back when the block raises. Without `wait`, a busy file raises at once."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS if wait else 0}")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        _end(connection, "ROLLBACK")
        raise


def _end(connection: sqlite3.Connection, how: str) -> None:
    if connection.in_transaction:
        connection.execute(how)


def enter_wal(connection: sqlite3.Connection) -> str:
    """Switches the file to WAL, so that readers and writers don't wait for each other. Answers the mode before.

    Needs a moment in which nobody else reads or writes: Unavailable when none comes within `BUSY_MS`.
    """
    before = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise SourceNotReady(
                "this SQLite file can't use write-ahead logging (WAL): put it on a local, writable disk"
            )
        return before


@contextmanager
def faults() -> Iterator[None]:
    """SQLite's errors leave the block as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise fault(error) from error


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way for now."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def fault(error: sqlite3.Error) -> HeadgateError:
    """What an error of SQLite means for capture, with the mend."""
    if is_busy(error):
        return Unavailable("another program holds the SQLite file's lock: it is tried again")
    kind, message = _FAULTS.get(_code(error), (SourceError, "SQLite refused a statement: see the process's log"))
    return kind(message)


_FAULTS: dict[int, tuple[type[HeadgateError], str]] = {
    sqlite3.SQLITE_NOTADB: (
        SourceError,
        "the source's file is no SQLite database, or an encrypted one: correct the path, or decrypt the file",
    ),
    sqlite3.SQLITE_CORRUPT: (
        SourceError,
        "the SQLite file is damaged: have its owner run PRAGMA integrity_check, and restore it from a backup",
    ),
    sqlite3.SQLITE_READONLY: (
        SourceNotReady,
        "the SQLite file is read-only, but capture installs triggers: let this user write the file and its folder",
    ),
    sqlite3.SQLITE_PERM: (SourceNotReady, "this user may not open the SQLite file: grant reading and writing"),
    sqlite3.SQLITE_CANTOPEN: (
        SourceNotReady,
        "the SQLite file can't be opened: let this user read and write the file and its folder",
    ),
    sqlite3.SQLITE_FULL: (SourceError, "the disk of the SQLite file is full: free some space"),
    sqlite3.SQLITE_IOERR: (Unavailable, "the disk of the SQLite file does not answer as it should: check the disk"),
}
