"""What a pipeline's `source:` block may hold for MySQL and MariaDB."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr

_SCHEMES = ("mysql", "mariadb")


def _with_scheme(dsn: SecretStr) -> SecretStr:
    parts = urlsplit(dsn.get_secret_value())
    if parts.scheme not in _SCHEMES or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("the dsn is mysql://USER:PASSWORD@HOST:PORT/DATABASE")
    return dsn


class Config(BaseModel):
    """Which database and tables to capture, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    dsn: Annotated[SecretStr, AfterValidator(_with_scheme)]
    """`mysql://USER:PASSWORD@HOST:PORT/DATABASE` (or `mariadb://…`), percent-encoded."""
    tables: list[str] = []
    """`database.table`, or `table` of the dsn's database. None: every table of that which has a key at the start."""
    server_id: int | None = Field(default=None, ge=1, le=2**32 - 1)
    """Our number among the server's replicas, which no other may have; made of the pipeline's name unless set."""
    tls_ca: FilePath | None = None
    """Authorities that may sign the server's certificate (PEM). Given, the connection is TLS."""
    snapshot_batch: int = Field(default=2000, ge=1)
    """The most rows of a snapshot that are handed over together."""
    status_interval_s: float = Field(default=1.0, gt=0)
    """How often the server is asked for its head."""
    timeout_s: float = Field(default=10.0, gt=0)
    """How long a connection or a silent server is waited for."""

    @property
    def database(self) -> str:
        """The dsn's database."""
        return unquote(urlsplit(self.dsn.get_secret_value()).path.strip("/"))

    def qualified(self, table: str) -> str:
        """`database.table` of a name as the config gives it."""
        return table if "." in table else f"{self.database}.{table}"

    def replica_id(self, pipeline: str) -> int:
        """Our number among the server's replicas, from the upper half, where people seldom number by hand."""
        digest = hashlib.sha256(f"headgate/{pipeline}".encode()).digest()
        return self.server_id or 2**31 + int.from_bytes(digest[:4], "big") % 2**31

    def describe(self) -> str:
        """Where it reads, without credentials."""
        parts = urlsplit(self.dsn.get_secret_value())
        return f"mysql://{parts.hostname}:{parts.port or 3306}/{self.database}"

    def arguments(self) -> dict[str, Any]:
        """What the driver wants to know to connect."""
        parts = urlsplit(self.dsn.get_secret_value())
        return {
            "host": parts.hostname,
            "port": parts.port or 3306,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "charset": "utf8mb4",
            "connect_timeout": max(1, round(self.timeout_s)),
            "read_timeout": self.timeout_s,
            "write_timeout": self.timeout_s,
            **({"ssl": {"ca": str(self.tls_ca)}} if self.tls_ca else {}),
        }
