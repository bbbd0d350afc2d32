"""A random workload over typed tables, on SQLite, Postgres and MariaDB, and the rows that must come of it.

The expected rows are read from the database itself when the load is over, by code that shares nothing with
Headgate's own decoding.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg
import pymysql
from pymysql.cursors import DictCursor

from tests.ways.deployment import all_rows, caught_up, reader_of

_WEIGHTS = {"insert": 45, "update": 35, "delete": 12, "rekey": 7.8, "truncate": 0.2}
_TEXTS = ("", "plain", "ümläut ☃", 'quote " \\ back', "line\nbreak\ttab", "null", "0", "x" * 3_000, "'; drop table t;")


class Tables(Protocol):
    """Two tables: one with a single key and many types, one with a composite key."""

    entities: Sequence[str]

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """One transaction. Values stand as `?`."""

    def truncate(self) -> None:
        """Empties the composite table."""

    def key(self, entity: str, row: dict[str, Any]) -> Any:
        """A row's key."""

    def rows(self, entity: str) -> dict[Any, dict[str, Any]]:
        """The rows as the database has them, as they must read in the store."""


def run_workload(
    tables: Tables, dice: random.Random, changes: int, *, ended: Callable[[], bool] = lambda: False
) -> Counter[str]:
    """So many changes, in transactions of 1 to 40, or fewer when `ended` says so; answers how many of each kind."""
    done: Counter[str] = Counter()
    things: set[int] = set()
    parts: set[tuple[int, str]] = set()
    left = changes
    while left and not ended():
        statements: list[tuple[str, Sequence[Any]]] = []
        for _ in range(min(left, dice.randint(1, 40))):
            kind = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            if kind == "truncate" and done["truncate"] >= 3:
                kind = "insert"
            if not things or not parts:
                kind = "insert"
            if kind == "truncate":
                tables.run(statements)
                statements = []
                tables.truncate()
                parts.clear()
            elif dice.random() < 0.7 or (not parts and kind != "insert"):
                statements.append(_thing(kind, things, dice))
            else:
                statements.append(_part(kind, parts, dice))
            done[kind] += 1
            left -= 1
        tables.run(statements)
    return done


async def assert_tables_equal(config: Path, tables: Tables, since_ms: int) -> None:
    """Once the store says that it is whole as of that time, it holds exactly the rows of the tables."""
    reader, app = reader_of(config)
    try:
        for entity in tables.entities:
            await caught_up(reader, entity, since_ms)
            stored = {tables.key(entity, row): row for row in await all_rows(reader, entity)}
            assert stored == tables.rows(entity), entity
            assert (await reader.count(entity)).rows == len(stored)
    finally:
        await reader.close()
        app.close()


def _thing(kind: str, things: set[int], dice: random.Random) -> tuple[str, Sequence[Any]]:
    if kind == "insert":
        number = max(things, default=0) + dice.choice((1, 1, 7, 10**12))
        things.add(number)
        return "insert into things values (?, ?, ?, ?, ?, ?)", (number, *_values(dice))
    number = dice.choice(sorted(things))
    if kind == "update":
        return "update things set name = ?, price = ?, weight = ?, active = ?, note = ? where id = ?", (
            *_values(dice),
            number,
        )
    things.remove(number)
    if kind == "delete":
        return "delete from things where id = ?", (number,)
    other = max(things, default=0) + 1
    things.add(other)
    return "update things set id = ?, name = 'moved' where id = ?", (other, number)


def _values(dice: random.Random) -> tuple[Any, ...]:
    price = f"{dice.randrange(-(10**9), 10**9) / 100:.2f}"
    note = dice.choice(_TEXTS) if dice.random() < 0.8 else None
    return dice.choice(_TEXTS), price, dice.uniform(-1e6, 1e6), dice.random() < 0.5, note


def _part(kind: str, parts: set[tuple[int, str]], dice: random.Random) -> tuple[str, Sequence[Any]]:
    if kind == "insert" or not parts:
        place = (dice.randrange(10**6), dice.choice("abc,%/é"))
        parts.add(place)
        return "insert into parts values (?, ?, ?) on conflict (thing, place) do update set count = 0", (*place, 1)
    place = dice.choice(sorted(parts))
    if kind == "update":
        return "update parts set count = count + 1 where thing = ? and place = ?", place
    parts.remove(place)
    if kind == "delete":
        return "delete from parts where thing = ? and place = ?", place
    moved = (place[0] + 10**7 + dice.randrange(10**6), place[1])
    parts.add(moved)
    return "update parts set thing = ? where thing = ? and place = ?", (moved[0], *place)


class _Common:
    entities: Sequence[str] = ("thing", "part")

    def key(self, entity: str, row: dict[str, Any]) -> Any:
        return row["id"] if entity == "thing" else (row["thing"], row["place"])


class SqliteTables(_Common):
    """On SQLite."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        """`timeout_s` is how long a write waits for others' locks before it fails. Any one thread may use it."""
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=timeout_s, check_same_thread=False)
        self._connection.executescript("""
            create table things (id integer primary key, name text not null, price decimal(12,2), weight real,
                                 active boolean, note text);
            create table parts (thing integer, place text, count integer, primary key (thing, place)) without rowid;
        """)

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        self._connection.execute("begin immediate")
        for sql, values in statements:
            self._connection.execute(sql, values)
        self._connection.execute("commit")

    def truncate(self) -> None:
        self._connection.execute("delete from parts")

    def rows(self, entity: str) -> dict[Any, dict[str, Any]]:
        self._connection.row_factory = sqlite3.Row
        found = [dict(row) for row in self._connection.execute(f"select * from {entity}s")]
        self._connection.row_factory = None
        return {self.key(entity, row): self._as_stored(row) for row in found}

    @staticmethod
    def _as_stored(row: dict[str, Any]) -> dict[str, Any]:
        if "price" in row:
            number = row["price"]
            row["price"] = str(number) if number is not None else None
            row["active"] = bool(row["active"])
        return row

    def close(self) -> None:
        self._connection.close()


class PostgresTables(_Common):
    """On Postgres."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("""
            create table things (id bigint primary key, name text not null, price numeric(12,2),
                                 weight double precision, active boolean, note text);
            create table parts (thing bigint, place text, count integer, primary key (thing, place));
        """)

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        with self._connection.transaction(), self._connection.pipeline():
            for sql, values in statements:
                self._connection.execute(
                    sql.replace("count + 1", "parts.count + 1").replace("?", "%s").encode(), values
                )

    def truncate(self) -> None:
        self._connection.execute("truncate parts")

    def rows(self, entity: str) -> dict[Any, dict[str, Any]]:
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute(f"select * from {entity}s".encode()).fetchall()
        return {self.key(entity, row): self._as_stored(row) for row in found}

    @staticmethod
    def _as_stored(row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, Decimal) else json.loads(json.dumps(value))
            for name, value in row.items()
        }

    def close(self) -> None:
        self._connection.close()


class MysqlTables(_Common):
    """On MariaDB, by sessions of its owner's. Columns may be added meanwhile."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._connection = pymysql.connect(
            host="127.0.0.1", port=parts.port or 0, user="root", database=parts.path.strip("/"), autocommit=True
        )
        with self._connection.cursor() as cursor:
            cursor.execute(
                "create table things (id bigint primary key, name text not null, price decimal(12,2), weight double,"
                " active boolean, note text)"
            )
            cursor.execute(
                "create table parts (thing bigint, place varchar(9) collate utf8mb4_bin, count int,"
                " primary key (thing, place))"
            )

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("begin")
            for sql, values in statements:
                cursor.execute(self._in_its_words(sql), values)
            cursor.execute("commit")

    @staticmethod
    def _in_its_words(sql: str) -> str:
        return (
            sql.replace("things values", "things (id, name, price, weight, active, note) values")
            .replace("on conflict (thing, place) do update set", "on duplicate key update")
            .replace("?", "%s")
        )

    def truncate(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("truncate parts")

    def rows(self, entity: str) -> dict[Any, dict[str, Any]]:
        with self._connection.cursor(DictCursor) as cursor:
            cursor.execute(f"select * from {entity}s")
            found = cursor.fetchall()
        return {self.key(entity, row): self._as_stored(row) for row in found}

    @staticmethod
    def _as_stored(row: dict[str, Any]) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}

    def close(self) -> None:
        self._connection.close()
