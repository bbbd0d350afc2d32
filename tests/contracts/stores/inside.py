"""Looks into a store behind its back: how much is really kept there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from headgate.connections.postgres import connect
from tests.contracts.stores.cases import Store


def stored_entries(store: Store) -> int:
    """How many rows, index entries, spaces and counts are kept; a sweep must leave none that is dead."""
    if store.kind == "sqlite":
        with closing(sqlite3.connect(store.target)) as connection:
            tables = ("rows", "entries", "spaces", "counts")
            return sum(connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables)
    if store.kind == "postgres":
        every = ("rows", "entries", "leads", "spaces", "counts")
        counted = " + ".join(f"(select count(*) from {table})" for table in every)
        with connect(store.target.conninfo(), settings={"search_path": store.target.store_schema}) as postgres:
            return int(postgres.execute(f"select {counted}").fetchall()[0][0])
    client: Any = store.target.connect()
    with closing(client):
        names = client.keys(f"{{{store.target.prefix}:0}}:*")
        assert names
        return sum(_size(client, name) for name in names if not name.endswith(b":letters"))


def _size(client: Any, name: bytes) -> int:
    match client.type(name):
        case b"zset":
            return int(client.zcard(name))
        case b"hash":
            return int(client.hlen(name))
        case b"set":
            return int(client.scard(name))
        case _:
            return 1
