"""Connections to PostgreSQL: how one is opened, named without its credentials, and what its errors mean.

Connection strings are libpq's: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from headgate.errors import ConfigError, HeadgateError, SourceBusy, SourceError, SourceNotReady, Unavailable
from headgate.model.finding import Finding

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

APPLICATION = "headgate"
DEFAULT_PORT = "5432"
OLDEST_VERSION = 140000

_LIVENESS = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""A server that vanished is noticed within half a minute, also where nothing is being sent."""


class Config(BaseModel):
    """A named PostgreSQL server. TLS may stand in the DSN (`sslmode=verify-full`) or beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    dsn: SecretStr
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = None
    sslrootcert: Path | None = None
    sslcert: Path | None = None
    sslkey: Path | None = None
    store_schema: str = Field(default="headgate", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """Where a store keeps its tables: two installations can share a database."""

    def conninfo(self) -> str:
        """The connection string with the TLS settings in it. Holds the password. ConfigError if malformed."""
        tls = self.model_dump(exclude={"dsn", "store_schema"}, exclude_none=True)
        return _conninfo(self.dsn.get_secret_value(), {name: str(value) for name, value in tls.items()})


def connect(dsn: str, *, settings: Mapping[str, str] | None = None, **parameters: Any) -> Connection:
    """An autocommit connection that speaks UTF-8; `settings` are the session's.

    Gives up after ten seconds unless the DSN says otherwise. ConfigError: a malformed DSN; SourceNotReady: the
    server refuses us; Unavailable: it can't be reached now.
    """
    with translated(describe(dsn)):
        return psycopg.connect(dsn, autocommit=True, **session_of(dsn, settings), **parameters)


def session_of(dsn: str, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What to connect with beside the DSN, unless it says otherwise itself. ConfigError: a malformed DSN."""
    given = _parsed(dsn)
    session = {"client_encoding": "UTF8", **(settings or {})}
    options = " ".join([str(given.get("options", "")), *(f"-c {name}={value}" for name, value in session.items())])
    defaults = {"connect_timeout": 10, "application_name": APPLICATION, **_LIVENESS}
    chosen: dict[str, Any] = {name: value for name, value in defaults.items() if name not in given}
    return {**chosen, "options": options.strip()}


def describe(dsn: str) -> str:
    """Where a DSN leads, without credentials: `postgresql://host:port/database`."""
    given = _parsed(dsn)
    host = given.get("host") or "localhost"
    database = given.get("dbname") or given.get("user") or ""
    return f"postgresql://{host}:{given.get('port') or DEFAULT_PORT}/{database}"


def database_of(connection: Connection) -> str:
    """The name of the database that a connection is in."""
    return connection.info.dbname


def diagnose(name: str, config: Config) -> list[Finding]:
    """Whether this server answers, lets us in, and is recent enough. Never raises for what it finds."""
    part = f"connection {name}"
    try:
        where = describe(config.dsn.get_secret_value())
        with connect(config.conninfo()) as connection:
            version = connection.info.server_version
    except HeadgateError as error:
        return [Finding(level="error", part=part, message=error.message, mend="see the message")]
    if version < OLDEST_VERSION:
        old = f"PostgreSQL {version // 10000} at {where} is too old"
        return [Finding(level="error", part=part, message=old, mend="upgrade it to PostgreSQL 14 or newer")]
    return [Finding(level="ok", part=part, message=f"PostgreSQL {version // 10000} answers at {where}")]


@contextmanager
def translated(server: str) -> Iterator[None]:
    """Turns what psycopg raises inside into our errors; `server` is its name without credentials."""
    try:
        yield
    except psycopg.Error as error:
        raise error_of(error.sqlstate or _state_at_login(str(error)), server) from error


def error_of(sqlstate: str | None, server: str) -> HeadgateError:
    """Our error for an SQLSTATE; None is a connection that broke, or was never made."""
    for prefix, refusal in _REFUSALS.items():
        if sqlstate is not None and sqlstate.startswith(prefix):
            return refusal[0](f"{server}: {refusal[1]}")
    if sqlstate is None or sqlstate.startswith(_PASSING):
        return Unavailable(f"{server} does not answer: is the server up, and can this machine reach it?")
    return SourceError(f"{server} refused a statement (SQLSTATE {sqlstate}): look at the server's log", state=sqlstate)


TLS_REFUSED = "HGTLS"
"""Stands for a failed TLS handshake, for which there is no SQLSTATE."""

_REFUSALS: dict[str, tuple[type[SourceError], str]] = {
    TLS_REFUSED: (SourceNotReady, "TLS fails: check sslmode, sslrootcert and the server's certificate"),
    "28": (SourceNotReady, "the server refuses this login: check user and password in the DSN, and pg_hba.conf"),
    "3D": (SourceNotReady, "there is no such database: check the name in the DSN"),
    "42501": (SourceNotReady, "our user lacks a privilege: grant it REPLICATION, and SELECT on the tables"),
    "53400": (SourceNotReady, "all replication slots are in use: raise max_replication_slots, or drop an unused slot"),
    "55006": (SourceBusy, "another process reads this replication slot"),
}

_PASSING = ("08", "40", "53", "55P03", "57", "58", "XX")
"""Classes that pass: lost connections, rollbacks, resources, locks, shutdowns, disks, crashes of the server."""


def _state_at_login(text: str) -> str | None:
    """The SQLSTATE of a refused login: libpq passes on its text alone. None where no server refused."""
    return next((state for phrase, state in _REFUSED_LOGINS.items() if phrase in text), None)


_REFUSED_LOGINS = {
    "does not support SSL": TLS_REFUSED,
    "certificate": TLS_REFUSED,
    "authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "is not permitted to log in": "28000",
    "WAL sender": "42501",  # permission denied to start WAL sender
    "start walsender": "42501",  # before version 16
    "permission denied for database": "42501",
    'role "': "28000",  # … does not exist
    'database "': "3D000",  # … does not exist
}


def _parsed(dsn: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.Error:
        # The cause is left out: libpq quotes the string, and with it the password.
        raise ConfigError("the DSN is malformed: write postgresql://user:password@host:port/database") from None


def _conninfo(dsn: str, more: Mapping[str, str]) -> str:
    _parsed(dsn)
    return make_conninfo(dsn, **more)
