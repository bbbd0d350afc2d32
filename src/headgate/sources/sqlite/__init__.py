"""The source kind `sqlite`: any SQLite file on this machine, captured by triggers while its owner writes.

What is put into the file: the table `headgate_changes` (which keys were touched), the table
`headgate_state` (which snapshots are finished), up to five triggers a captured table, and WAL mode.
`detach` takes all of it away again. What it does not see: rows with a null in their key, which SQLite
allows and nothing can name; and rows removed by `REPLACE` through a unique index over expressions.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from headgate.model import envelope
from headgate.model.change import Change
from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources.base import Capture
from headgate.sources.sqlite import ledger, triggers
from headgate.sources.sqlite.capture import Options, SqliteCapture
from headgate.sources.sqlite.database import connect, faults, is_busy, reading, writing
from headgate.sources.sqlite.diagnosis import examine
from headgate.sources.sqlite.ledger import MemoFile
from headgate.sources.sqlite.lock import SourceLock
from headgate.sources.sqlite.schema import SCHEMA, choose, read_tables
from headgate.sources.sqlite.snapshot import rows_of
from headgate.telemetry import Clock

CONNECTOR = "sqlite"


class Config(BaseModel):
    """What a pipeline's `source:` block of kind `sqlite` may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="The SQLite file; relative to the current directory.")
    tables: list[str] = Field(default=[], description="Tables to capture. Empty: all that have a primary key.")
    poll_ms: int = Field(default=20, ge=1, le=10_000, description="How often to look for commits, in milliseconds.")
    batch: int = Field(default=1000, ge=1, le=100_000, description="The most rows handed over together.")


def default_schema(config: Config) -> str:
    """The schema of a table that is named without one."""
    return SCHEMA


def open_source(config: Config, pipeline: str, folder: Path, clock: Clock) -> SqliteSource:
    """A source over one file. `folder` is the data folder; a file has no clock but ours. Opens nothing yet."""
    return SqliteSource(config, pipeline, folder, clock)


def decode(key: bytes | None, value: bytes | None) -> Change | None:
    """A log record as a change; None for a tombstone. Undecodable when it is no envelope."""
    return None if value is None else envelope.decode_change(key, value)


decode_rows = envelope.decode_rows


class SqliteSource:
    """Implements `Source`."""

    def __init__(self, config: Config, pipeline: str, folder: Path, clock: Clock) -> None:
        self._config = config
        self._pipeline = pipeline
        self._folder = folder
        self._path = Path(config.path).expanduser()
        self._clock = clock

    def tables(self) -> Sequence[Table]:
        """See `Source`. SourceError names a table that is missing, TableWithoutKey one without a key."""
        with faults(), closing(connect(self._path)) as connection:
            chosen = choose(read_tables(connection), self._config.tables)
        return [table.table for table in chosen.values()]

    def capture(self, *, resnapshot: Sequence[str] = (), now_ms: Callable[[], int]) -> Capture:
        """See `Source`."""
        with closing(connect(self._path)):
            pass  # a missing or foreign file is said before anything is made beside it
        lock = SourceLock(self._path)
        try:
            return self._begin(lock, resnapshot, now_ms)
        except BaseException:
            lock.release()
            raise

    def _begin(self, lock: SourceLock, resnapshot: Sequence[str], now_ms: Clock) -> SqliteCapture:
        options = Options(
            path=self._path,
            tables=tuple(self._config.tables),
            batch=self._config.batch,
            poll_s=self._config.poll_ms / 1000,
        )
        capture = SqliteCapture(options, MemoFile(self._folder, self._pipeline), lock, resnapshot, now_ms)
        try:
            capture.install()
        except BaseException:
            capture.close()
            raise
        return capture

    def detach(self) -> Sequence[str]:
        """See `Source`. SourceBusy while a capture runs. The journal mode becomes what it was, if nobody else reads."""
        with faults(), closing(connect(self._path)) as connection:
            lock = SourceLock(self._path)
            try:
                taken = _take_off(connection)
            finally:
                lock.release()
        MemoFile(self._folder, self._pipeline).remove()
        return taken

    def diagnose(self) -> Sequence[Finding]:
        """See `Source`."""
        return examine(self._path, self._config.tables)

    def scan(self, table: str, size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """See `Source`. One read transaction."""
        with faults(), closing(connect(self._path)) as connection, reading(connection):
            (chosen,) = choose(read_tables(connection), [table]).values()
            yield from rows_of(connection, chosen, size)

    def now_ms(self) -> int:
        """See `Source`."""
        return self._clock()

    def describe(self) -> str:
        """See `Source`."""
        return f"SQLite file {os.fspath(self._path)}"


def _take_off(connection: sqlite3.Connection) -> list[str]:
    with writing(connection):
        try:
            mode = ledger.fact(connection, "journal_mode")
        except sqlite3.OperationalError:
            mode = ""  # no table of ours, so that nothing was changed
        taken = triggers.remove(connection)
    if mode not in ("", "wal"):
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            taken.append(f"journal mode back to {mode}")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
    return taken
