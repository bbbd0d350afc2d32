"""The log's database: its tables, its connections, and what its errors mean."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from headgate.connections._wal import turn_to_wal
from headgate.errors import HeadgateError, LogError, Unavailable
from headgate.model.position import Partition

SPAN = 1 << 40
"""A record's rowid is its partition's id × SPAN + its offset: each partition is one dense range of the B-tree."""

BUSY_TIMEOUT_S = 5.0
_OURS = 0x48474C47  # application_id, "HGLG" in ASCII
_VERSION = 2

_TABLES = f"""
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    retention_ms INTEGER NOT NULL,
    whole_from INTEGER NOT NULL DEFAULT 0,
    cleaned_to INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number)
);
CREATE TABLE IF NOT EXISTS records (
    place INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    key BLOB,
    value BLOB,
    headers BLOB
);
CREATE TABLE IF NOT EXISTS log (identity TEXT NOT NULL);
INSERT INTO log SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM log);
CREATE TABLE IF NOT EXISTS kept (
    partition INTEGER NOT NULL,
    key BLOB NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (partition, key)
) WITHOUT ROWID;
PRAGMA application_id = {_OURS};
PRAGMA user_version = {_VERSION};
"""


class PartitionRow(NamedTuple):
    """What the database knows of one partition."""

    id: int
    compacted: bool
    retention_ms: int
    whole_from: int
    """Records before this offset were taken away: expired ones, or tombstones of a compacted topic."""
    cleaned_to: int
    """Up to here a compacted partition holds at most one record of each key; `kept` says where it is."""
    next_offset: int


class Bell:
    """Wakes the readers of this process when something was appended by it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rings = 0

    @property
    def rings(self) -> int:
        """How often it rang."""
        return self._rings

    def ring(self) -> None:
        """Wakes everyone who waits."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, heard: int, timeout_s: float) -> bool:
        """Waits until it has rung more than `heard` times. False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._rings != heard, timeout_s)


def connect(path: Path) -> sqlite3.Connection:
    """A connection, to be used by one thread at a time. Makes the file and its tables when they are missing."""
    with errors_explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    _refuse_strangers(connection)
    turn_to_wal(connection, within_s=BUSY_TIMEOUT_S)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if _pragma(connection, "user_version") != _VERSION:
        # The script ends the transaction it is in, so it brings its own.
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")


def _refuse_strangers(connection: sqlite3.Connection) -> None:
    ours, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if (ours, version) not in ((0, 0), (_OURS, _VERSION)):
        raise LogError("the embedded log was made by another program or version: use another data folder")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection, of any process, has committed."""
    with errors_explained():
        return _pragma(connection, "data_version")


def load_partitions(connection: sqlite3.Connection) -> dict[Partition, PartitionRow]:
    """All partitions, in the order in which they were made."""
    rows = connection.execute(
        "SELECT topic, number, id, compacted, retention_ms, whole_from, cleaned_to, next_offset "
        "FROM partitions ORDER BY id"
    )
    return {
        Partition(topic, number): PartitionRow(row_id, bool(compacted), *rest)
        for topic, number, row_id, compacted, *rest in rows
    }


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool) -> Iterator[None]:
    """One transaction: committed at its end, rolled back when anything is raised. Errors are explained."""
    with errors_explained():
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def errors_explained() -> Iterator[None]:
    """What SQLite and the file system raise, as errors of ours that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error) from error
    except OSError as error:
        raise LogError("the embedded log's file can't be made: look at the data folder's permissions") from error


def _explain(error: sqlite3.Error) -> HeadgateError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("the embedded log is held by another process: it is tried again")
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return LogError("the embedded log can't be written: free space on its disk, then start again")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogError("the embedded log is damaged: put its file aside and take a new snapshot")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return LogError("the embedded log's file can't be opened: look at the data folder's permissions")
    return LogError("the embedded log refused a statement: look at the process's log")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
