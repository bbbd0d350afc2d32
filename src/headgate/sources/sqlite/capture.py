"""One run of capturing a SQLite file: set up, snapshot what needs it, then follow the change table."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from headgate.errors import HeadgateError, Unavailable
from headgate.model.change import Change
from headgate.model.change import Sequence as SourceSequence
from headgate.model.table import Table
from headgate.sources.base import Batch, Head
from headgate.sources.sqlite import changes, triggers
from headgate.sources.sqlite.database import connect, enter_wal, faults, number, reading
from headgate.sources.sqlite.ledger import MemoFile
from headgate.sources.sqlite.lock import SourceLock
from headgate.sources.sqlite.receipts import Receipts, Settled
from headgate.sources.sqlite.rows import RowShape
from headgate.sources.sqlite.schema import SCHEMA, unqualified
from headgate.sources.sqlite.setup import Request, Setup, set_up
from headgate.sources.sqlite.snapshot import Part, Snapshot
from headgate.telemetry import Clock, logger

_log = logger("sources.sqlite")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run reads."""

    path: Path
    tables: tuple[str, ...]
    batch: int
    poll_s: float


class SqliteCapture:
    """Implements `Capture`. A snapshot counts as finished, and a change as consumed, once it is confirmed."""

    def __init__(
        self, options: Options, memo: MemoFile, lock: SourceLock, resnapshot: Sequence[str], now_ms: Clock
    ) -> None:
        self._options = options
        self._memo = memo
        self._lock = lock
        self._resnapshot = frozenset(unqualified(table).lower() for table in resnapshot)
        self._now_ms = now_ms
        self._stopped = threading.Event()
        self._inode = _inode(options.path)
        self._connection = connect(options.path)
        self._receipts = Receipts(self._connection, memo)
        self._mode_before = ""
        self._setup: Setup | None = None
        self._sources: dict[str, changes.Source] = {}
        self._snapshot: Snapshot | None = None
        self._read_here: dict[str, int] = {}
        self._covered: dict[str, int] = {}
        self._announced: dict[str, Table] = {}
        self._cursor = 0

    def install(self) -> None:
        """Makes the file ready. SourceError when it can't be; nothing is then left half done."""
        with faults():
            self._mode_before = enter_wal(self._connection)
            self._set_up()

    # --- Capture ---------------------------------------------------------------------------------

    def batches(self, timeout_s: float) -> Iterator[Batch]:
        """See `Capture`. Changes show within the poll interval of their commit."""
        with faults():
            while not self._stopped.is_set():
                setup = self._setup or self._set_up()
                yield from self._announce(setup)
                if setup.pending:
                    yield from self._read_whole(setup)
                if self._setup is not None:
                    yield from self._follow(self._setup, timeout_s)

    def confirm(self, token: int) -> None:
        """See `Capture`."""
        with faults():
            self._receipts.confirm(token)

    def stop(self) -> None:
        """See `Capture`."""
        self._stopped.set()

    def close(self) -> None:
        """See `Capture`. What was confirmed is forgotten at the source, if its lock is free."""
        self._stopped.set()
        if self._snapshot is not None:
            self._snapshot.close()
        try:
            with faults():
                self._receipts.finish()
        except (HeadgateError, OSError):
            _log.info("what was confirmed could not be noted, so that it will be read again", exc_info=True)
        finally:
            self._connection.close()
            self._lock.release()

    # --- the owner's schema ----------------------------------------------------------------------

    def _set_up(self) -> Setup:
        """Installs what is missing, and learns what must be read."""
        request = Request(
            tables=self._options.tables,
            resnapshot=self._resnapshot,
            memo=self._memo.memo,
            mode_before=self._mode_before,
            now_ms=self._now_ms(),
        )
        setup = set_up(self._connection, request, self._read_here)
        self._resnapshot = frozenset()
        self._covered.update({name: e.covered for name, e in setup.entries.items() if e.phase == "done"})
        self._covered.update(dict.fromkeys(setup.pending, 0))
        self._sources = {
            name: changes.Source(table, RowShape(table.table), self._covered[name])
            for name, table in setup.tables.items()
        }
        self._setup = setup
        return setup

    def _announce(self, setup: Setup) -> Iterator[Batch]:
        """Tables that are new or another, and a truncate for each that is gone, which settles it for good."""
        tables = [table.table for table in setup.tables.values()]
        news = [table for table in tables if self._announced.get(table.name) != table]
        self._announced.update({table.name: table for table in news})
        head = triggers.head_id(self._connection)
        ends = [self._end(table, head) for table in setup.gone]
        if news or ends:
            yield self._batch(ends, tables=news, settled=tuple(setup.gone.items()))

    def _end(self, table: str, head: int) -> Change:
        sequence = SourceSequence(head, head)
        return Change(op="t", table=f"{SCHEMA}.{table}", sequence=sequence, time_ms=self._now_ms())

    # --- snapshots -------------------------------------------------------------------------------

    def _read_whole(self, setup: Setup) -> Iterator[Batch]:
        """All rows of the pending tables. Leaves no setup if that was interrupted, or the schema has moved on."""
        self._setup = None
        self._snapshot = snapshot = Snapshot(self._options.path, setup.version)
        try:
            if not snapshot.is_current:
                return
            pending = [setup.tables[name] for name in setup.pending]
            for part in snapshot.read(pending, setup.entries, self._options.batch, self._now_ms()):
                if self._stopped.is_set():
                    return
                yield self._snapshot_batch(part)
        finally:
            snapshot.close()
            self._snapshot = None
        self._setup = msgspec.structs.replace(setup, pending=(), gone={})

    def _snapshot_batch(self, part: Part) -> Batch:
        settled: Settled = ()
        if part.finished is not None:
            settled = ((part.table, part.finished),)
            covered = part.finished.covered
            self._read_here[part.table] = part.finished.generation
            self._covered[part.table] = covered
            self._sources[part.table] = msgspec.structs.replace(self._sources[part.table], covered=covered)
        return self._batch(part.changes, settled=settled, done=part.done, total=part.total)

    # --- changes ---------------------------------------------------------------------------------

    def _follow(self, setup: Setup, timeout_s: float) -> Iterator[Batch]:
        """Changes as they come, and heads at least every `timeout_s`, until `stop` or another schema.

        `PRAGMA data_version` tells without any read whether another connection has committed.
        """
        due_s = time.monotonic() + timeout_s
        read_at: int | None = None
        head = Head(SourceSequence(0, 0), 0)
        while not self._stopped.is_set():
            now_ms = self._now_ms()
            version = number(self._connection, "PRAGMA data_version")
            found: list[Change] = []
            if version != read_at:
                read = self._read(setup.version, now_ms)
                if read is None:
                    self._setup = None
                    return
                found, head, whole = read
                read_at = version if whole else None
            if found or time.monotonic() >= due_s:
                due_s = time.monotonic() + timeout_s
                yield self._batch(found, head=head if read_at is None else Head(head.sequence, now_ms))
            self._tidy()
            if read_at is not None:
                self._stopped.wait(self._options.poll_s)

    def _read(self, version: int, now_ms: int) -> tuple[list[Change], Head, bool] | None:
        """The next changes, up to where they go, and whether nothing lies beyond. None: the schema is another."""
        with reading(self._connection):
            if number(self._connection, "PRAGMA schema_version") != version:
                return None
            head_id = triggers.head_id(self._connection)
            span = changes.next_span(self._connection, self._cursor, head_id, self._options.batch)
            found = changes.read_changes(self._connection, span, self._sources)
        self._cursor = span.last
        sequence = SourceSequence(span.last, span.last)
        # SQLite has one writer at a time: what was committed before an entry was noted lies before it.
        head = Head(sequence, now_ms if span.whole else span.time_ms)
        return found, head, span.whole

    def _tidy(self) -> None:
        """Unavailable when another file has taken the place of the one that is open."""
        if _inode(self._options.path) != self._inode:
            raise Unavailable("the SQLite file was moved or replaced: it is opened again")
        self._receipts.tidy()

    def _batch(
        self,
        found: Sequence[Change],
        *,
        head: Head | None = None,
        tables: Sequence[Table] = (),
        settled: Settled = (),
        done: int = 0,
        total: int | None = None,
    ) -> Batch:
        token = self._receipts.issue(self._cursor, settled)
        return Batch(changes=found, token=token, head=head, tables=tables, snapshot_done=done, snapshot_total=total)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
