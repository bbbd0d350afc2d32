"""What the tests of the kind `sqlite` share: a file with its owner, and a way to look at what was read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from headgate.model.change import Change
from tests.contracts.source_kinds.replica import Replica, Run
from tests.contracts.source_kinds.sqlite import SqliteGround

__all__ = ["Replica", "Run", "SqliteGround", "keys", "ops", "snapshots"]


def ops(changes: Sequence[Change]) -> list[tuple[Any, ...]]:
    """Operation and the key's values of every change of a row."""
    return [(change.op, *json.loads(change.key).values()) for change in changes if change.key is not None]


def keys(replica: Replica, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of the replica's rows, sorted."""
    return sorted(tuple(row[column] for column in columns) for row in replica.rows(table))


def snapshots(changes: Sequence[Change]) -> list[str]:
    """The tables whose snapshot began, in order."""
    return [change.table for change in changes if change.marker is not None and change.marker.phase == "begin"]
