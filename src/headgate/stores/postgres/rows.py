"""A delta as statements, each for any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headgate.stores._catalog import Space
from headgate.stores._delta import Delta
from headgate.stores._index import Entry, is_lead

Statement = tuple[str, Mapping[str, Any]]

SPACE = "(select id from spaces where entity = %(entity)s and build = %(build)s and generation = %(generation)s)"
"""The number of a space; null where nothing was ever written."""

ROW = "rows.key, rows.partition, rows.epoch, rows.json, rows.flaw"
"""The columns of `Row`, in its order."""


def place_of(entity: str, space: Space) -> dict[str, Any]:
    """What `SPACE` is given."""
    return {"entity": entity, "build": space.build, "generation": space.generation}


def store(place: Mapping[str, Any], delta: Delta) -> list[Statement]:
    """Rows, index entries, leads and counts of one space."""
    entries = [entry for entry in delta.added if not is_lead(entry.field)]
    left = [entry for entry in delta.removed if not is_lead(entry.field)]
    leads = [entry for entry in delta.added if is_lead(entry.field)]
    led = [entry for entry in delta.removed if is_lead(entry.field)]
    counts = sorted((*stamp, more) for stamp, more in delta.counts.items() if more)
    statements: list[Statement | None] = [
        _each(_REMOVE_ROWS, place, key=delta.gone),
        _each(
            _PUT_ROWS,
            place,
            key=[row.key for row in delta.rows],
            partition=[row.partition for row in delta.rows],
            epoch=[row.epoch for row in delta.rows],
            flaw=[row.flaw for row in delta.rows],
            json=[row.json for row in delta.rows],
        ),
        _each(_REMOVE_ENTRIES, place, **_columns(left)),
        _each(_ADD_ENTRIES, place, **_columns(entries)),
        _each(_REMOVE_LEADS, place, **_columns(led)),
        _each(_ADD_LEADS, place, **_columns(leads)),
        _each(
            _COUNT,
            place,
            partition=[one[0] for one in counts],
            epoch=[one[1] for one in counts],
            more=[one[2] for one in counts],
        ),
    ]
    return [statement for statement in statements if statement is not None]


def _each(text: str, place: Mapping[str, Any], **columns: Sequence[Any]) -> Statement | None:
    return (text, {**place, **columns}) if next(iter(columns.values())) else None


def _columns(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    return {
        "field": [entry.field for entry in entries],
        "value": [entry.value for entry in entries],
        "key": [entry.key for entry in entries],
    }


_ENTRIES = "unnest(%(field)b::text[], %(value)b::bytea[], %(key)b::text[]) as given (field, value, key)"
_SAME_ENTRY = "old.field = given.field and old.value = given.value and old.key = given.key"
_REMOVE_ROWS = f"delete from rows where space = {SPACE} and key = any(%(key)b::text[])"
_PUT_ROWS = (
    f"insert into rows (space, key, partition, epoch, flaw, json) select {SPACE}, given.* from"
    " unnest(%(key)b::text[], %(partition)b::integer[], %(epoch)b::bigint[], %(flaw)b::text[], %(json)b::bytea[])"
    " as given on conflict (space, key) do update set partition = excluded.partition, epoch = excluded.epoch,"
    " flaw = excluded.flaw, json = excluded.json"
)
_REMOVE_ENTRIES = f"delete from entries as old using {_ENTRIES} where old.space = {SPACE} and {_SAME_ENTRY}"
_ADD_ENTRIES = (
    f"insert into entries (space, field, value, key) select {SPACE}, given.* from {_ENTRIES} on conflict do nothing"
)
_REMOVE_LEADS = f"delete from leads as old using {_ENTRIES} where old.space = {SPACE} and {_SAME_ENTRY}"
_ADD_LEADS = (
    f"insert into leads (space, field, value, key) select {SPACE}, given.* from {_ENTRIES}"
    " on conflict (space, field, key) do update set value = excluded.value"
)
_COUNT = (
    f"insert into counts (space, partition, epoch, rows) select {SPACE}, given.* from"
    " unnest(%(partition)b::integer[], %(epoch)b::bigint[], %(more)b::bigint[]) as given"
    " on conflict (space, partition, epoch) do update set rows = counts.rows + excluded.rows"
)
