"""The source kind `mysql`: MySQL 8.0 or newer and MariaDB 10.5 or newer, by row-based binary log, by file or GTID.

The server must write row images and row metadata in full (`binlog_format=ROW`, `binlog_row_image=FULL`,
`binlog_row_metadata=FULL`): then each event names its columns, and the schema may change under way. Nothing is
installed there: a lock is held while capture runs, and the place in the binary log is noted in `state`.
"""

from __future__ import annotations

from pathlib import Path

from headgate.model import envelope
from headgate.model.change import Change
from headgate.sources.base import Notebook
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.source import MysqlSource
from headgate.telemetry import Clock

CONNECTOR = "mysql"
KEEPS_STATE = True
"""Whether `open_source` wants the `state`, where what must outlast the process is noted."""

__all__ = [
    "CONNECTOR",
    "KEEPS_STATE",
    "Config",
    "MysqlSource",
    "decode",
    "decode_rows",
    "default_schema",
    "open_source",
]


def default_schema(config: Config) -> str:
    """The schema of a table that is named without one: the dsn's database."""
    return config.database


def open_source(
    config: Config, pipeline: str, folder: Path, clock: Clock, *, state: Notebook | None = None
) -> MysqlSource:
    """A source over one database. Opens nothing yet. `folder` is for kinds that keep files.

    Without `state` it can be looked at, not captured.
    """
    return MysqlSource(config, pipeline, state)


def decode(key: bytes | None, value: bytes | None) -> Change | None:
    """A log record as a change; None for a tombstone. Undecodable when it is no envelope."""
    return None if value is None else envelope.decode_change(key, value)


decode_rows = envelope.decode_rows
