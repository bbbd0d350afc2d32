"""Applies a delta to the tables."""

from __future__ import annotations

import sqlite3

from headgate.stores._delta import Delta
from headgate.stores._index import is_lead


def store(connection: sqlite3.Connection, space: int, delta: Delta) -> None:
    """Rows, index entries and counts of one space, in the transaction that the caller has begun.

    Leads are not kept: whoever follows one here has the row at hand.
    """
    connection.executemany("delete from rows where space = ? and key = ?", [(space, key) for key in delta.gone])
    connection.executemany(
        "insert or replace into rows (space, key, partition, epoch, flaw, json) values (?, ?, ?, ?, ?, ?)",
        [(space, row.key, row.partition, row.epoch, row.flaw, row.json) for row in delta.rows],
    )
    connection.executemany(
        "delete from entries where space = ? and field = ? and value = ? and key = ?",
        [(space, *entry) for entry in delta.removed if not is_lead(entry.field)],
    )
    connection.executemany(
        "insert or replace into entries (space, field, value, key) values (?, ?, ?, ?)",
        [(space, *entry) for entry in delta.added if not is_lead(entry.field)],
    )
    connection.executemany(
        "insert into counts values (?, ?, ?, ?)"
        " on conflict (space, partition, epoch) do update set rows = rows + excluded.rows",
        [(space, *stamp, more) for stamp, more in delta.counts.items() if more],
    )
