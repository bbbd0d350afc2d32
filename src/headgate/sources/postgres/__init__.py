"""The source kind `postgres`: PostgreSQL 14 and newer, by logical decoding with the server's own plugin pgoutput.

What is put at the source: a replication slot and a publication, whose comment notes which tables' snapshots
are finished. `detach` takes both away again. What it does not see: a partition that is detached, attached or
truncated by itself, and, before version 18, generated columns.
"""

from __future__ import annotations

from pathlib import Path

from headgate.model import envelope
from headgate.model.change import Change
from headgate.sources.postgres.config import Config
from headgate.sources.postgres.source import PostgresSource
from headgate.telemetry import Clock

CONNECTOR = "postgresql"

__all__ = ["CONNECTOR", "Config", "PostgresSource", "decode", "decode_rows", "default_schema", "open_source"]


def default_schema(config: Config) -> str:
    """The schema of a table that is named without one."""
    return "public"


def open_source(config: Config, pipeline: str, folder: Path, clock: Clock) -> PostgresSource:
    """A source over one database. Opens nothing yet; ConfigError if the DSN is malformed.

    `folder` is for the kinds that keep something beside the source: this one keeps all it knows at the server.
    """
    return PostgresSource(config, pipeline)


def decode(key: bytes | None, value: bytes | None) -> Change | None:
    """A log record as a change; None for a tombstone. Undecodable when it is no envelope."""
    return None if value is None else envelope.decode_change(key, value)


decode_rows = envelope.decode_rows
