"""Debezium's envelope as any of its converters writes it: its parts, and its place in the source's order.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from headgate.errors import Undecodable
from headgate.model.change import Sequence

OPS: Final = frozenset("curdtm")
_FILE_SHIFT: Final = 40  # as our own capture of MySQL counts
_ROW_SHIFT: Final = 24  # an event of a binary log holds fewer rows
_INCREMENTAL: Final = "incremental"
_FOLLOWED: Final = frozenset({"", "false", "False"})


class Origin(msgspec.Struct, gc=False):
    """The `source` block, of every connector."""

    version: str = ""
    schema: str | None = None
    db: str | None = None
    table: str | None = None
    ts_ms: int | None = None
    snapshot: str | bool | None = None
    sequence: str | None = None
    server_id: int | None = None
    """Where the transaction began, which need not be the server whose log is read."""
    gtid: str | None = None
    file: str | None = None
    pos: int | None = None
    row: int | None = None

    @property
    def is_snapshot(self) -> bool:
        """Whether the row was read, not followed."""
        return self.snapshot is True or (isinstance(self.snapshot, str) and self.snapshot not in _FOLLOWED)

    @property
    def begins_anew(self) -> bool:
        """Whether the connector reads whole tables: what follows counts from there, whatever came before."""
        return self.is_snapshot and self.snapshot != _INCREMENTAL


class Envelope(msgspec.Struct, gc=False):
    """The envelope in JSON, with its rows as they are."""

    op: str = ""
    before: msgspec.Raw = msgspec.Raw(b"null")
    after: msgspec.Raw = msgspec.Raw(b"null")
    source: Origin | None = None


_decode_pair = msgspec.json.Decoder(Annotated[list[str | None], msgspec.Meta(min_length=2, max_length=2)]).decode


def sequence_of(source: Origin) -> Sequence | None:
    """The place of a followed change in its source's order. ValueError when it is malformed.

    PostgreSQL: the commit before the change's own transaction, and the change's own LSN. The first transaction that
    a connector streams knows of no commit before it; then its LSN stands for both: what was streamed before it
    restarted lies above as soon as that holds two transactions, and what is new lies above that. MySQL and MariaDB:
    see `_place_in_log`.
    """
    if source.sequence:
        commit, event = _decode_pair(source.sequence)
        if event is None:
            return None
        return Sequence(int(commit if commit is not None else event), int(event))
    if source.file and source.pos is not None:
        return _place_in_log(source, source.file, source.pos)
    return None


def _place_in_log(source: Origin, file: str, position: int) -> Sequence | None:
    """The GTID's number among those of one origin, then position and row; without GTIDs, file and position, then row.

    Places in files count on one server only, and nothing in a record says whose log it is from. A GTID's number
    means the same on a primary and on its replicas, so that a connector that moves to another of them loses nothing.
    """
    origin, row = source.server_id or 0, source.row or 0
    gtid = source.gtid or ""
    numbered, _, number = gtid.rpartition(":" if ":" in gtid else "-")  # UUID[:TAG]:7, MariaDB: DOMAIN-SERVER-7
    if numbered and number.isdigit():
        return Sequence(int(number), (position << _ROW_SHIFT) + row, f"{numbered}/{origin} {file}")
    number = file.rpartition(".")[2]
    return Sequence((int(number) << _FILE_SHIFT) + position, row, str(origin)) if number.isdigit() else None


def is_of_no_row(fields: Mapping[str, Any]) -> bool:
    """Whether a record without an operation is one that Debezium writes beside the changes of rows.

    The borders of transactions, heartbeats, and changes of schemas.
    """
    names = fields.keys()
    return {"status", "id", "event_count"} <= names or names == {"ts_ms"} or {"ddl", "databaseName"} <= names


def no_envelope() -> Undecodable:
    """What is said of anything else."""
    return Undecodable("The record is no envelope of Debezium: look at what else writes to this topic.")
