"""A consistent snapshot of tables, and the place in the binary log that it shows."""

from __future__ import annotations

from collections.abc import Iterator

import pymysql
from pymysql.cursors import SSCursor

from headgate.errors import SourceNotReady
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.position import Place
from headgate.sources.mysql.rows import RowShape
from headgate.sources.mysql.schema import Relation
from headgate.sources.mysql.server import Connection, Identity, connect, execute, identify, status, translated


class Snapshot:
    """One transaction that sees the tables as they were at `place`. One thread uses it.

    The server's own name for that moment is taken where it has one (MariaDB's `binlog_snapshot_*`); elsewhere
    writers are held up for the moment between two statements, as Debezium does.
    """

    def __init__(self, config: Config) -> None:
        self._server = config.describe()
        self._connection: Connection = connect(config, cursorclass=SSCursor)
        try:
            with translated(self._server):
                self.place = self._begin(identify(self._connection))  # of this session: a name may lead elsewhere now
        except BaseException:
            self.close()
            raise

    def read(self, relation: Relation, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """The rows of a table as (key, row), up to `size` at a time; every read is one streamed query."""
        with translated(self._server):
            yield from rows_of(self._connection, relation, size)

    def close(self) -> None:
        """Ends the transaction. Never raises."""
        try:
            self._connection.close()
        except (pymysql.MySQLError, OSError):
            pass  # it is gone either way

    def _begin(self, identity: Identity) -> Place:
        execute(self._connection, "set session transaction isolation level repeatable read")
        if not identity.is_mariadb:
            return self._begin_locked(identity)
        execute(self._connection, "start transaction with consistent snapshot")
        named = {str(n).lower(): str(v) for n, v in execute(self._connection, "show status like 'binlog_snapshot_%%'")}
        file, position = named.get("binlog_snapshot_file", ""), named.get("binlog_snapshot_position", "")
        if not file or not position.isdigit():
            raise SourceNotReady("the server writes no binary log: start it with --log-bin")
        ((gtids,),) = execute(self._connection, "select binlog_gtid_pos(%s, %s)", (file, int(position)))
        return Place(file=file, position=int(position), gtids=str(gtids or ""), timeline=identity.timeline)

    def _begin_locked(self, identity: Identity) -> Place:
        execute(self._connection, "flush tables with read lock")
        try:
            execute(self._connection, "start transaction with consistent snapshot")
            now = status(self._connection, identity)
        finally:
            execute(self._connection, "unlock tables")
        return Place(file=now.file, position=now.position, gtids=now.gtids, timeline=identity.timeline)


def rows_of(connection: Connection, relation: Relation, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows of a table as (key, row), by one streamed query. The connection's cursors must not buffer."""
    shape = RowShape(relation)
    database, name = relation.schema_name
    with connection.cursor() as cursor:
        cursor.execute(f"select {shape.select_list} from {quoted(database)}.{quoted(name)}")
        while rows := cursor.fetchmany(size):
            yield [shape.from_text(row) for row in rows]


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return f"`{name.replace('`', '``')}`"
