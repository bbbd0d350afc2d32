"""What capture remembers: per table in the owner's file, and about that file in our data folder.

The table `headgate_state` says which snapshots are finished. It is believed only by the data folder that
it was written for (`home`), because another folder's log holds none of those rows, and only while the file
has not gone back in time (a restored backup): either makes capture read all tables again.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec

STATE = "headgate_state"
_TABLE = "table/"

Phase = Literal["reading", "done", "gone"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one table. `generation` is its newest snapshot's, begun when `phase` is reading."""

    phase: Phase
    generation: int
    covered: int = 0
    """The change id that the finished snapshot shows: changes up to it are in it."""
    shape: str = ""
    key: tuple[str, ...] = ()


class Memo(msgspec.Struct, frozen=True):
    """Our side of the bond: kept in the data folder. `seen` is the newest change id that was confirmed."""

    home: str
    seen: int = 0


def ensure_state_table(connection: sqlite3.Connection) -> None:
    """Makes the table when it is missing."""
    connection.execute(f"CREATE TABLE IF NOT EXISTS {STATE} (name TEXT PRIMARY KEY, value TEXT NOT NULL)")


def entries(connection: sqlite3.Connection) -> dict[str, Entry]:
    """The known tables by their names without schema."""
    rows = connection.execute(f"SELECT name, value FROM {STATE} WHERE substr(name, 1, 6) = ?", (_TABLE,))
    return {str(name)[len(_TABLE) :]: msgspec.json.decode(value, type=Entry) for name, value in rows}


def put_entry(connection: sqlite3.Connection, table: str, entry: Entry) -> None:
    """Remembers a table."""
    put_fact(connection, _TABLE + table, msgspec.json.encode(entry).decode())


def forget(connection: sqlite3.Connection, table: str) -> None:
    """Forgets a table."""
    connection.execute(f"DELETE FROM {STATE} WHERE name = ?", (_TABLE + table,))


def fact(connection: sqlite3.Connection, name: str) -> str:
    """A plain fact (`home`, `journal_mode`), or an empty text."""
    row = connection.execute(f"SELECT value FROM {STATE} WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def put_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Remembers a plain fact."""
    connection.execute(f"INSERT OR REPLACE INTO {STATE} (name, value) VALUES (?, ?)", (name, value))


class MemoFile:
    """The memo of one pipeline in the data folder; made with a new `home` when there is none to be read."""

    def __init__(self, folder: Path, pipeline: str) -> None:
        self._path = folder / f"source-{quote(pipeline, safe='')}.json"
        self.memo = self._load()

    def _load(self) -> Memo:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Memo)
        except (OSError, msgspec.DecodeError):
            return self._write(Memo(secrets.token_hex(8)))

    def note(self, seen: int) -> None:
        """Remembers the newest confirmed id."""
        if seen > self.memo.seen:
            self.memo = self._write(Memo(self.memo.home, seen))

    def _write(self, memo: Memo) -> Memo:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(memo))
        fresh.replace(self._path)
        return memo

    def remove(self) -> None:
        """Removes the file. Idempotent."""
        self._path.unlink(missing_ok=True)
