"""How a SQLite file of ours, which several processes share, is turned to write-ahead logging."""

from __future__ import annotations

import sqlite3
import time

_AGAIN_S = 0.01
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def turn_to_wal(connection: sqlite3.Connection, *, within_s: float = 5.0) -> None:
    """Turns the file to WAL, which it then stays in. sqlite3.OperationalError if it is busy for so long.

    SQLite's own busy timeout does not cover two processes that do this to a new file at the same time.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            connection.execute("pragma journal_mode = wal").fetchone()
            return
        except sqlite3.OperationalError as error:
            # The low byte is the primary code (https://sqlite.org/rescode.html).
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_S)
