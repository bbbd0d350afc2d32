"""How rows and what they lead to are answered: which index each relation reads, and how much of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from headgate.errors import InvalidArguments, SnapshotPending
from headgate.model.entity import Entity, Relation, lead_of
from headgate.model.position import Watermark
from headgate.model.row import Row
from headgate.stores._catalog import Definition, Pointer
from headgate.stores._index import Indexes, group_bounds, lead_name, own_prefix
from headgate.stores._query import Interval, equality
from headgate.stores.base import Join, Joined, JoinQuery, Related

Find = Callable[[str], tuple[Pointer, Definition]]
"""What readers see of an entity; UnknownEntity or SnapshotPending."""


class Lead(NamedTuple):
    """Where a row's lead is found: kept under `name`, or else made of its key text and what stands before it."""

    name: str | None
    prefix: str


class Step(NamedTuple):
    """How one relation is followed.

    key: the lead is a key text. equal: the lead's keys in a lookup. group: the lead's rows in a group.
    """

    relation: str
    target: str
    lead: Lead
    kind: Literal["key", "equal", "group"]
    indexed: str
    reverse: bool
    limit: int
    checks: tuple[Interval, ...]
    """Each holds one value alone."""

    def lead_of(self, indexes: Indexes, row: Row) -> bytes:
        """The lead of a row of the relation's entity, from what it holds."""
        if self.lead.name is None:
            return f"{self.lead.prefix}{row.key}".encode()
        return indexes.value_of(self.lead.name, row.json)

    def interval(self, lead: bytes) -> Interval:
        """Where the lead's rows stand in the index; not for `key`."""
        if self.kind == "group":
            return Interval(self.indexed, *group_bounds(lead))
        return Interval(self.indexed, lead + b"\x00", lead + b"\x01")


class JoinPlan(NamedTuple):
    """How a query is answered. `exact` is None where rows are asked for by their keys."""

    exact: tuple[Interval, ...] | None
    checks: tuple[Interval, ...]
    steps: tuple[Step, ...]

    @property
    def targets(self) -> list[str]:
        """The entities that relations lead to, each once, sorted."""
        return sorted({step.target for step in self.steps})


def join_plan(definition: Definition, query: JoinQuery, find: Find) -> JoinPlan:
    """How to answer a query. InvalidArguments, NotIndexed, UnknownEntity or SnapshotPending, as `Reader.joined`."""
    if query.limit < 1 or query.max_bytes < 1 or any(join.limit < 1 for join in query.joins):
        raise InvalidArguments("limit must be 1 or more")
    indexes = definition.indexes
    exact = None
    if query.field is not None:
        indexes.require((query.field,))
        exact = tuple(dict.fromkeys(equality(indexes, query.field, value) for value in query.values))
    steps = tuple(_step(definition.entity, join, find) for join in query.joins)
    return JoinPlan(exact, equalities(indexes, query.equals), steps)


def askable(keys: Sequence[str]) -> list[str]:
    """Those of the keys that can be a key's text: no other may reach a store's statements."""
    return [key for key in keys if key.isascii() and "\x00" not in key]


def equalities(indexes: Indexes, equals: Mapping[str, Any]) -> tuple[Interval, ...]:
    """The intervals of these values, by field. NotIndexed."""
    indexes.require(tuple(equals))
    return tuple(equality(indexes, field, value) for field, value in sorted(equals.items()))


def _step(entity: Entity, join: Join, find: Find) -> Step:
    relation = entity.relation(join.relation)
    if relation is None:
        there = ", ".join(sorted(each.name for each in entity.relations)) or "none"
        raise InvalidArguments(f"{entity.name} has no relation of that name; its relations: {there}")
    _, target = find(relation.entity)
    kind, indexed = _index_of(relation, target)
    return Step(
        relation=relation.name,
        target=relation.entity,
        lead=_lead(entity, relation),
        kind=kind,
        indexed=indexed,
        reverse=relation.order_by is not None,
        limit=join.limit,
        checks=equalities(target.indexes, join.equals),
    )


def _lead(entity: Entity, relation: Relation) -> Lead:
    lead = lead_of(relation)
    prefix = own_prefix(entity, lead)
    return Lead(lead_name(lead), "") if prefix is None else Lead(None, prefix)


def _index_of(relation: Relation, target: Definition) -> tuple[Literal["key", "equal", "group"], str]:
    if relation.target_is_key:
        return "key", ""
    group = target.indexes.group_of(relation.target_field, relation.order_by)
    if group is not None:
        return "group", group
    if relation.order_by is None and relation.target_field in target.indexes.equal:
        return "equal", relation.target_field
    raise SnapshotPending(
        f"the rows of {relation.entity} are still being put in the order that the relation {relation.name} asks for: "
        "ask again in a few seconds, or without it.",
        entity=relation.entity,
    )


def first(rows: Iterable[Row], limit: int, most_bytes: int) -> list[Row]:
    """The first `limit` of these rows, or fewer once they are more than so many bytes; two are always taken."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        most_bytes -= len(row.json)
        if len(found) >= limit or (most_bytes < 0 and len(found) > 1):
            break
    return found


class _Taking:
    """Takes rows in the order of the answer until one would be too much; then no more. The first never is."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._is_first = True

    @property
    def is_over(self) -> bool:
        return self._left < 0

    def take(self, rows: Iterable[Row]) -> list[Row]:
        kept: list[Row] = []
        for row in rows:
            if self.is_over:
                break
            self._left -= len(row.json)
            if self._left >= 0 or self._is_first:
                kept.append(row)
            self._is_first = False
        return kept


def joined_of(
    plan: JoinPlan,
    query: JoinQuery,
    rows: Sequence[Row],
    groups: Sequence[Sequence[Sequence[Row]]],
    watermarks: Sequence[Watermark],
) -> Joined:
    """The answer to a query.

    `rows` are one more than the limit where there are more. `groups` has for each step of the plan, for each of
    the rows within the limit, the related rows, again one more than wanted. A store that stops reading once it has
    more than the bytes that are asked for may leave out what comes later.
    """
    limit = query.limit if plan.exact is not None else len(rows)
    taking = _Taking(query.max_bytes)
    kept = taking.take(rows[:limit])
    cut: Literal["rows", "bytes"] | None = "rows" if len(rows) > limit else None
    if len(kept) < len(rows[:limit]):
        cut = "bytes"
    related = {
        step.relation: [_related(taking, found, step.limit) for found in _padded(group, len(kept))]
        for step, group in zip(plan.steps, _padded(groups, len(plan.steps)), strict=True)
    }
    return Joined(rows=kept, related=related, watermarks=watermarks, cut=cut)


def _padded(found: Sequence[Sequence[Any]], length: int) -> list[Sequence[Any]]:
    return [found[place] if place < len(found) else () for place in range(length)]


def _related(taking: _Taking, found: Sequence[Row], limit: int) -> Related:
    if taking.is_over:
        return Related(cut="bytes")
    kept = taking.take(found[:limit])
    if len(kept) < len(found[:limit]):
        return Related(rows=kept, cut="bytes")
    return Related(rows=kept, cut="rows" if len(found) > limit else None)
