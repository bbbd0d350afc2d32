"""The replication connection: makes slots, starts streaming, reads messages, tells what may be forgotten.

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

from struct import Struct
from time import monotonic
from typing import NamedTuple

from psycopg import Error, pq, sql
from psycopg.pq.abc import PGconn, PGresult

from headgate.connections.postgres import Connection, connect, error_of
from headgate.errors import HeadgateError, SlotMissing, Unavailable
from headgate.sources._lost import READ_AGAIN
from headgate.sources.postgres.lsn import parse_lsn
from headgate.sources.postgres.pgoutput import POSTGRES_EPOCH_MS
from headgate.sources.postgres.values import SESSION
from headgate.sources.postgres.waiting import wait_readable

_STATUS = Struct(">cQQQqB")
_KEEPALIVE = Struct(">cQqB")
_ENDING_S = 1.0  # how long a server is given to let go of the slot in good order

DATA = 119  # w
KEEPALIVE = 107  # k

SLOT_GONE = (
    "the replication slot {slot} is gone or no longer holds its changes, so that some are lost to us: run "
    "`headgate detach` and start again, or " + READ_AGAIN
)


class ExportedSlot(NamedTuple):
    """A new slot: it sends what commits from `lsn` on, and `snapshot` shows what committed before."""

    lsn: int
    snapshot: str


class Keepalive(NamedTuple):
    """What the server says when it has nothing else to say."""

    position: int
    """Everything that committed before has been sent."""
    reply: bool
    """Whether it wants to hear from us now."""


def open_replication(dsn: str) -> Connection:
    """A replication connection to one database. Raises as `connect` does."""
    # A slot that is made waits for other transactions, however long they take.
    return connect(dsn, settings={**SESSION, "lock_timeout": "0"}, replication="database")


def send_create_slot(connection: Connection, slot: str, *, temporary: bool) -> None:
    """Begins to make a slot. The server first waits for every transaction that is under way."""
    kind = sql.SQL("TEMPORARY ") if temporary else sql.SQL("")
    command = sql.SQL("CREATE_REPLICATION_SLOT {} {}LOGICAL pgoutput EXPORT_SNAPSHOT")
    connection.pgconn.send_query(command.format(sql.Identifier(slot), kind).as_bytes(connection))


def created_slot(connection: Connection, server: str) -> ExportedSlot:
    """The slot that was begun. The snapshot lasts until the connection's next command or its end."""
    result = result_of(connection.pgconn, server)
    lsn, snapshot = result.get_value(0, 1), result.get_value(0, 2)
    assert lsn is not None and snapshot is not None  # the protocol's fixed answer
    finish_results(connection.pgconn)
    return ExportedSlot(parse_lsn(lsn.decode()), snapshot.decode())


def result_of(pgconn: PGconn, server: str) -> PGresult:
    """The next result of what was sent; raises what it says where it is an error. Waits until it is there."""
    _await_result(pgconn)
    result = pgconn.get_result()
    if result is None:
        raise Unavailable(f"{server} broke off")
    if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
        raise error_of(_sqlstate(result), server)
    return result


def finish_results(pgconn: PGconn) -> None:
    """Reads to the end of what was sent, so that the connection takes the next command."""
    _await_result(pgconn)
    while pgconn.get_result() is not None:
        _await_result(pgconn)


def _await_result(pgconn: PGconn) -> None:
    """Until the next result can be taken at once: to wait for it, the library would hold up all threads of the process.

    Of a connection that is lost, the result says so.
    """
    while pgconn.is_busy():
        wait_readable(pgconn.socket, None)
        try:
            pgconn.consume_input()
        except Error:
            return


def hang_up(connection: Connection) -> None:
    """Ends a connection, and what runs on it at the server. Never raises."""
    try:
        if connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.cancel_safe(timeout=_ENDING_S)
    except Error:
        pass  # the server notices that we are gone, if later
    connection.close()


def _sqlstate(result: PGresult) -> str | None:
    code = result.error_field(pq.DiagnosticField.SQLSTATE)
    return code.decode() if code else None


class Stream:
    """Streams one slot. One thread uses it."""

    def __init__(self, connection: Connection, slot: str, publication: str, server: str) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._slot = slot
        self._publication = publication
        self._server = server
        self.receive = self._pgconn.get_copy_data
        """`receive(1)`: (size, message); size 0 when all that has been read is used up, -1 at the end."""
        self.fill = self._pgconn.consume_input
        """Reads what the socket holds, without waiting."""

    @property
    def socket(self) -> int:
        """The socket to wait on."""
        return self._pgconn.socket

    def start(self) -> None:
        """Takes the slot and begins where it was last confirmed.

        SourceBusy: someone reads it; SlotMissing: it is gone, or has lost its place in the log.
        """
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {})")
        names = sql.Identifier(self._publication).as_string(self._connection)
        text = command.format(sql.Identifier(self._slot), sql.Literal(names)).as_bytes(self._connection)
        result = self._pgconn.exec_(text)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._error(_sqlstate(result))
        self._pgconn.nonblocking = 1

    def ended(self) -> HeadgateError:
        """Why the stream came to its end."""
        result = self._pgconn.get_result()
        return self._error(_sqlstate(result) if result is not None else None)

    def send_status(self, received: int, confirmed: int, now_ms: int, *, reply: bool) -> None:
        """Tells how far we have read, and up to where the server may forget; `reply` asks for a keepalive."""
        clock = (now_ms - POSTGRES_EPOCH_MS) * 1000
        self._pgconn.put_copy_data(_STATUS.pack(b"r", max(received, confirmed), confirmed, confirmed, clock, reply))
        self._pgconn.flush()

    def close(self) -> None:
        """Gives the slot back and hangs up. Never raises."""
        try:
            self._end_in_order()
        except Error:
            pass  # hanging up gives the slot back too, a moment later
        self._connection.close()

    def _end_in_order(self) -> None:
        if self._pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        self._pgconn.put_copy_end()
        self._pgconn.flush()
        deadline = monotonic() + _ENDING_S
        while monotonic() < deadline:
            size, _ = self.receive(1)
            if size < 0:
                finish_results(self._pgconn)
                return
            if size == 0:
                if not wait_readable(self.socket, deadline - monotonic()):
                    return
                self.fill()

    def _error(self, sqlstate: str | None) -> HeadgateError:
        if sqlstate in ("42704", "55000"):
            return SlotMissing(SLOT_GONE.format(slot=self._slot))
        return error_of(sqlstate, self._server)


def read_keepalive(message: memoryview) -> Keepalive:
    """A keepalive message."""
    _, position, _, reply = _KEEPALIVE.unpack(message)
    return Keepalive(position, bool(reply))
