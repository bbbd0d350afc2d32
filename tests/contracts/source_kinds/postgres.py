"""The kind `postgres`: a fresh database of the session's server for each test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

from headgate.model.change import Change
from headgate.sources import postgres as source_kind
from headgate.sources.base import Source
from headgate.telemetry import wall_clock_ms


class PostgresGround:
    """Implements `Ground`. The owner has one connection, which knows nothing of Headgate."""

    kind = "postgres"
    connector = source_kind.CONNECTOR

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.folder = folder
        self.owner = psycopg.connect(dsn, autocommit=True)
        # Slots' names are common to all databases of a server, where other tests may run.
        self.pipeline = f"shop_{self.owner.info.dbname}"

    def source(self, tables: Sequence[str] = (), *, batch: int = 1000) -> Source:
        config = source_kind.Config(
            dsn=SecretStr(self.dsn), tables=list(tables), snapshot_batch=batch, status_interval_s=0.1
        )
        return source_kind.open_source(config, self.pipeline, self.folder, wall_clock_ms)

    def decode(self, key: bytes | None, value: bytes | None) -> Change | None:
        return source_kind.decode(key, value)

    def qualified(self, table: str) -> str:
        return f"public.{table}"

    def execute(self, *statements: str) -> None:
        with self.owner.transaction():
            for statement in statements:
                self.owner.execute(statement.encode())

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.owner.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall()

    def empty(self, table: str) -> None:
        self.owner.execute(sql.SQL("truncate {}").format(sql.Identifier(table)))

    def leftovers(self) -> list[str]:
        found = self.owner.execute(
            "select slot_name::text from pg_replication_slots where database = current_database()"
            " union all select pubname::text from pg_publication"
            " union all select relname::text from pg_class where relname like 'headgate%'"
            " union all select tgname::text from pg_trigger where not tgisinternal"
        )
        return [str(row[0]) for row in found]

    def close(self) -> None:
        self.owner.close()


def open_ground(request: pytest.FixtureRequest, folder: Path) -> PostgresGround:
    """The fixture `database`, which is dropped after the test."""
    return PostgresGround(request.getfixturevalue("database"), folder)
