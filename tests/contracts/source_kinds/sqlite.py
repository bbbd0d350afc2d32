"""The kind `sqlite`: a file of its own for each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate.model.change import Change
from headgate.sources import sqlite as source_kind
from headgate.sources.base import Source
from headgate.telemetry import wall_clock_ms


class SqliteGround:
    """Implements `Ground`. The owner has one connection, which knows nothing of Headgate."""

    kind = "sqlite"
    connector = source_kind.CONNECTOR

    def __init__(self, folder: Path) -> None:
        self.path = folder / "owner.db"
        self.folder = folder / "data"
        self.owner = sqlite3.connect(self.path, isolation_level=None, timeout=60)
        self.owner.execute("PRAGMA foreign_keys = ON")

    def source(self, tables: Sequence[str] = (), *, batch: int = 1000) -> Source:
        config = source_kind.Config(path=str(self.path), tables=list(tables), batch=batch, poll_ms=1)
        return source_kind.open_source(config, "shop", self.folder, wall_clock_ms)

    def decode(self, key: bytes | None, value: bytes | None) -> Change | None:
        return source_kind.decode(key, value)

    def qualified(self, table: str) -> str:
        return f"main.{table}"

    def execute(self, *statements: str) -> None:
        self.owner.execute("BEGIN")
        for statement in statements:
            self.owner.execute(statement)
        self.owner.execute("COMMIT")

    def rows(self, table: str) -> list[dict[str, Any]]:
        with closing(self.owner.execute(f'SELECT * FROM "{table}"')) as cursor:
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def empty(self, table: str) -> None:
        self.execute(f'DELETE FROM "{table}"')

    def leftovers(self) -> list[str]:
        ours = self.owner.execute("SELECT name FROM sqlite_master WHERE name LIKE 'headgate%' OR sql LIKE '%headgate%'")
        beside = [file.name for file in self.path.parent.iterdir() if "headgate" in file.name]
        return [str(row[0]) for row in ours] + beside

    def close(self) -> None:
        self.owner.close()


def open_ground(request: pytest.FixtureRequest, folder: Path) -> SqliteGround:
    """A fresh file in the test's own folder."""
    return SqliteGround(folder)
