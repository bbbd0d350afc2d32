"""The binary log as a stream of whole steps, read by a thread of its own: the library's reads block.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication.html, by the library mysql-replication.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.constants import NONE_SOURCE
from pymysqlreplication.event import (
    FormatDescriptionEvent,
    GtidEvent,
    HeartbeatLogEvent,
    MariadbGtidEvent,
    QueryEvent,
    RotateEvent,
    XAPrepareEvent,
    XidEvent,
)
from pymysqlreplication.row_event import DeleteRowsEvent, PartialUpdateRowsEvent, UpdateRowsEvent, WriteRowsEvent

from headgate.errors import HeadgateError, Unavailable
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.gtids import Gtids, domain_of
from headgate.sources.mysql.packets import Difference, TaggedGtidEvent, UnreadableEvent
from headgate.sources.mysql.position import Last, Place
from headgate.sources.mysql.server import another, error_of, unreadable

Kind: TypeAlias = Literal["insert", "update", "delete"]

_LOST: Final = (2006, 2013)
_QUEUED: Final = 2_000  # steps of at most one event of the log each
_HEARTBEAT_S: Final = 0.1
_EVENTS: Final = [
    WriteRowsEvent, UpdateRowsEvent, PartialUpdateRowsEvent, DeleteRowsEvent, QueryEvent, XidEvent, XAPrepareEvent,
    RotateEvent, HeartbeatLogEvent, GtidEvent, MariadbGtidEvent, TaggedGtidEvent, FormatDescriptionEvent,
    UnreadableEvent,
]  # fmt: skip
_KINDS: Final[Mapping[type, Kind]] = {
    WriteRowsEvent: "insert", UpdateRowsEvent: "update", PartialUpdateRowsEvent: "update", DeleteRowsEvent: "delete",
}  # fmt: skip
_NONE_SOURCES: Final[Mapping[str, str]] = {
    "values": "none_sources", "before_values": "before_none_sources", "after_values": "after_none_sources",
}  # fmt: skip
_PARTIAL: Final = "a session has binlog_row_value_options = PARTIAL_JSON: set it to '', there and globally"
_TRUNCATE = re.compile(
    r"\s*truncate\s+(?:table\s+)?(?:(`(?:[^`]|``)+`|[\w$]+)\s*\.\s*)?(`(?:[^`]|``)+`|[\w$]+)", re.IGNORECASE
)
_COMMENT = re.compile(r"\s*(?:/\*.*?\*/\s*|#[^\n]*\n\s*|--\s[^\n]*\n\s*)+", re.DOTALL)


class Rows(msgspec.Struct, frozen=True):
    """Rows of one table that one event changed. An update's rows hold both images."""

    kind: Kind
    table: str
    rows: Sequence[Mapping[str, Any]]
    file: str
    began: int
    """Where its transaction begins in the file."""
    time_ms: int
    unreadable: str = ""
    """Why the rows can't be told, if they can't."""


class Statement(msgspec.Struct, frozen=True):
    """A statement that stands in the log itself: it changed the schema, or (`truncates`) emptied a table."""

    truncates: str
    file: str
    began: int
    time_ms: int


class Reached(msgspec.Struct, frozen=True):
    """Everything before this place has been told. No transaction is open there."""

    place: Place


Step: TypeAlias = Rows | Statement | Reached


class Stream:
    """Reads on from a place. One thread takes its steps."""

    def __init__(self, config: Config, replica_id: int, place: Place, *, by_gtid: bool, is_mariadb: bool) -> None:
        """`by_gtid`: the place's file and position are another server's.

        MariaDB's then has to show that its history is the one that was read: the newest transaction of that, told
        again, must be the same. `take` raises BinlogPurged where it is another one, and where a file is another one
        than before.
        """
        self._server = config.describe()
        self._place = place
        self._is_mariadb = is_mariadb
        self._steps: queue.Queue[Step | HeadgateError] = queue.Queue(_QUEUED)
        self._ended = threading.Event()
        self._answered = threading.Event()
        where: dict[str, Any] = {"log_file": place.file, "log_pos": place.position, "resume_stream": True}
        shown = place.last if by_gtid else None
        if by_gtid:
            where = {"auto_position": shown.before if shown else place.gtids, "is_mariadb": is_mariadb}
        self._reader = BinLogStreamReader(
            connection_settings=config.arguments(),
            ctl_connection_settings=config.arguments(),
            server_id=replica_id,
            blocking=True,
            only_events=_EVENTS,
            slave_heartbeat=_HEARTBEAT_S,
            pymysql_wrapper=_connect_once,
            enable_logging=False,
            **where,
        )
        self._reading = _Reading(self._server, place, is_mariadb, shown)
        self._thread = threading.Thread(target=self._run, name="headgate-binlog", daemon=True)
        self._thread.start()

    def goes_on(self, timeout_s: float) -> bool:
        """Whether the server has shown in time that it goes on from the place. Raises what ended the stream instead.

        To be asked before the first step is taken.
        """
        if not self._answered.wait(timeout_s):
            return False
        if not self._reading.is_on:
            self.take(timeout_s)
        return True

    def take(self, timeout_s: float) -> Step | None:
        """The next step, or None when none came in time. Raises what ended the stream."""
        try:
            step = self._steps.get(timeout=timeout_s) if timeout_s > 0 else self._steps.get_nowait()
        except queue.Empty:
            return None
        if isinstance(step, HeadgateError):
            raise step
        return step

    def close(self) -> None:
        """Ends the stream. Never raises. The server's heartbeats let the thread notice within a moment."""
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                event = self._reader.fetchone()
                if event is None:
                    raise _StreamEnded
                steps = self._reading.steps(event, self._reader.log_file, int(self._reader.log_pos or 0))
                if self._reading.is_on:
                    self._answered.set()
                for step in steps:
                    self._put(step)
        except pymysql.MySQLError as error:
            self._put(error_of(error, self._server))
        except HeadgateError as error:
            self._put(error)
        except Exception as error:
            failure = Unavailable(f"the stream of changes from {self._server} has ended: it is opened again")
            failure.__cause__ = error
            self._put(failure)
        finally:
            self._answered.set()
            self._reader.close()

    def _put(self, step: Step | HeadgateError) -> None:
        """Waits while the queue is full, so that a slow log slows the reading and memory stays bounded."""
        while not self._ended.is_set():
            try:
                self._steps.put(step, timeout=0.2)
                return
            except queue.Full:
                continue


class _Reading:
    """What is known of where the stream is."""

    def __init__(self, server: str, place: Place, is_mariadb: bool, shown: Last | None) -> None:
        self._server = server
        self._place = place
        self._began = place.position
        self._open = False
        self._created_s = place.created_s
        self._gtids = Gtids(place.gtids, is_mariadb, place.last)
        self._shown = shown
        """What the server has to show before anything that it tells counts."""
        self.is_on = False
        """Whether what it tells is what follows the place."""

    def steps(self, event: Any, file: str, position: int) -> list[Step]:
        """What one event means. `file` and `position` are where the stream stands after it."""
        if isinstance(event, RotateEvent):
            self._rotate(file, int(event.position))
            return []
        if isinstance(event, FormatDescriptionEvent):
            self._begin_file(int(event.timestamp))
            return []
        if isinstance(event, UnreadableEvent):
            raise unreadable(self._server, event.why)
        self.is_on = self._shown is None
        if isinstance(event, GtidEvent | MariadbGtidEvent | TaggedGtidEvent):
            self._begin(event)
            return []
        if isinstance(event, HeartbeatLogEvent):
            return [] if self._open else self._reached(file, position)
        if type(event) in _KINDS:
            self._open = True
            self._gtids.touch(int(event.timestamp))
            return [] if self._is_shown_again() else [self._rows(event, file)]
        if isinstance(event, XidEvent | XAPrepareEvent):
            return self._commit(file, position)
        return self._statement(event, file, position)

    def _rotate(self, file: str, position: int) -> None:
        self._began = position
        if file != self._place.file:
            self._created_s = 0

    def _begin_file(self, created_s: int) -> None:
        """Each file begins with when it was begun, and a stream within a file begins with that too."""
        if self._created_s and created_s != self._created_s:
            raise another(self._server)
        self._created_s = created_s

    def _begin(self, event: Any) -> None:
        self._open = True
        self._began = int(event.packet.log_pos) - int(event.packet.event_size)
        self._gtids.begin(event.gtid)
        if self._shown and domain_of(event.gtid) == domain_of(self._shown.gtid) and event.gtid != self._shown.gtid:
            raise another(self._server)

    def _is_shown_again(self) -> bool:
        """Whether this is the transaction that was read before."""
        return self._shown is not None and self._gtids.open == self._shown.gtid

    def _rows(self, event: Any, file: str) -> Rows:
        kind = _KINDS[type(event)]
        rows = [_with_empty_sets(row) for row in event.rows]
        why = ""
        if isinstance(event, PartialUpdateRowsEvent):
            rows = [_with_old_documents(row) for row in rows]
            why = _PARTIAL if any(map(_has_difference, rows)) else ""
        return Rows(kind, f"{event.schema}.{event.table}", rows, file, self._began, _time_ms(event), why)

    def _statement(self, event: Any, file: str, position: int) -> list[Step]:
        text = _COMMENT.sub("", _text(event.query), count=1) if _text(event.query) else ""
        word = text[:11].upper()
        if word.startswith(("BEGIN", "SAVEPOINT", "XA START", "XA END")):
            self._open = True
            return []
        if word.startswith(("COMMIT", "ROLLBACK", "XA COMMIT", "XA ROLLBACK")):
            return self._commit(file, position)
        self._gtids.touch(int(event.timestamp))
        told = (
            []
            if self._is_shown_again()
            else [Statement(self._truncated(event, text), file, self._began, _time_ms(event))]
        )
        return [*told, *self._commit(file, position)]

    def _truncated(self, event: Any, text: str) -> str:
        """The table that a statement empties, if it is one that does."""
        found = _TRUNCATE.match(text)
        if found is None:
            return ""
        database = _unquoted(found[1]) if found[1] else _text(event.schema)
        return f"{database}.{_unquoted(found[2])}"

    def _commit(self, file: str, position: int) -> list[Step]:
        self._open = False
        if self._is_shown_again():
            self._compare()
        self._gtids.commit()
        return self._reached(file, position)

    def _compare(self) -> None:
        if self._shown and self._gtids.time_s != self._shown.time_s:
            raise another(self._server)
        self._shown = None

    def _reached(self, file: str, position: int) -> list[Step]:
        self._began = position
        if self._shown is not None:
            return []
        place = Place(
            file=file, position=position, gtids=self._gtids.text(), timeline=self._place.timeline,
            created_s=self._created_s, last=self._gtids.last,
        )  # fmt: skip
        if place == self._place:
            return []
        self._place = place
        return [Reached(place)]


class _StreamEnded(Exception):
    """The server has ended the stream."""


class _Once(pymysql.connections.Connection):
    """The library opens a lost connection again by itself, wherever it was: ours ends instead."""

    def _read_packet(self, *arguments: Any, **named: Any) -> Any:
        try:
            return super()._read_packet(*arguments, **named)  # type: ignore[no-untyped-call]  # private
        except pymysql.OperationalError as error:
            if error.args and error.args[0] in _LOST:
                raise _StreamEnded from error
            raise


def _connect_once(**arguments: Any) -> _Once:
    """A connection with the arguments that the library gives, one of them under its old name."""
    if "db" in arguments:
        arguments["database"] = arguments.pop("db")
    return _Once(**arguments)


def _with_empty_sets(row: dict[str, Any]) -> dict[str, Any]:
    """The library's row, which has a null for them and says beside it why."""
    for image, reasons in _NONE_SOURCES.items():
        for name, why in row.get(reasons, {}).items():
            if why == NONE_SOURCE.EMPTY_SET:
                row[image][name] = ()
    return row


def _with_old_documents(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which a document that did not change is the one before."""
    before, after = row["before_values"], row["after_values"]
    after.update({name: before[name] for name in after if after[name] == Difference(b"")})
    return row


def _has_difference(row: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Difference) for value in row["after_values"].values())


def _time_ms(event: Any) -> int:
    return int(event.timestamp) * 1000


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name
