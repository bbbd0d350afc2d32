"""Rows with what they lead to, and counts of values: many short reads of one snapshot, which cost no round trip."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from headgate.model.row import Row
from headgate.stores._catalog import is_live
from headgate.stores._joins import JoinPlan, Step, askable, equalities, first, join_plan, joined_of
from headgate.stores._query import Interval
from headgate.stores.base import Count, Joined, JoinQuery
from headgate.stores.sqlite.scan import rows_between
from headgate.stores.sqlite.snapshot import Snapshot, Visible
from headgate.stores.sqlite.tables import ROW, rows_of


def joined(snapshot: Snapshot, entity: str, query: JoinQuery) -> Joined:
    """The answer to a query, as `Reader.joined` has it."""
    seen = {entity: snapshot.visible(entity)}

    def find(name: str) -> Visible:
        if name not in seen:
            seen[name] = snapshot.visible(name)
        return seen[name]

    plan = join_plan(seen[entity].definition, query, lambda name: (find(name).pointer, find(name).definition))
    rows = _sources(snapshot.connection, seen[entity], plan, query)
    left = query.max_bytes - _size(rows)
    groups: list[list[list[Row]]] = []
    for step in plan.steps:
        groups.append([])
        for row in rows if plan.exact is None else rows[: query.limit]:
            if left < 0:
                break
            found = _related(snapshot.connection, seen[entity], find(step.target), step, row, left)
            groups[-1].append(found)
            left -= _size(found)
    watermarks = [seen[name].watermark for name in dict.fromkeys((entity, *plan.targets))]
    return joined_of(plan, query, rows, groups, watermarks)


def count_of(connection: sqlite3.Connection, seen: Visible, equals: Mapping[str, Any], most: int) -> Count:
    """How many rows have these values."""
    checks = equalities(seen.definition.indexes, equals)
    found = rows_between(connection, seen, checks[0], checks[1:], reverse=False, columns="rows.partition, rows.epoch")
    live = (1 for partition, epoch in found if is_live(Row("", partition, epoch, b""), seen.watermark.partitions))
    count = sum(islice(live, most + 1))
    return Count(rows=min(count, most), more=count > most)


def _sources(connection: sqlite3.Connection, seen: Visible, plan: JoinPlan, query: JoinQuery) -> list[Row]:
    """The rows that are asked for; by value one more than the limit, in key order."""
    if plan.exact is None:
        return _by_key(connection, seen, query.keys, plan.checks)
    found: dict[str, Row] = {}
    for interval in plan.exact:
        rows = _between(connection, seen, interval, plan.checks, False)
        found |= {row.key: row for row in first(rows, query.limit + 1, query.max_bytes)}
    return [found[key] for key in sorted(found)][: query.limit + 1]


def _related(
    connection: sqlite3.Connection, source: Visible, target: Visible, step: Step, row: Row, most_bytes: int
) -> list[Row]:
    lead = step.lead_of(source.definition.indexes, row)
    if not lead:
        return []
    if step.kind == "key":
        return _by_key(connection, target, [lead.decode()], step.checks)
    rows = _between(connection, target, step.interval(lead), step.checks, step.reverse)
    return first(rows, step.limit + 1, most_bytes)


def _by_key(
    connection: sqlite3.Connection, seen: Visible, keys: Sequence[str], checks: Sequence[Interval]
) -> list[Row]:
    found = rows_of(connection, seen.space, askable(keys))
    rows = [found[key] for key in keys if key in found and is_live(found[key], seen.watermark.partitions)]
    indexes = seen.definition.indexes
    return [row for row in rows if all(check.holds(indexes.value_of(check.field, row.json)) for check in checks)]


def _between(
    connection: sqlite3.Connection, seen: Visible, interval: Interval, checks: Sequence[Interval], reverse: bool
) -> Iterator[Row]:
    found = rows_between(connection, seen, interval, checks, reverse=reverse, columns=ROW)
    rows = (Row(*columns) for columns in found)
    return (row for row in rows if is_live(row, seen.watermark.partitions))


def _size(rows: Sequence[Row]) -> int:
    return sum(len(row.json) for row in rows)
