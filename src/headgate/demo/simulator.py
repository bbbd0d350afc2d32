"""Changes the shop with ordinary SQL, at a steady rate, as its own programs would."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from headgate.demo import shop
from headgate.telemetry import Clock


class Database(Protocol):
    """The shop's own connection to its database. Statements use `?` for values."""

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Runs the statements in one transaction."""

    def number(self, sql: str) -> int:
        """The one number that a query answers."""

    def close(self) -> None:
        """Closes the connection."""


class SqliteShop:
    """The shop on SQLite: a plain file that any program may write."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = normal")

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """See `Database`."""
        self._connection.execute("begin immediate")
        try:
            for sql, values in statements:
                self._connection.execute(sql, values)
        except sqlite3.Error:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def number(self, sql: str) -> int:
        """See `Database`."""
        return int(self._connection.execute(sql).fetchone()[0] or 0)

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()


class PostgresShop:
    """The shop on Postgres."""

    def __init__(self, dsn: str) -> None:
        import psycopg  # an extra: the embedded demo does without

        self._connection = psycopg.connect(dsn, autocommit=True)

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """See `Database`."""
        with self._connection.transaction():
            for sql, values in statements:
                self._connection.execute(sql.replace("?", "%s").encode(), values)

    def number(self, sql: str) -> int:
        """See `Database`."""
        row = self._connection.execute(sql.encode()).fetchone()
        return int(row[0] or 0) if row else 0

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()


def open_shop(database: Database, dialect: shop.Dialect, dice: random.Random, clock: Clock) -> None:
    """Makes the tables and the first rows, if the shop is not there yet."""
    exists = {
        "sqlite": "select count(*) from sqlite_master where name = 'customers'",
        "postgres": "select count(*) from information_schema.tables where table_name = 'customers'",
    }
    if database.number(exists[dialect]):
        return
    database.run([(statement, ()) for statement in shop.schema(dialect)])
    database.run(list(shop.first_rows(dice, timestamp(clock()))))


def timestamp(now_ms: int) -> str:
    """A time as the shop writes it: ISO 8601 in UTC."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Simulator:
    """Orders come in, are paid, move on; customers change plans. `rate` is changes per second."""

    def __init__(self, database: Database, rate: float, dice: random.Random, clock: Clock) -> None:
        self._database = database
        self._rate = rate
        self._dice = dice
        self._clock = clock
        self._orders = database.number("select max(id) from orders")
        self._payments = database.number("select max(id) from payments")
        self._customers = database.number("select max(id) from customers")

    def run(self, stop: threading.Event, pause: Callable[[float], object] | None = None) -> None:
        """Changes rows until `stop`, in small transactions of about a twentieth of a second's work."""
        wait = pause or stop.wait
        owed = 0.0
        last_ms = self._clock()
        while not stop.is_set():
            wait(0.05)
            now_ms = self._clock()
            owed = min(owed + self._rate * (now_ms - last_ms) / 1000, self._rate)
            last_ms = now_ms
            while owed >= 1 and not stop.is_set():
                statements = [self._next() for _ in range(min(int(owed), 50))]
                self._database.run(statements)
                owed -= len(statements)

    def _next(self) -> tuple[str, Sequence[Any]]:
        now = timestamp(self._clock())
        roll = self._dice.random()
        if roll < 0.25:
            self._orders += 1
            return shop.order(self._orders, self._dice.randint(1, self._customers), self._dice, now)
        if roll < 0.45:
            self._payments += 1
            values = (self._payments, self._dice.randint(1, self._orders), self._dice.choice(("card", "sepa")),
                      shop.price(self._dice), now)  # fmt: skip
            return "insert into payments values (?, ?, ?, ?, ?)", values
        if roll < 0.75:
            status = self._dice.choice(shop.STATUSES[1:])
            return "update orders set status = ? where id = ?", (status, self._dice.randint(1, self._orders))
        if roll < 0.90:
            sold = (self._dice.randint(1, shop.PRODUCTS),)
            return "update products set stock = case when stock > 0 then stock - 1 else 100 end where id = ?", sold
        if roll < 0.98:
            plan = self._dice.choice(shop.PLANS[:3])
            return "update customers set plan = ? where id = ?", (plan, self._dice.randint(8, self._customers))
        self._customers += 1
        return shop.customer(self._customers, self._dice, now)
