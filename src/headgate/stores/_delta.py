"""What one write does to what is stored: rows, index entries and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from headgate.model.row import Row
from headgate.stores._index import Entry, Indexes
from headgate.stores.base import Write


class Delta(msgspec.Struct):
    """The difference that a write makes. Applied as a whole, it leaves rows, indexes and counts in step."""

    rows: list[Row] = []
    """Rows to store under their keys."""
    born: list[str] = []
    """Keys of `rows` under which nothing was stored, not even a row of an older epoch."""
    gone: list[str] = []
    """Keys to remove."""
    added: list[Entry] = []
    removed: list[Entry] = []
    counts: Counter[tuple[int, int]] = msgspec.field(default_factory=Counter)
    """(partition, epoch) → how many more rows are stored with that stamp."""


def touched(write: Write) -> list[str]:
    """The keys whose stored rows a write depends on, each once."""
    if write.flaws or not write.deletes.isdisjoint(write.puts):
        return list(dict.fromkeys((*write.puts, *write.deletes, *write.flaws)))
    return [*write.puts, *write.deletes]


def delta_of(indexes: Indexes, write: Write, stored: Mapping[str, Row]) -> Delta:
    """The difference a write makes to the stored rows of the keys it touches, whatever their epoch."""
    delta = Delta()
    for key in touched(write):
        _replace(delta, indexes, stored.get(key), after(write, key, stored.get(key)), key)
    return delta


def removal_of(indexes: Indexes, rows: list[Row]) -> Delta:
    """The difference that removing these stored rows makes."""
    delta = Delta()
    for row in rows:
        _replace(delta, indexes, row, None, row.key)
    return delta


def after(write: Write, key: str, stored: Row | None) -> Row | None:
    """The row that stands after a write: a put heals a flaw, a flaw in the same write marks what was put."""
    flaw = write.flaws.get(key, "")
    json = write.puts.get(key)
    if json is None and flaw:
        is_there = stored is not None and stored.epoch >= write.progress.epoch and key not in write.deletes
        json = stored.json if stored is not None and is_there else b"{}"
    if json is None:
        return None
    return Row(key, write.partition, write.progress.epoch, json, flaw)


def note(delta: Delta, indexes: Indexes, old: Row | None, new: Row | None, key: str) -> None:
    """Adds to a delta what the change of one row makes, but for the row itself.

    Of a row's JSON it looks at the fields alone that indexes are made of.
    """
    if new is not None:
        delta.counts[new.partition, new.epoch] += 1
        if old is None:
            delta.born.append(key)
    if old is not None:
        delta.counts[old.partition, old.epoch] -= 1
        if new is None:
            delta.gone.append(key)
    if indexes.names:
        _reindex(delta, indexes, old, new, key)


def _replace(delta: Delta, indexes: Indexes, old: Row | None, new: Row | None, key: str) -> None:
    if new is not None:
        delta.rows.append(new)
    note(delta, indexes, old, new, key)


def _reindex(delta: Delta, indexes: Indexes, old: Row | None, new: Row | None, key: str) -> None:
    if old is None or new is None:
        if new is not None:
            delta.added += indexes.entries(key, indexes.pick(new.json))
        if old is not None:
            delta.removed += indexes.entries(key, indexes.pick(old.json))
        return
    for field, before, after in zip(indexes.names, indexes.pick(old.json), indexes.pick(new.json), strict=True):
        if _is_same(before, after):
            continue
        leaving, coming = indexes.value(field, before), indexes.value(field, after)
        if leaving != coming:
            delta.removed.append(Entry(field, leaving, key))
            delta.added.append(Entry(field, coming, key))


def _is_same(before: Any, after: Any) -> bool:
    """Whether two values surely have one index value: of one scalar type, as 1 == True and [1] == [True]."""
    return before.__class__ is after.__class__ and before.__class__ in _SCALARS and before == after


_SCALARS = frozenset({str, int, float, bool, type(None)})
