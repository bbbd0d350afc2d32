"""Walks an index in a plan's order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from headgate.model.row import Row
from headgate.stores._catalog import is_live
from headgate.stores._query import SCAN_BUDGET, Interval, Page, Place, Plan, equality
from headgate.stores.base import Query, Rows
from headgate.stores.sqlite.snapshot import Visible
from headgate.stores.sqlite.tables import ROW


def page_of(connection: sqlite3.Connection, seen: Visible, plan: Plan, query: Query) -> Rows:
    """One page of a plan's rows."""
    page = Page(plan, seen.definition.indexes, query.limit, query.max_bytes)
    for looked_at, (place, row) in enumerate(_walk(connection, seen.space, plan), start=1):
        if is_live(row, seen.watermark.partitions) and not page.offer(place, row):
            break
        if looked_at >= SCAN_BUDGET:
            page.stop(place)
            break
    return page.answer(seen.watermark)


def looked_up(
    connection: sqlite3.Connection, seen: Visible, field: str, values: Sequence[Any], limit: int
) -> list[Row]:
    """The rows under any of the values, of each value the first `limit` and one by key."""
    indexes = seen.definition.indexes
    indexes.require((field,))
    found: list[Row] = []
    for value in values:
        exact = equality(indexes, field, value)
        plan = Plan(kind="ordered", indexed=exact, checks=(exact,), reverse=False, after=None, fingerprint="")
        count = 0
        for _, row in _walk(connection, seen.space, plan):
            if is_live(row, seen.watermark.partitions) and plan.matches(indexes, row):
                found.append(row)
                count += 1
            if count > limit:
                break
    return found


def rows_between(
    connection: sqlite3.Connection,
    seen: Visible,
    interval: Interval,
    checks: Sequence[Interval],
    *,
    reverse: bool,
    columns: str,
) -> Iterator[tuple[Any, ...]]:
    """These columns of the rows whose index entries lie within, in the index's order, which have each check's value."""
    where, bound = _bounds(interval)
    for check in checks:
        where.append(
            "exists (select 1 from entries as other where other.space = entries.space and other.field = ?"
            " and other.value = ? and other.key = entries.key)"
        )
        bound += [check.field, check.only]
    order = "desc" if reverse else "asc"
    return connection.execute(
        f"select {columns} from entries cross join rows on rows.space = entries.space and rows.key = entries.key"
        f" where {' and '.join(['entries.space = ?', 'entries.field = ?', *where])}"
        f" order by entries.value {order}, entries.key {order}",
        [seen.space, interval.field, *bound],
    )


def _walk(connection: sqlite3.Connection, space: int | None, plan: Plan) -> Iterator[tuple[Place, Row]]:
    if space is None:
        return
    if plan.kind == "keys":
        for columns in _keys(connection, space, plan):
            yield Place(b"", columns[0]), Row(*columns)
    else:
        for value, *columns in _entries(connection, space, plan):
            yield Place(value, columns[0]), Row(*columns)


def _keys(connection: sqlite3.Connection, space: int, plan: Plan) -> sqlite3.Cursor:
    order, beyond = ("desc", "<") if plan.reverse else ("asc", ">")
    where, bound = "", []
    if plan.after is not None:
        where, bound = f"and key {beyond} ?", [plan.after.key]
    return connection.execute(f"select {ROW} from rows where space = ? {where} order by key {order}", [space, *bound])


def _entries(connection: sqlite3.Connection, space: int, plan: Plan) -> sqlite3.Cursor:
    order, beyond = ("desc", "<") if plan.reverse else ("asc", ">")
    where, bound = _bounds(plan.indexed)
    if plan.after is not None:
        where.append(f"(value, entries.key) {beyond} (?, ?)")
        bound += plan.after
    return connection.execute(
        f"select value, {ROW} from entries cross join rows"
        " on rows.space = entries.space and rows.key = entries.key"
        f" where {' and '.join(['entries.space = ?', 'field = ?', *where])}"
        f" order by value {order}, entries.key {order}",
        [space, plan.indexed.field, *bound],
    )


def _bounds(interval: Interval) -> tuple[list[str], list[Any]]:
    """A bound ends in 0 where its value is the first one in or out, in 1 where it is the last."""
    where: list[str] = []
    bound: list[Any] = []
    if interval.low:
        where.append("value >= ?" if interval.low.endswith(b"\x00") else "value > ?")
        bound.append(interval.low[:-1])
    if interval.high is not None:
        where.append("value < ?" if interval.high.endswith(b"\x00") else "value <= ?")
        bound.append(interval.high[:-1])
    return where, bound
