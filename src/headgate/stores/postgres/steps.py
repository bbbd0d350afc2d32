"""Transactions of a writer: sent in pipelines, so that a step costs two round trips.

Whoever writes rows of an entity holds its lock shared with other writers; whoever takes rows away or moves what
readers see holds it alone. So a step never meets a sweep, and steps of different partitions never wait for each
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Cursor

from headgate.connections.postgres import Config, Connection
from headgate.stores.postgres.tables import connect_writer, guard

Found = Cursor[tuple[Any, ...]]


class Steps:
    """A writer's connection, opened when it is needed. After any failure it is another."""

    def __init__(self, target: Config) -> None:
        self._target = target
        self._connection: Connection | None = None

    @contextmanager
    def begin(self, *, shared: Iterable[str] = (), alone: Iterable[str] = (), mode: str = "") -> Iterator[Step]:
        """One transaction, committed at the block's end; any exception takes all of it back."""
        with guard(self._target):
            if self._connection is None:
                self._connection = connect_writer(self._target)
            step = Step(self._connection)
            try:
                step.open(sorted(set(shared)), sorted(set(alone)), self._target.store_schema, mode)
                yield step
                step.send([("commit", {})])
            except BaseException:
                self._take_back()
                raise

    def close(self) -> None:
        """Closes the connection. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _take_back(self) -> None:
        try:
            if self._connection is not None:
                self._connection.execute("rollback")
        except psycopg.Error:
            self.close()


class Step:
    """A transaction that has begun. What opens it is sent along with its first statements."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []

    def open(self, shared: Sequence[str], alone: Sequence[str], schema: str, mode: str) -> None:
        """Begins, and takes the entities' locks in one order."""
        self._waiting.append((f"begin {mode}", {}))
        for entity in sorted({*shared, *alone}):
            lock = "pg_advisory_xact_lock" if entity in alone else "pg_advisory_xact_lock_shared"
            named = {"name": f"headgate.{schema}.{entity}"}
            self._waiting.append((f"select {lock}(hashtextextended(%(name)s, 0))", named))

    def send(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Found]:
        """Sends statements together, and answers what each found."""
        waiting, self._waiting = self._waiting, []
        with self._connection.pipeline():
            found = [self._connection.execute(text, given, binary=True) for text, given in (*waiting, *statements)]
        return found[len(waiting) :]

    def ask(self, text: str, **given: Any) -> list[tuple[Any, ...]]:
        """The rows that one statement finds."""
        return self.send([(text, given)])[0].fetchall()

    def do(self, text: str, **given: Any) -> int:
        """How many rows one statement has changed."""
        return self.send([(text, given)])[0].rowcount
