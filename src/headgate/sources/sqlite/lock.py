"""One capturer per file: a lock beside the database, held while capturing and gone afterwards.

It is the lock of an empty SQLite file, `<database>-headgate` beside `-wal` and `-shm`, because a lock in
a data folder would not keep out a Headgate with another data folder, who would prune what we have not
read. The system lets go of it when its process dies; the file is removed at `release`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from headgate.errors import SourceBusy, SourceNotReady
from headgate.sources.sqlite.database import fault, is_busy


class SourceLock:
    """Held from construction to `release`. SourceBusy when another capture holds it."""

    def __init__(self, database: Path) -> None:
        self._path = lock_path(database)
        self._connection = _acquire(self._path)

    def release(self) -> None:
        """Lets go. Idempotent."""
        if self._connection is not None:
            self._path.unlink(missing_ok=True)
            self._connection.close()
            self._connection = None


def lock_path(database: Path) -> Path:
    """The lock file of a database, whatever link leads to it."""
    real = database.resolve()
    return real.with_name(real.name + "-headgate")


def _acquire(path: Path) -> sqlite3.Connection | None:
    """Locks the file that stands at `path`: again, if its last holder removed it meanwhile."""
    while True:
        try:
            path.touch()
            inode = path.stat().st_ino
            connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SourceNotReady(
                "the folder of the SQLite file can't be written: let this user write the file and its folder"
            ) from error
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            connection.close()
            if is_busy(error):
                raise SourceBusy("another Headgate captures this SQLite file: stop it, or stand by") from error
            raise fault(error) from error
        if path.exists() and path.stat().st_ino == inode:
            return connection
        connection.close()
