"""A PostgreSQL database as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from headgate.connections.postgres import Connection, connect, describe, translated
from headgate.errors import HeadgateError
from headgate.model.change import Sequence as SourceSequence
from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources.base import Capture
from headgate.sources.postgres.capture import Options, PostgresCapture
from headgate.sources.postgres.config import Config, qualified
from headgate.sources.postgres.definitions import shape_of
from headgate.sources.postgres.diagnosis import examine
from headgate.sources.postgres.heads import CLOCK
from headgate.sources.postgres.publication import drop_publication, read_publication
from headgate.sources.postgres.schema import wanted
from headgate.sources.postgres.setup import Names, check_server, set_up, take_lock, unpublish_keyless
from headgate.sources.postgres.slot import drop_slot, read_slot
from headgate.sources.postgres.snapshot import TableRead
from headgate.sources.postgres.values import SESSION, Types
from headgate.sources.postgres.waiting import Waiting

NOWHERE = SourceSequence(0, 0)
_LOOK_UP_S = 1.0


class PostgresSource:
    """Implements `Source`. Opens nothing until a method is called."""

    def __init__(self, config: Config, pipeline: str) -> None:
        self._config = config
        self._dsn = config.dsn.get_secret_value()
        self._tables = [qualified(table) for table in config.tables]
        self._names = Names(config.slot_name(pipeline), config.publication_name(pipeline))
        self._server = describe(self._dsn)

    def tables(self) -> Sequence[Table]:
        """See `Source`. SourceNotReady names a table that is missing, TableWithoutKey one without a key."""
        with self._connect() as connection, translated(self._server):
            return [relation.table for relation in wanted(connection, Types(), self._tables)]

    def capture(self, *, resnapshot: Sequence[str] = (), now_ms: Callable[[], int]) -> Capture:
        """See `Source`. Takes the lock, brings the publication in line, and drops a slot that is of no use."""
        connection = self._connect()
        try:
            with translated(self._server):
                return self._begin(connection, [qualified(table) for table in resnapshot], now_ms)
        except BaseException:
            connection.close()
            raise

    def _begin(self, connection: Connection, resnapshot: list[str], now_ms: Callable[[], int]) -> PostgresCapture:
        check_server(connection)
        take_lock(connection, self._names)
        types = Types()
        unpublish_keyless(connection, self._names.publication, types)
        relations = wanted(connection, types, self._tables)
        setup = set_up(connection, self._names, relations, resnapshot, now_ms())
        options = Options(
            dsn=self._dsn,
            server=self._server,
            names=self._names,
            snapshot_batch=self._config.snapshot_batch,
            interval_s=self._config.status_interval_s,
            now_ms=now_ms,
        )
        return PostgresCapture(options, connection, setup, relations, types)

    def detach(self) -> Sequence[str]:
        """See `Source`. SourceBusy while a capture runs: nothing is ended here."""
        taken = []
        with self._connect() as connection, translated(self._server):
            take_lock(connection, self._names)
            slot = read_slot(connection, self._names.slot)
            if slot is not None:
                drop_slot(connection, slot)
                taken.append(f"replication slot {slot.name}")
            if read_publication(connection, self._names.publication) is not None:
                drop_publication(connection, self._names.publication)
                taken.append(f"publication {self._names.publication}")
        return taken

    def diagnose(self) -> Sequence[Finding]:
        """See `Source`."""
        part = f"source {self._server}"
        try:
            with self._connect() as connection, translated(self._server):
                return list(examine(connection, self._names, self._tables, part))
        except HeadgateError as error:
            return [Finding(level="error", part=part, message=error.message, mend="see the message")]

    def scan(self, table: str, size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """See `Source`. One COPY, which sees one moment."""
        waiting = Waiting()
        try:
            with self._connect() as connection, translated(self._server):
                types = Types()
                (relation,) = wanted(connection, types, [qualified(table)])
                waiting.watch(connection.pgconn.socket)
                read = TableRead(connection, relation, shape_of(relation, types), waiting, self._server)
                for changes in read.batches(size, NOWHERE, 0, _LOOK_UP_S):
                    yield [(change.key or b"", change.after or b"") for change in changes]
        finally:
            waiting.close()

    def now_ms(self) -> int:
        """See `Source`."""
        with self._connect() as connection, translated(self._server):
            row = connection.execute(f"select {CLOCK}").fetchone()
        assert row is not None  # it always has a row
        return int(row[0])

    def describe(self) -> str:
        """See `Source`."""
        return self._server

    def _connect(self) -> Connection:
        return connect(self._dsn, settings=SESSION)
