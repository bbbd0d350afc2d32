"""Hints through a small file beside the embedded store, for the processes of one data folder.

One reader a process looks each 20 ms whether anybody has written (`PRAGMA data_version`, some microseconds), and only
then what.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from headgate.connections._wal import turn_to_wal
from headgate.errors import Unavailable
from headgate.subscriptions.base import EVERYTHING, Hearer, Sender, Touch, decode

POLL_S = 0.02
KEPT = 1_024
"""How many messages stay for those who read late; who is later still takes it that all may have changed."""

_SWEEP_EVERY = 128
_BUSY_S = 5.0
_SCHEMA = "create table if not exists notice (id integer primary key autoincrement, body blob not null)"


def open_sender(target: Path) -> Sender:
    """Writes to the file `target`, which is made when it is missing."""
    return SqliteSender(target)


def open_hearer(target: Path) -> Hearer:
    """Reads the file `target`, which is made when it is missing."""
    return SqliteHearer(target)


class SqliteSender:
    """One connection. Nothing is synced to disk: hints are of no use to processes that a power cut has ended."""

    most_bytes = 64 * 1024

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None

    def send(self, message: bytes) -> None:
        """See `Sender.send`."""
        with _wrapped():
            if self._connection is None:
                self._connection = _open(self._file)
            with self._connection as connection:
                connection.execute("begin immediate")
                number = connection.execute("insert into notice (body) values (?)", [message]).lastrowid or 0
                if number % _SWEEP_EVERY == 0:
                    connection.execute("delete from notice where id <= ?", [number - KEPT])

    def close(self) -> None:
        """See `Sender.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # the file stays as its last commit left it


class SqliteHearer:
    """A connection for as long as it hears."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def hear(self, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
        """See `Hearer.hear`."""
        with _wrapped(), closing(_open(self._file)) as connection:
            seen = _version(connection)
            newest = _newest(connection)
            listening()
            while True:
                await asyncio.sleep(POLL_S)
                version = _version(connection)
                if version != seen:
                    seen = version
                    newest, touches = _after(connection, newest)
                    if touches:
                        told(touches)


def _version(connection: sqlite3.Connection) -> int:
    """Another number once another connection has written (https://sqlite.org/pragma.html#pragma_data_version)."""
    return int(connection.execute("pragma data_version").fetchone()[0])


def _newest(connection: sqlite3.Connection) -> int:
    found = connection.execute("select seq from sqlite_sequence where name = 'notice'").fetchone()
    return int(found[0]) if found else 0


def _after(connection: sqlite3.Connection, newest: int) -> tuple[int, list[Touch]]:
    """What was written after the message of that number, and the number of the last one."""
    found = connection.execute("select id, body from notice where id > ? order by id", [newest]).fetchall()
    if not found:
        return newest, []
    if found[0][0] != newest + 1:
        return found[-1][0], [EVERYTHING]
    return found[-1][0], [touch for _, body in found for touch in decode(body)]


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # it holds keys of rows; -wal and -shm follow
    connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        turn_to_wal(connection)
        connection.execute("pragma synchronous = off")
        connection.execute(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(
            "the file of notices can't be used now: look at the data folder's disk and permissions"
        ) from error
