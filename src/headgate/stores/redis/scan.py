"""A query as the bounds of sorted sets, and a script's reply as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from headgate.model.position import Watermark
from headgate.model.row import Row, decode_row
from headgate.stores._index import Indexes
from headgate.stores._joins import JoinPlan, Step, askable
from headgate.stores._query import SCAN_BUDGET, Interval, Page, Place, Plan
from headgate.stores.base import JoinQuery, Query
from headgate.stores.redis.keys import SpaceKeys, member_of

_ANY = 1 << 40
_FIRST_LOOK = 1_000
_MOST_BYTES = 8 << 20
_COMMANDS = {False: "ZRANGEBYLEX", True: "ZREVRANGEBYLEX"}


class Bounds(NamedTuple):
    """A sorted set, and from where to where its members are read."""

    name: bytes
    first: bytes
    last: bytes


class Filter(NamedTuple):
    """A sorted set that names the keys of rows which match, and what stands before a key in it."""

    name: bytes
    prefix: bytes


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the script. Keys that `filters` lack are passed over."""

    bounds: Sequence[Bounds]
    filters: Sequence[Filter] = ()
    reverse: bool = False
    most_rows: int
    most_bytes: int = _ANY
    most_entries: int = _ANY

    def arguments(self) -> list[Any]:
        """What the script takes after its space."""
        ends = [part for bounds in self.bounds for part in bounds]
        most = [self.most_rows, self.most_bytes, self.most_entries]
        return [*counted(self.filters), _COMMANDS[self.reverse], *most, len(self.bounds), *ends]


class Walk(NamedTuple):
    """What was found in one index, and the place at which the walk stopped before its end."""

    found: list[tuple[Place, Row]]
    stopped: Place | None


class Answer(NamedTuple):
    """What a scan found at one instant."""

    watermark: Watermark
    walks: list[Walk]


def counted(parts: Sequence[tuple[Any, ...]]) -> list[Any]:
    """How many there are, then all of them, as scripts take them."""
    return [len(parts), *(item for part in parts for item in part)]


def lookup_scan(space: SpaceKeys, indexes: Indexes, exact: Sequence[Interval], limit: int) -> Scan:
    """Of each value the first rows by key, one more than are wanted."""
    return Scan(bounds=[bounds_of(space, indexes, interval) for interval in exact], most_rows=limit + 1)


def page_scans(space: SpaceKeys, indexes: Indexes, plan: Plan, query: Query) -> Iterator[Scan]:
    """How to look for a page: at once where the indexes decide every filter, else shortly first, then longer."""
    bounds = [_page_bounds(space, indexes, plan)]
    filters = [filter_of(space, indexes, other) for other in plan.others if other.only is not None]
    is_decided = len(filters) == len(plan.others)
    looks = [(query.limit + 1, query.max_bytes, SCAN_BUDGET)] if is_decided else _LONGER_LOOKS
    for rows, size, entries in looks:
        yield Scan(
            bounds=bounds,
            filters=filters,
            reverse=plan.reverse,
            most_rows=rows,
            most_bytes=size,
            most_entries=entries,
        )


_LONGER_LOOKS = [(_ANY, _MOST_BYTES, _FIRST_LOOK), (_ANY, _MOST_BYTES, SCAN_BUDGET)]


def answer_of(watermark: Watermark, replies: Sequence[Sequence[Any]]) -> Answer:
    """The script's reply for each index."""
    walks = []
    for stopped, flat in replies:
        places = map(_place_of, flat[::2])
        found = [(place, decode_row(place.key, packed)) for place, packed in zip(places, flat[1::2], strict=True)]
        walks.append(Walk(found, _place_of(stopped) if stopped else None))
    return Answer(watermark, walks)


def checked(indexes: Indexes, exact: Sequence[Interval], answer: Answer) -> list[Row]:
    """The rows of a look-up whose field has the value that their index entry says."""
    return [
        row
        for interval, walk in zip(exact, answer.walks, strict=True)
        for _, row in walk.found
        if interval.holds(indexes.value_of(interval.field, row.json))
    ]


def filled(page: Page, plan: Plan, answer: Answer) -> Page:
    """The page with the rows of the answer's one index."""
    (walk,) = answer.walks
    for place, row in walk.found:
        if not page.offer(_as_planned(plan, place), row):
            return page
    if walk.stopped is not None:
        page.stop(_as_planned(plan, walk.stopped))
    return page


def filter_of(space: SpaceKeys, indexes: Indexes, interval: Interval) -> Filter:
    """The rows that have the one value of an interval."""
    value = interval.only
    assert value is not None
    if _is_set(indexes, interval):
        return Filter(space.equal(interval.field, value), b"")
    return Filter(space.ordered(interval.field), member_of(value, ""))


def join_arguments(space: SpaceKeys, indexes: Indexes, plan: JoinPlan, query: JoinQuery) -> list[Any]:
    """What the script of joins takes after its spaces, up to its relations."""
    filters = [filter_of(space, indexes, check) for check in plan.checks]
    if plan.exact is None:
        keys = askable(query.keys)
        return [query.max_bytes, *counted(filters), "keys", 0, len(keys), *keys]
    bounds = [bounds_of(space, indexes, interval) for interval in plan.exact]
    return [query.max_bytes, *counted(filters), "sets", query.limit + 1, *counted(bounds)]


def step_arguments(source: SpaceKeys, target: SpaceKeys, indexes: Indexes, step: Step) -> list[Any]:
    """What the script takes of one relation after its space; `indexes` are the target's."""
    lead = ["own", step.lead.prefix] if step.lead.name is None else ["kept", source.lead(step.lead.name)]
    if step.kind == "key":
        begins = b""
    elif step.kind == "group":
        begins = target.group(indexes.groups[step.indexed], b"")
    else:
        begins = target.equal(step.indexed, b"")
    ends = ["+", "-"] if step.reverse else ["-", "+"]
    kind = "key" if step.kind == "key" else "set"
    filters = [filter_of(target, indexes, check) for check in step.checks]
    return [*lead, kind, begins, _COMMANDS[step.reverse], *ends, step.limit + 1, *counted(filters)]


def rows_of(flat: Sequence[bytes]) -> list[Row]:
    """The rows of a flat list of members and packed rows."""
    return [decode_row(_place_of(member).key, packed) for member, packed in zip(flat[::2], flat[1::2], strict=True)]


def _is_set(indexes: Indexes, interval: Interval) -> bool:
    return interval.field in indexes.equal


def _page_bounds(space: SpaceKeys, indexes: Indexes, plan: Plan) -> Bounds:
    name, low, high = Bounds(space.keys, b"-", b"+") if plan.kind == "keys" else bounds_of(space, indexes, plan.indexed)
    if plan.after is not None:
        is_plain = plan.kind != "ordered"
        member = plan.after.key.encode() if is_plain else member_of(plan.after.value, plan.after.key)
        low, high = (low, b"(" + member) if plan.reverse else (b"(" + member, high)
    return Bounds(name, high, low) if plan.reverse else Bounds(name, low, high)


def bounds_of(space: SpaceKeys, indexes: Indexes, interval: Interval) -> Bounds:
    """Where the entries of an interval lie."""
    if _is_set(indexes, interval) and interval.only is not None:
        return Bounds(space.equal(interval.field, interval.only), b"-", b"+")
    low = b"[" + interval.low if interval.low else b"-"
    high = b"+" if interval.high is None else b"(" + interval.high
    return Bounds(space.ordered(interval.field), low, high)


def _place_of(member: bytes) -> Place:
    value, found, key = member.rpartition(b"\x00")
    return Place(value if found else b"", key.decode())


def _as_planned(plan: Plan, place: Place) -> Place:
    """A member of a lookup's set does not say the value, which is the plan's."""
    return Place(plan.indexed.only or b"", place.key) if plan.kind == "equal" else place
