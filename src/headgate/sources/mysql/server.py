"""The server: connections, what it must be set to, where its binary log stands, and the lock of capture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import pymysql
from pymysql.connections import Connection as _Connection
from pymysql.converters import encoders
from pymysql.cursors import Cursor

from headgate.errors import BinlogPurged, HeadgateError, SourceBusy, SourceError, SourceNotReady, Unavailable
from headgate.sources._lost import READ_AGAIN
from headgate.sources.mysql.config import Config

Connection: TypeAlias = "_Connection[Cursor]"  # generic in the stubs alone

_DENIED: Final = frozenset({1044, 1045, 1142, 1143, 1227, 1698})
_LOST: Final = frozenset({1053, 1077, 1079, 1080, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2006, 2013, 2055})
_PASSING: Final = frozenset({1040, 1203, 1205, 1213})
_PURGED: Final = frozenset({1236, 1789, 13117})
_STATUS_BEFORE_8_2: Final = "show master status"
_WANTED: Final[Mapping[str, str]] = {
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "FULL",
}


class Status(NamedTuple):
    """Where a server's binary log ends."""

    file: str
    position: int
    gtids: str
    """What has been executed: MariaDB's position, MySQL's set; empty where GTIDs are off."""


class Identity(NamedTuple):
    """Which server this is."""

    is_mariadb: bool
    version: str
    timeline: str
    """Names the server whose binary log positions count in: file names mean nothing on another one."""


def connect(config: Config, **more: Any) -> Connection:
    """A session that gives values as text, in UTC. Unavailable, or SourceNotReady for a refused password."""
    with translated(config.describe()):
        connection: Connection = pymysql.connect(**{**config.arguments(), "autocommit": True, "conv": encoders, **more})
        execute(connection, "set session time_zone = '+00:00', session net_write_timeout = 600")
        return connection


def execute(connection: Connection, statement: str, arguments: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """A statement's rows, all values as text."""
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments or None)
        return list(cursor.fetchall())


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Raises what the driver says as an error of ours."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise error_of(error, server) from error
    except OSError as error:
        raise Unavailable(f"{server} does not answer: see whether it runs and can be reached") from error


def error_of(error: pymysql.MySQLError, server: str) -> HeadgateError:
    """Ours for the driver's error."""
    code: object = error.args[0] if error.args else 0
    if code in _DENIED:
        return SourceNotReady(
            f"{server} refuses our user: check user and password, and grant it "
            "SELECT, RELOAD, REPLICATION SLAVE, REPLICATION CLIENT"
        )
    if code in _PURGED:
        return BinlogPurged(
            f"{server} no longer has the binary log that capture must go on from: keep binary logs for longer, and "
            + READ_AGAIN
        )
    if code in _LOST or code in _PASSING or isinstance(error, pymysql.InterfaceError):
        return Unavailable(f"{server} does not answer: see whether it runs and can be reached")
    return SourceError(f"{server} can't be captured (error {code}): run `headgate doctor`")


def identify(connection: Connection) -> Identity:
    """Which server this is."""
    ((version, server_id),) = execute(connection, "select version(), @@server_id")
    is_mariadb = "mariadb" in str(version).lower()
    return Identity(is_mariadb, str(version), _uuid(connection, is_mariadb) or str(server_id))


def _uuid(connection: Connection, is_mariadb: bool) -> str:
    if is_mariadb:
        return ""
    ((uuid,),) = execute(connection, "select @@server_uuid")
    return str(uuid)


def clock_ms(connection: Connection) -> int:
    """The server's clock."""
    ((seconds,),) = execute(connection, "select unix_timestamp(now(3))")
    return round(float(seconds) * 1000)


def status(connection: Connection, identity: Identity) -> Status:
    """Where the binary log ends now."""
    rows = execute(connection, _STATUS_BEFORE_8_2 if _is_before_8_2(identity) else "show binary log status")
    if not rows:
        raise SourceNotReady("the server writes no binary log: start it with --log-bin")
    name = "@@gtid_binlog_pos" if identity.is_mariadb else "@@gtid_executed"
    ((gtids,),) = execute(connection, f"select {name}")
    return Status(str(rows[0][0]), int(rows[0][1]), "".join(str(gtids or "").split()))


def holds(connection: Connection, identity: Identity, gtids: str) -> bool:
    """Whether the server has had all of these transactions in its binary log."""
    if not identity.is_mariadb:
        ((contained,),) = execute(connection, "select gtid_subset(%s, @@gtid_executed)", (gtids,))
        return str(contained) == "1"
    ((state,),) = execute(connection, "select @@gtid_binlog_state")
    return state_holds(str(state or ""), gtids)


def state_holds(state: str, gtids: str) -> bool:
    """The same of MariaDB's `gtid_binlog_state`, which names the newest of each domain and server."""
    newest = {origin: int(number) for origin, number in _by_origin(state)}
    return all(newest.get(origin, 0) >= int(number) for origin, number in _by_origin(gtids))


def _by_origin(gtids: str) -> Iterator[tuple[str, str]]:
    """`domain-server`, and the number."""
    for gtid in filter(None, gtids.split(",")):
        origin, _, number = gtid.strip().rpartition("-")
        yield origin, number


def another(server: str) -> BinlogPurged:
    """What to raise where a server's binary log is not the one that was read before."""
    return BinlogPurged(
        f"{server} is another server than before, or its binary log was begun anew, and nothing shows that it holds "
        "all that was read: see which server it is, and " + READ_AGAIN
    )


def unreadable(server: str, why: str) -> BinlogPurged:
    """What to raise where the binary log holds changes that can't be told."""
    return BinlogPurged(
        f"{server} has changes in its binary log that can't be read: {why}; then ask for a re-snapshot of every table "
        "of the pipeline at once"
    )


def _is_before_8_2(identity: Identity) -> bool:
    """MySQL 8.2 gave the statement another name, and 8.4 has lost the old one."""
    return identity.is_mariadb or identity.version.startswith(("8.0.", "8.1."))


def settings(connection: Connection) -> dict[str, str]:
    """The server's settings that capture depends on, as far as it has them."""
    names = (
        *_WANTED,
        "log_bin",
        "binlog_transaction_compression",
        "binlog_row_value_options",
        "expire_logs_days",
        "binlog_expire_logs_seconds",
    )
    marks = ", ".join(["%s"] * len(names))
    rows = execute(connection, f"show global variables where variable_name in ({marks})", names)
    return {str(name): str(value) for name, value in rows}


def obstacles(found: Mapping[str, str]) -> list[str]:
    """What the server must be set to otherwise, a sentence each."""
    said = []
    if found.get("log_bin") != "ON":
        said.append("the server writes no binary log: start it with --log-bin")
    for name, value in _WANTED.items():
        if found.get(name, "").upper() not in (value, "FULL_NODUP"):
            said.append(f"{name} is {found.get(name) or 'unknown'}: SET GLOBAL {name} = '{value}', in its config too")
    if found.get("binlog_transaction_compression") == "ON":
        said.append("binlog_transaction_compression is ON, which we can't read: SET GLOBAL it to OFF")
    if found.get("binlog_row_value_options"):
        said.append("binlog_row_value_options is PARTIAL_JSON, which we can't read: SET GLOBAL it to ''")
    return said


def check_server(connection: Connection) -> None:
    """SourceNotReady says what must be set otherwise."""
    said = obstacles(settings(connection))
    if said:
        raise SourceNotReady("; ".join(said))


_LOCK_WAIT_S = 2
"""A session that was closed a moment ago holds its lock until the server has seen that."""


def take_lock(connection: Connection, pipeline: str) -> None:
    """Holds the pipeline's lock at the source for as long as the connection lives. SourceBusy if another has it."""
    ((taken,),) = execute(connection, "select get_lock(%s, %s)", (f"headgate/{pipeline}"[:64], _LOCK_WAIT_S))
    if str(taken) != "1":
        raise SourceBusy("another process captures this source: this one stands by")
