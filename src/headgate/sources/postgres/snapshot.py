"""Reads whole tables as one exported snapshot shows them, by COPY.

The text format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from psycopg import pq, sql

from headgate.connections.postgres import Connection, error_of
from headgate.errors import Unavailable
from headgate.model.change import Change, Sequence
from headgate.sources.postgres.publication import table_name
from headgate.sources.postgres.rows import RowShape, Values
from headgate.sources.postgres.schema import Relation
from headgate.sources.postgres.stream import finish_results, result_of
from headgate.sources.postgres.waiting import Waiting

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_NULL = b"\\N"


def enter_snapshot(connection: Connection, snapshot: str) -> None:
    """Begins a read-only transaction that sees what the exported snapshot shows."""
    if connection.info.server_version >= 170000:
        connection.execute("set transaction_timeout = 0")
    connection.execute("begin transaction isolation level repeatable read, read only")
    connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))


def hold_tables(connection: Connection, relations: list[Relation]) -> None:
    """Keeps the tables' definitions as they are until the transaction ends; reads and writes go on."""
    for relation in relations:
        name = table_name(relation.table.name)
        connection.execute(sql.SQL("lock table {}{} in access share mode").format(_only(relation), name))


class TableRead:
    """Reads one table, a batch at a time. `rows_read` counts on."""

    def __init__(
        self, connection: Connection, relation: Relation, shape: RowShape, waiting: Waiting, server: str
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._relation = relation
        self._shape = shape
        self._waiting = waiting
        self._server = server
        self.rows_read = 0

    def batches(self, size: int, sequence: Sequence, time_ms: int, timeout_s: float) -> Iterator[list[Change]]:
        """Batches of up to `size` rows; an empty one where the server took longer than `timeout_s`.

        Ends early once waiting was stopped.
        """
        self._pgconn.send_query(self._command())
        self._expect_copy()
        changes: list[Change] = []
        while not self._waiting.stopped():
            length, line = self._pgconn.get_copy_data(1)
            if length > 0:
                changes.append(self._change(bytes(line), sequence, time_ms))
                if len(changes) >= size:
                    yield self._counted(changes)
                    changes = []
            elif length == 0:
                if not self._waiting.wait(timeout_s):
                    yield self._counted(changes)
                    changes = []
                self._pgconn.consume_input()
            else:
                self._finish()
                yield self._counted(changes)
                return

    def _counted(self, changes: list[Change]) -> list[Change]:
        self.rows_read += len(changes)
        return changes

    def _change(self, line: bytes, sequence: Sequence, time_ms: int) -> Change:
        values: Values = list(line[:-1].split(b"\t"))
        nulls = _unescape(values) if b"\\" in line else 0
        row = self._shape.row(values, nulls, 0)
        key = self._shape.key_of(values)
        return Change(
            op="r", table=self._shape.table, key=key, after=row, sequence=sequence, time_ms=time_ms, snapshot=True
        )

    def _command(self) -> bytes:
        columns = sql.SQL(", ").join([sql.Identifier(name) for name in self._shape.names])
        table = table_name(self._relation.table.name)
        query = sql.SQL("copy (select {} from {}{}) to stdout").format(columns, _only(self._relation), table)
        return query.as_bytes(self._connection)

    def _expect_copy(self) -> None:
        result = result_of(self._pgconn, self._server)
        if result.status != pq.ExecStatus.COPY_OUT:
            raise Unavailable(f"{self._server} did not send table {self._relation.table.name}")

    def _finish(self) -> None:
        result = result_of(self._pgconn, self._server)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise error_of(None, self._server)
        finish_results(self._pgconn)


def _unescape(values: Values) -> int:
    """Undoes COPY's escapes in place; answers the bits of the nulls."""
    nulls = 0
    for index, value in enumerate(values):
        if value == _NULL:
            values[index] = None
            nulls |= 1 << index
        elif value is not None and b"\\" in value:
            values[index] = _ESCAPE.sub(_plain, value)
    return nulls


def _plain(escape: re.Match[bytes]) -> bytes:
    letter = escape.group(1)
    return _CONTROLS.get(letter, letter)


def _only(relation: Relation) -> sql.SQL:
    return sql.SQL("" if relation.partitioned else "only ")
