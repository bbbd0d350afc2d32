"""Statements that readers and writers share. Each runs in the transaction that its caller has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, decode_progress

ROW = "rows.key, rows.partition, rows.epoch, rows.json, rows.flaw"
"""The columns of `Row`, in its order."""

_encode = msgspec.json.encode


def pointer_of(connection: sqlite3.Connection, entity: str) -> Pointer | None:
    """The entity's pointer, if readers see anything yet."""
    found = connection.execute("select pointer from pointers where entity = ?", [entity]).fetchone()
    return Pointer.parse(found[0]) if found else None


def progress_of(connection: sqlite3.Connection, entity: str, build: str) -> dict[int, Progress]:
    """The progress of every partition of a build that was ever claimed."""
    found = connection.execute("select partition, packed from progress where entity = ? and build = ?", [entity, build])
    return {partition: decode_progress(packed) for partition, packed in found}


def current_of(connection: sqlite3.Connection, entity: str) -> str | None:
    """The build that was defined last."""
    found = connection.execute("select build from current where entity = ?", [entity]).fetchone()
    return found[0] if found else None


def space_of(connection: sqlite3.Connection, entity: str, space: Space) -> int | None:
    """The number of a space, if anything was ever written there."""
    found = connection.execute(
        "select id from spaces where entity = ? and build = ? and generation = ?", [entity, *space]
    ).fetchone()
    return found[0] if found else None


def rows_of(connection: sqlite3.Connection, space: int | None, keys: Sequence[str]) -> dict[str, Row]:
    """The rows stored under these keys, whatever their epoch."""
    if space is None or not keys:
        return {}
    found = connection.execute(
        f"select {ROW} from json_each(?) as asked cross join rows on space = ? and rows.key = asked.value",
        [_encode(keys).decode(), space],
    )
    return {columns[0]: Row(*columns) for columns in found}
