"""A MySQL or MariaDB database as a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pymysql.cursors import SSCursor

from headgate.errors import HeadgateError
from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources.base import Capture, Notebook
from headgate.sources.mysql.capture import MysqlCapture, Options
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.position import Notes
from headgate.sources.mysql.schema import LEFT_OUT, read, wanted
from headgate.sources.mysql.server import (
    Connection,
    check_server,
    clock_ms,
    connect,
    identify,
    obstacles,
    settings,
    take_lock,
    translated,
)
from headgate.sources.mysql.snapshot import rows_of


class MysqlSource:
    """Implements `Source`. Opens nothing until a method is called."""

    def __init__(self, config: Config, pipeline: str, state: Notebook | None) -> None:
        self._config = config
        self._pipeline = pipeline
        self._state = state
        self._server = config.describe()

    def tables(self) -> Sequence[Table]:
        """See `Source`. SourceNotReady names a table that is missing, TableWithoutKey one without a key."""
        connection = connect(self._config)
        try:
            with translated(self._server):
                return [relation.table for relation in wanted(connection, self._config)]
        finally:
            connection.close()

    def capture(self, *, resnapshot: Sequence[str] = (), now_ms: Callable[[], int]) -> Capture:
        """See `Source`. Installs nothing at the server: it holds a lock there for as long as it runs."""
        connection = connect(self._config)
        try:
            with translated(self._server):
                return self._begin(connection, resnapshot, now_ms)
        except BaseException:
            connection.close()
            raise

    def _begin(self, connection: Connection, resnapshot: Sequence[str], now_ms: Callable[[], int]) -> MysqlCapture:
        check_server(connection)
        take_lock(connection, self._pipeline)
        wanted(connection, self._config)  # what stands in the way is said before capture begins
        options = Options(
            config=self._config,
            replica_id=self._config.replica_id(self._pipeline),
            identity=identify(connection),
            notes=self._notes(),
            resnapshot=frozenset(map(self._config.qualified, resnapshot)),
            now_ms=now_ms,
        )
        return MysqlCapture(options, connection)

    def detach(self) -> Sequence[str]:
        """See `Source`. Nothing of ours stands at the server; the noted place in its binary log is forgotten."""
        connection = connect(self._config)
        try:
            with translated(self._server):
                take_lock(connection, self._pipeline)
        finally:
            connection.close()
        return ["the noted place in the binary log"] if self._notes().forget() else []

    def diagnose(self) -> Sequence[Finding]:
        """See `Source`."""
        part = f"source {self._server}"
        try:
            return list(self._examine(part))
        except HeadgateError as error:
            return [Finding(level="error", part=part, message=error.message, mend="see the message")]

    def _examine(self, part: str) -> Iterator[Finding]:
        connection = connect(self._config)
        try:
            with translated(self._server):
                identity, found = identify(connection), settings(connection)
                yield Finding(level="ok", part=part, message=f"answers, version {identity.version}")
                for said in obstacles(found):
                    message, _, mend = said.partition(": ")
                    yield Finding(level="error", part=part, message=message, mend=mend)
                relations = wanted(connection, self._config)
                yield Finding(level="ok", part=part, message=f"{len(relations)} tables can be captured")
                if not self._config.tables:
                    yield from self._keyless(connection, part)
                for relation in relations:
                    if relation.left_out:
                        message = f"{relation.table.name} is captured without {', '.join(relation.left_out)}"
                        yield Finding(level="warning", part=part, message=message, mend=LEFT_OUT)
        finally:
            connection.close()

    def _keyless(self, connection: Connection, part: str) -> Iterator[Finding]:
        for relation in read(connection, [self._config.database]):
            if not relation.table.key:
                message = f"{relation.table.name} is not captured: it has no primary key"
                yield Finding(level="warning", part=part, message=message, mend="give it a primary key")

    def _notes(self) -> Notes:
        assert self._state is not None, "capture notes its place in the state"
        return Notes(self._state, self._pipeline)

    def scan(self, table: str, size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """See `Source`. One statement, which sees one moment."""
        config = self._config.model_copy(update={"tables": [table]})
        connection = connect(config, cursorclass=SSCursor)
        try:
            with translated(self._server):
                (relation,) = wanted(connection, config)
                yield from rows_of(connection, relation, size)
        finally:
            connection.close()

    def now_ms(self) -> int:
        """See `Source`."""
        connection = connect(self._config)
        try:
            with translated(self._server):
                return clock_ms(connection)
        finally:
            connection.close()

    def describe(self) -> str:
        """See `Source`."""
        return self._server
