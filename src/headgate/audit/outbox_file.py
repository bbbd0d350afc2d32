"""One writer's file of events: what is in it, what of it is published, and whether its writer lives."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path

import msgspec

from headgate.audit.chain import Chain, Linked
from headgate.connections._wal import turn_to_wal
from headgate.errors import OutboxError, OutboxFull

RESERVE = 16 * 1024 * 1024
"""What is left free on the disk: without it nothing could be noted as published, nor removed to make room."""

_BUSY_S = 5.0
_PAGE_BYTES = 8_192
"""Of a new file: an event takes a kilobyte or two, so that pages of half the size would be a third empty."""
# What SQLite makes of a failed write, and of a shared memory file that can't grow.
_NO_ROOM = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SUFFIX = ".db"
_BYTES_AT_ONCE = 8 * 1024 * 1024
_AT_ONCE = 64
"""How many events one statement adds. Each gives the interpreter away once, and gets it back late from a busy loop."""
_FULL = "there is no room for events of calls: free some on the disk of the data folder, or raise audit.outbox_max_gb"
_SCHEMA = """
create table if not exists event (
    seq integer primary key, id text not null, time_ms integer not null,
    previous blob not null, link blob not null, body blob not null
);
create table if not exists progress (one integer primary key check (one = 1), published integer not null);
create table if not exists withheld (seq integer primary key);
insert or ignore into progress values (1, 0);
"""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How full a file is: bytes that its events take, and how many it could take in all."""

    used: int
    most: int
    """By its own bound and by the disk, whichever is less."""

    @property
    def fill(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.used / self.most) if self.most else 1.0


class OutboxFile:
    """One connection to a writer's file. Any number may be open, in any processes; one thread uses each.

    All methods raise OutboxError when the file can't be used.
    """

    def __init__(self, folder: Path, writer: str, *, own: bool = False, max_bytes: int = 0) -> None:
        """Opens the file: the writer itself (`own`) makes it when it is missing, and waits for the disk.

        For others it must exist, and a power cut may take back their newest `mark_published`, so that events
        are published twice, which their numbers tell. Beyond `max_bytes`, unless it is 0, `add` is refused.
        """
        self.writer = writer
        self._file = file_of(folder, writer)
        self._max_bytes = max_bytes
        with _wrapped():
            self._connection = _open(self._file, own=own)
            self._page = int(self._connection.execute("pragma page_size").fetchone()[0])
            if max_bytes:
                self._connection.execute(f"pragma max_page_count = {max(1, max_bytes // self._page)}")

    def end(self) -> Chain:
        """The end of the chain, to which the next event is added. The newest event always stays in the file."""
        with _wrapped():
            row = self._connection.execute("select seq, link from event order by seq desc limit 1").fetchone()
        return Chain(self.writer, *row) if row else Chain(self.writer)

    def add(self, events: Sequence[Linked], time_ms: int) -> None:
        """Writes all the events in one transaction, or none. OutboxFull when there is no room for them."""
        if not events:
            return
        if len(events) <= _AT_ONCE:  # one statement is a transaction of its own
            with _wrapped():
                self._insert(events, time_ms)
            return
        with self._writing():
            for start in range(0, len(events), _AT_ONCE):
                self._insert(events[start : start + _AT_ONCE], time_ms)

    def _insert(self, events: Sequence[Linked], time_ms: int) -> None:
        rows = ((each.seq, each.id, time_ms, each.previous, each.link, each.body) for each in events)
        self._connection.execute(_insertion(len(events)), [*chain.from_iterable(rows)])

    def events(self, after: int, limit: int, max_bytes: int = _BYTES_AT_ONCE) -> list[Linked]:
        """The events that come next, in order: `limit` of them, and no more than about `max_bytes`, but one."""
        found: list[Linked] = []
        with _wrapped():
            rows = self._connection.execute(
                "select seq, id, previous, link, body from event where seq > ? order by seq limit ?", (after, limit)
            )
            for row in rows:
                found.append(Linked(*row))
                max_bytes -= len(found[-1].body)
                if max_bytes <= 0:
                    break
            rows.close()
        return found

    def unpublished(self, limit: int) -> list[Linked]:
        """The oldest events that are not known to be published, in order."""
        return self.events(self.published(), limit)

    def published(self) -> int:
        """Up to which number everything is known to be on the log."""
        return self._number("select published from progress")

    def backlog(self) -> int:
        """How many events are not known to be published."""
        return max(0, self.last() - self.published())  # the numbers have no gaps

    def last(self) -> int:
        """The newest event's number; 0 when there is none."""
        return self._number("select coalesce(max(seq), 0) from event")

    def count(self) -> int:
        """How many events it holds. Reads an index of all of them."""
        return self._number("select count(*) from event")

    def mark_published(self, upto: int) -> None:
        """Notes that everything up to this number is durable on the log. Never goes back."""
        with self._writing() as connection:
            connection.execute("update progress set published = max(published, ?)", (upto,))

    def withhold(self, seq: int) -> None:
        """Notes that the log does not take this event: its digest is published in its place, and it stays here."""
        with self._writing() as connection:
            connection.execute("insert or ignore into withheld values (?)", (seq,))

    def withheld(self) -> frozenset[int]:
        """The events of which the log has the digest alone."""
        with _wrapped():
            return frozenset(seq for (seq,) in self._connection.execute("select seq from withheld"))

    def prune(self, *, before_ms: int, keep: int, limit: int = 1_000) -> int:
        """Removes up to `limit` of the oldest events that are published.

        Those that are older than `before_ms` or beyond the newest `keep`, and from the oldest on without gaps.
        The newest of all stays, as the end of the chain. Answers how many were removed. The file keeps its
        size, and fills the room again.
        """
        with self._writing() as connection:
            published, last = self.published(), self.last()
            upto = 0
            oldest = connection.execute("select seq, time_ms from event order by seq limit ?", (limit,))
            for seq, time_ms in oldest:
                if seq > published or seq == last or (time_ms >= before_ms and seq > published - keep):
                    break
                upto = seq
            oldest.close()
            connection.execute("delete from withheld where seq <= ?", (upto,))
            return connection.execute("delete from event where seq <= ?", (upto,)).rowcount

    def require_room(self) -> None:
        """OutboxFull when disk and file together have less free than `RESERVE`. Costs microseconds."""
        if self._free() < RESERVE and self._free() + self._number("pragma freelist_count") * self._page < RESERVE:
            raise OutboxFull(_FULL)

    def room(self) -> Room:
        """How full it is. Costs microseconds."""
        pages = self._number("pragma page_count") - self._number("pragma freelist_count")
        used = pages * self._page
        most = used + max(0, self._free() - RESERVE)
        return Room(used=used, most=min(self._max_bytes or most, most))

    def _free(self) -> int:
        with _wrapped():
            disk = os.statvfs(self._file.parent)
        return disk.f_bavail * disk.f_frsize

    def close(self) -> None:
        """Lets go. Never raises."""
        try:
            self._connection.close()
        except sqlite3.Error:
            pass  # what was committed stays

    def remove(self) -> None:
        """Closes and deletes the file, for whoever holds its lock and has published all of it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def _number(self, query: str) -> int:
        with _wrapped():
            found: int = self._connection.execute(query).fetchone()[0]
        return found

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        with _wrapped():
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:  # some failures, such as a full disk, have rolled back already
                    connection.execute("rollback")
                raise


class FileLock:
    """A claim that ends with its process, however that ends.

    It lies on a file of its own: closing any descriptor of a database file would drop SQLite's locks.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """The lock, or None while someone else holds it. OutboxError when the folder can't be used."""
        with _wrapped():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                if _is_at(path, descriptor):
                    return cls(path, descriptor)
                os.close(descriptor)  # its holder removed it between our opening and locking

    def release(self, *, remove: bool = False) -> None:
        """Gives the claim up; `remove` deletes the lock's file too."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def writer_lock(folder: Path, writer: str) -> FileLock | None:
    """The claim to be this writer; None while it lives."""
    return FileLock.take(file_of(folder, writer).with_suffix(".lock"))


def publishing_lock(folder: Path, writer: str) -> FileLock | None:
    """The claim to publish this writer's events, without which they would be doubled; None while another does."""
    return FileLock.take(file_of(folder, writer).with_suffix(".publishing"))


def writers(folder: Path) -> list[str]:
    """The writers that have a file in this folder, in the order of their names."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in folder.glob(f"*{_SUFFIX}"))


def file_of(folder: Path, writer: str) -> Path:
    """Where a writer's events lie. OutboxError when the name is none that a file can have."""
    if not _WRITER.fullmatch(writer):
        raise OutboxError("a writer's name has letters, digits, points, dashes and underscores: choose another")
    return folder / f"{writer}{_SUFFIX}"


@cache
def _insertion(many: int) -> str:
    return f"insert into event values {', '.join(['(?, ?, ?, ?, ?, ?)'] * many)}"


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(file: Path, *, own: bool) -> sqlite3.Connection:
    if own:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    place = f"{file.absolute().as_uri()}?mode=rw"  # never makes the file anew that a publisher removed
    connection = sqlite3.connect(place, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = _readable
    try:
        connection.execute(f"pragma synchronous = {'full' if own else 'normal'}")
        connection.execute(f"pragma page_size = {_PAGE_BYTES}")
        if own or not connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            turn_to_wal(connection)
            connection.executescript(f"begin immediate; {_SCHEMA} commit;")
    except BaseException:
        connection.close()
        raise
    return connection


def _readable(text: bytes) -> str:
    """A text as it is, or nearly: a damaged one is its reader's to find, and no reason to read nothing."""
    return text.decode(errors="replace")


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if _is_full(error):
            raise OutboxFull(_FULL) from error
        raise OutboxError("the outbox can't be written or read: look at its disk's space and permissions") from error


def _is_full(error: sqlite3.Error | OSError) -> bool:
    """Whether the disk has no room, or the file's bound or the process's limit of a file's size is reached."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    code = getattr(error, "sqlite_errorcode", 0)  # https://sqlite.org/rescode.html
    return code == sqlite3.SQLITE_FULL or code in _NO_ROOM
