"""State in one SQLite file that the processes of a data folder share."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headgate.connections._wal import turn_to_wal
from headgate.errors import StateConflict, Unavailable
from headgate.state import _sqlite_buckets
from headgate.state.base import Buckets, Entry, State
from headgate.telemetry import Clock

NUMBERS_KEPT_MS = 3_600_000
"""How long the version of a removed or expired key is remembered."""
LASTING_MS = 60_000
"""What lives shorter than this would be over after a power cut anyway, so that it waits for no disk."""

_SWEEP_EVERY_MS = 60_000
_SWEEP_AT_MOST = 1_000
_BUSY_S = 5.0
_HIGHEST = "\U0010ffff"  # no character comes after it

# A row outlives its entry, for its version: it is no entry once `value` is null or `ends_ms` has passed.
_SCHEMA = """
create table if not exists entry (
    key text primary key, value blob, version integer not null, ends_ms integer
) without rowid;
create index if not exists entry_ends on entry (ends_ms) where ends_ms is not null;
"""


def open_state(target: Path, *, clock: Clock) -> State:
    """The state in the file `target`, made with access for its owner alone if it is missing.

    `clock` measures times to live; processes that share the file share the machine's clock. Unavailable
    when the file can't be opened.
    """
    return SqliteState(target, clock)


def open_buckets(target: Path, *, clock: Clock) -> Buckets:
    """Token buckets in the file that `open_state` has made; it is opened on first use."""
    return _sqlite_buckets.open_buckets(target, clock=clock)


class SqliteState:
    """One connection, used by one thread at a time.

    Entries that stay a minute or longer are synced to disk before the write returns. A key that comes
    back within an hour of its end goes on with its version, so that a version read in its former life
    never matches.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._clock = clock
        self._swept_ms = 0
        self._lock = threading.Lock()
        with _wrapped():
            self._connection = _open(file)

    def get(self, key: str) -> Entry | None:
        """See `State.get`."""
        with self._lock, _wrapped():
            row = self._connection.execute(
                "select value, version from entry where key = ? and value is not null and"
                " (ends_ms is null or ends_ms > ?)",
                (key, self._clock()),
            ).fetchone()
        return Entry(*row) if row else None

    def put(self, key: str, value: bytes, *, expect: int | None = None, ttl_ms: int | None = None) -> int:
        """See `State.put`."""
        if ttl_ms is not None and ttl_ms <= 0:
            raise ValueError("a time to live is positive")
        with self._writing(lasting=ttl_ms is None or ttl_ms >= LASTING_MS) as connection:
            now = self._clock()  # its life begins once nobody else's write is waited for
            version = self._expected(key, expect, now)[1] + 1
            ends_ms = None if ttl_ms is None else now + ttl_ms
            connection.execute("replace into entry values (?, ?, ?, ?)", (key, value, version, ends_ms))
            self._sweep(now)
        return version

    def delete(self, key: str, *, expect: int | None = None) -> bool:
        """See `State.delete`."""
        with self._writing(lasting=True) as connection:
            now = self._clock()
            there = self._expected(key, expect, now)[0]
            if there:
                connection.execute("update entry set value = null, ends_ms = ? where key = ?", (now, key))
            self._sweep(now)
        return there

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        """See `State.scan`."""
        with self._lock, _wrapped():
            rows = self._connection.execute(
                "select key, value, version from entry where key >= ? and key <= ? and value is not null and"
                " (ends_ms is null or ends_ms > ?) order by key",
                (prefix, prefix + _HIGHEST, self._clock()),
            ).fetchall()
        return {key: Entry(value, version) for key, value, version in rows}

    def close(self) -> None:
        """See `State.close`."""
        with self._lock:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # the file stays as its last commit left it

    @contextmanager
    def _writing(self, *, lasting: bool) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the file's write lock from its start: nothing read in it can change."""
        with self._lock, _wrapped():
            connection = self._connection
            connection.execute(f"pragma synchronous = {'full' if lasting else 'normal'}")
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    def _expected(self, key: str, expect: int | None, now: int) -> tuple[bool, int]:
        """Whether the entry is there, and the key's last version. StateConflict if it is not as expected."""
        row = self._connection.execute(
            "select version, value is not null and (ends_ms is null or ends_ms > ?) from entry where key = ?",
            (now, key),
        ).fetchone()
        last, there = (row[0], bool(row[1])) if row else (0, False)
        if expect is not None and expect != (last if there else 0):
            raise StateConflict("another process wrote this entry first: read it again and repeat")
        return there, last

    def _sweep(self, now: int) -> None:
        """Now and then removes rows whose versions need no longer be remembered."""
        if 0 <= now - self._swept_ms < _SWEEP_EVERY_MS:
            return
        removed = self._connection.execute(
            "delete from entry where key in (select key from entry where ends_ms < ? limit ?)",
            (now - NUMBERS_KEPT_MS, _SWEEP_AT_MOST),
        ).rowcount
        if removed < _SWEEP_AT_MOST:
            self._swept_ms = now


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # it may hold digests of keys; -wal and -shm follow
    connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        turn_to_wal(connection)
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unavailable("the state file can't be used now: look at the data folder's disk and permissions") from error
