"""The owner of a PostgreSQL database, and runs of capture over it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from headgate.model.change import Change
from headgate.model.table import Table
from headgate.sources import postgres as kind
from headgate.sources.base import Batch, Head
from headgate.telemetry import wall_clock_ms

DEADLINE_S = 60.0


class Owner:
    """The database's owner, and sources over it that share one pipeline."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.pipeline = self.connection.info.dbname
        self.slot = f"headgate_{self.pipeline}"

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, *arguments: Any) -> Any:
        ((value,),) = self.execute(statement, *arguments)
        return value

    def source(self, *tables: str, dsn: str | None = None, **settings: Any) -> kind.PostgresSource:
        config = kind.Config(
            dsn=SecretStr(dsn or self.dsn), tables=list(tables), **{"status_interval_s": 0.1, **settings}
        )
        return kind.open_source(config, self.pipeline, Path("unused"), wall_clock_ms)


class Run:
    """One run of capture. Confirms each batch unless told otherwise."""

    def __init__(self, source: kind.PostgresSource, *, confirm: bool = True, resnapshot: Sequence[str] = ()) -> None:
        self.capture = source.capture(resnapshot=resnapshot, now_ms=wall_clock_ms)
        self.batches = self.capture.batches(0.05)
        self.confirm = confirm
        self.changes: list[Change] = []
        self.heads: list[Head] = []
        self.tables: dict[str, Table] = {}
        self.largest = 0

    def step(self) -> Batch:
        batch = next(self.batches)
        self.changes += batch.changes
        self.tables |= {table.name: table for table in batch.tables}
        self.largest = max(self.largest, len(batch.changes))
        if batch.head is not None:
            self.heads.append(batch.head)
        if self.confirm:
            self.capture.confirm(batch.token)
        return batch

    def until(self, reached: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
            self.step()

    def streaming(self) -> Run:
        """Past the snapshots: a head has come."""
        self.until(lambda: self.heads, "a head")
        return self

    def rows(self, count: int) -> list[Change]:
        """The next `count` changes that are no markers."""
        self.changes.clear()
        self.until(lambda: len(self._unmarked()) >= count, f"{count} changes")
        return self._unmarked()

    def snapshotted(self) -> list[str]:
        """Tables whose snapshot this run has told whole, in order."""
        return [change.table for change in self.changes if change.marker and change.marker.phase == "end"]

    def _unmarked(self) -> list[Change]:
        return [change for change in self.changes if change.marker is None]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.close()


def after(change: Change) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(change.after or b"null")
    return row


def key(change: Change) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(change.key or b"null")
    return value
