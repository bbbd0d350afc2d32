"""The kind `mysql`: a fresh database for each test, of the session's MariaDB and of its MySQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from pydantic import SecretStr
from pymysql.cursors import DictCursor

from headgate.model.change import Change
from headgate.sources import mysql as source_kind
from headgate.sources.base import Source
from headgate.stack.binlog import BinlogServer
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import fresh_database


class MysqlGround:
    """Implements `Ground`. The owner has one connection, which knows nothing of Headgate."""

    kind = "mysql"
    connector = source_kind.CONNECTOR

    def __init__(self, server: BinlogServer, folder: Path) -> None:
        self._opened = ExitStack()
        self.dsn = dsn = self._opened.enter_context(fresh_database(server))
        self.folder = folder
        parts = urlsplit(dsn)
        self.database = parts.path.strip("/")
        self.pipeline = f"shop_{self.database}"
        self.owner = pymysql.connect(
            host=parts.hostname, port=parts.port or 0, user="root", database=self.database, autocommit=True,
            init_command="set session sql_mode = 'ansi_quotes'",
        )  # fmt: skip
        self.state = open_state(folder / "notes.db", clock=wall_clock_ms)

    def source(self, tables: Sequence[str] = (), *, batch: int = 1000) -> Source:
        config = source_kind.Config(
            dsn=SecretStr(self.dsn), tables=list(tables), snapshot_batch=batch, status_interval_s=0.1
        )
        return source_kind.open_source(config, self.pipeline, self.folder, wall_clock_ms, state=self.state)

    def decode(self, key: bytes | None, value: bytes | None) -> Change | None:
        return source_kind.decode(key, value)

    def qualified(self, table: str) -> str:
        return f"{self.database}.{table}"

    def execute(self, *statements: str) -> None:
        """In one transaction, as far as the statements are not of the kind that ends one."""
        with self.owner.cursor() as cursor:
            self.owner.begin()
            for statement in statements:
                cursor.execute(_in_its_words(statement))
            self.owner.commit()

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.owner.cursor(DictCursor) as cursor:
            cursor.execute(f"select * from `{table}`")
            return list(cursor.fetchall())

    def empty(self, table: str) -> None:
        self.execute(f"truncate `{table}`")

    def leftovers(self) -> list[str]:
        with self.owner.cursor() as cursor:
            cursor.execute(
                "select table_name from information_schema.tables where table_name like 'headgate%' union all"
                " select trigger_name from information_schema.triggers where trigger_schema = database()"
            )
            found = [str(row[0]) for row in cursor.fetchall()]
        return found + list(self.state.scan(f"mysql/{self.pipeline}"))

    def close(self) -> None:
        self.owner.close()
        self.state.close()
        self._opened.close()


def _in_its_words(statement: str) -> str:
    """Keys of TEXT need a length here, and an upsert has another form."""
    if statement.startswith("CREATE TABLE") and "PRIMARY KEY" in statement:
        statement = statement.replace("TEXT", "VARCHAR(200)")
    before, conflict, after = statement.partition("ON CONFLICT")
    if conflict and "NOTHING" in after:
        return before.replace("INSERT INTO", "INSERT IGNORE INTO")
    if conflict:
        changed = re.sub(r"excluded\.(\w+)", r"VALUES(\1)", after.partition("SET")[2])
        return f"{before}ON DUPLICATE KEY UPDATE {changed}"
    return statement


def open_ground(request: pytest.FixtureRequest, folder: Path, server: BinlogServer) -> MysqlGround:
    """A database that `close` drops."""
    return MysqlGround(server, folder)
