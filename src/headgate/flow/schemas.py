"""The tables' schemas, as capture announces them and every other process learns them, through `state`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from headgate.model.table import Table
from headgate.sources.base import Feed
from headgate.state.base import State

_decode = msgspec.json.Decoder(Table).decode


def announce(state: State, pipeline: str, table: Table) -> None:
    """Makes a table's schema known. Idempotent."""
    key = _prefix(pipeline) + table.name
    value = msgspec.json.encode(table)
    known = state.get(key)
    if known is None or known.value != value:
        state.put(key, value)


def announce_fed(state: State, pipeline: str, feed: Feed | None, known: Mapping[str, Table]) -> Mapping[str, Table]:
    """The tables by what is `announced` so far. What a feed knows more is announced here, as nobody else does."""
    if feed is None:
        return known
    topics = feed.topics()
    known = {name: table for name, table in known.items() if name in topics}
    for table in feed.tables(known):
        if known.get(table.name) != table:
            announce(state, pipeline, table)
            known[table.name] = table
    return known


def announced(state: State, pipeline: str) -> dict[str, Table]:
    """The tables announced so far, by name."""
    tables = (_decode(entry.value) for entry in state.scan(_prefix(pipeline)).values())
    return {table.name: table for table in tables}


def _prefix(pipeline: str) -> str:
    return f"table/{pipeline}/"
