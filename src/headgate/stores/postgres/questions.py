"""What readers ask, as statements. Those of one answer are sent together, and see one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate.stores._index import Indexes
from headgate.stores._joins import JoinPlan, Step, askable
from headgate.stores._query import Interval, Plan
from headgate.stores._showing import Seen
from headgate.stores.base import JoinQuery
from headgate.stores.postgres.rows import ROW
from headgate.stores.postgres.sessions import Question

CATALOG: Sequence[Question] = (
    ("select entity, build, packed from definitions", {}),
    ("select entity, build from current", {}),
    ("select entity, pointer from pointers", {}),
)

_LIVE = (
    "rows.epoch >= coalesce((select live.epoch from progress as live where live.entity = %({0}entity)s"
    " and live.build = %({0}build)s and live.partition = rows.partition), 0)"
)
_SPACE = (
    "(select id from spaces where entity = %({0}entity)s and build = %({0}build)s and generation = %({0}generation)s)"
)


def standing(entities: Sequence[str]) -> Question:
    """The pointer of each entity, and beside it the progress of each partition of the build that it names."""
    text = (
        "select pointers.entity, pointer, partition, packed from pointers left join progress"
        " on progress.entity = pointers.entity and build = split_part(pointer, '/', 1)"
        " where pointers.entity = any(%(entities)b::text[])"
    )
    return text, {"entities": list(entities)}


def by_key(entity: str, seen: Seen, keys: Sequence[str]) -> Question:
    """The rows of these keys, in their order, whatever their epoch."""
    text = (
        f"select {ROW} from unnest(%(keys)b::text[]) with ordinality as asked (key, place)"
        f" join rows on rows.key = asked.key and rows.space = {_SPACE.format('')} order by place"
    )
    return text, {**_place(entity, seen), "keys": askable(keys)}


def by_value(entity: str, seen: Seen, exact: Sequence[Interval], limit: int) -> Question:
    """The rows under each of these values of a field, of each the first `limit` by key: its place, then the row."""
    source, given = _looked_up(entity, seen, exact, (), limit)
    text = f"select asked.place, {ROW} from {source} order by asked.place, rows.key"
    return text, given


def walk(entity: str, seen: Seen, plan: Plan, entries: int, most_bytes: int) -> Question:
    """The first entries of a plan's index with their rows: value, then the row.

    The JSON is left out once the rows before are more than so many bytes.
    """
    given: dict[str, Any] = {**_place(entity, seen), "entries": entries, "most_bytes": most_bytes}
    order = "desc" if plan.reverse else "asc"
    places = _keys(plan, given) if plan.kind == "keys" else _entries(seen.definition.indexes, plan, given)
    text = (
        f"with places as materialized ({places} order by value {order}, key {order} limit %(entries)s),"
        " sized as (select places.value, rows.*, sum(octet_length(rows.json)) over walked as size from places"
        f" join rows on rows.key = places.key and rows.space = {_SPACE.format('')}"
        f" window walked as (order by places.value {order}, places.key {order} rows unbounded preceding))"
        " select value, key, partition, epoch,"
        " case when size - octet_length(json) <= %(most_bytes)s then json end, flaw"
        f" from sized order by value {order}, key {order}"
    )
    return text, given


def sources(entity: str, seen: Seen, plan: JoinPlan, query: JoinQuery) -> Question:
    """The rows that a query of joins asks for; by value one more than the limit, in key order."""
    source, given = _sources(entity, seen, plan, query)
    text = (
        f"select {ROW}, source.place, 1 as number from ({source}) as source"
        f" join rows on rows.key = source.key and rows.space = {_SPACE.format('')}"
    )
    return _sized(text), {**given, "most_bytes": query.max_bytes}


def related(entity: str, seen: Seen, plan: JoinPlan, query: JoinQuery, step: Step, target: Seen) -> Question:
    """What one relation leads to from each of the rows within the limit: the row, then the source row's place."""
    source, given = _sources(entity, seen, plan, query)
    given |= {**_place(step.target, target, "t_"), "most_bytes": query.max_bytes, "within": query.limit}
    within = "" if plan.exact is None else " where place <= %(within)s"
    text = (
        f"select {ROW.replace('rows.', 'found.')}, source.place, found.number"
        f" from (select * from ({source}) as every{within}) as source {_lead(step, given)}"
        f" cross join lateral ({_led_to(step, given)}) as found"
    )
    return _sized(text), given


def count(entity: str, seen: Seen, checks: Sequence[Interval], most: int) -> Question:
    """How many rows have these values, up to one more than most."""
    given: dict[str, Any] = {
        **_place(entity, seen),
        "field": checks[0].field,
        "value": checks[0].only,
        "most": most + 1,
    }
    text = (
        f"select count(*) from (select 1 from entries join rows using (space, key) where entries.space ="
        f" {_SPACE.format('')} and field = %(field)s and value = %(value)b and {_LIVE.format('')}"
        f"{_having('', checks[1:], given)} limit %(most)s) as counted"
    )
    return text, given


def counts(entity: str, seen: Seen) -> Question:
    """How many rows are stored, by partition and epoch."""
    text = f"select partition, epoch, rows from counts where space = {_SPACE.format('')}"
    return text, _place(entity, seen)


def letters(pipeline: str, limit: int) -> Sequence[Question]:
    """The newest dead letters of a pipeline, and how many there are."""
    newest = (
        "select packed from dead_letters where pipeline = %(pipeline)s order by time_ms desc, id desc limit %(limit)s"
    )
    total = "select count(*) from dead_letters where pipeline = %(pipeline)s"
    return (newest, {"pipeline": pipeline, "limit": limit}), (total, {"pipeline": pipeline})


def _place(entity: str, seen: Seen, prefix: str = "") -> dict[str, Any]:
    build, generation = seen.pointer.space
    return {f"{prefix}entity": entity, f"{prefix}build": build, f"{prefix}generation": generation}


def _keys(plan: Plan, given: dict[str, Any]) -> str:
    text = f"select ''::bytea as value, key from rows where space = {_SPACE.format('')}"
    if plan.after is None:
        return text
    given["after"] = plan.after.key
    return f"{text} and key {'<' if plan.reverse else '>'} %(after)s"


def _entries(indexes: Indexes, plan: Plan, given: dict[str, Any]) -> str:
    given["field"] = plan.indexed.field
    where = [f"space = {_SPACE.format('')}", "field = %(field)s", *_bounds(plan.indexed, given)]
    if plan.after is not None:
        given |= {"after_value": plan.after.value, "after_key": plan.after.key}
        where.append(f"(value, key) {'<' if plan.reverse else '>'} (%(after_value)b, %(after_key)s)")
    others = [other for other in plan.others if other.only is not None]
    return f"select value, key from entries where {' and '.join(where)}{_having('', others, given, 'entries')}"


def _bounds(interval: Interval, given: dict[str, Any]) -> list[str]:
    """A bound ends in 0 where its value is the first one in or out, in 1 where it is the last."""
    where: list[str] = []
    if interval.low:
        where.append("value >= %(low)b" if interval.low[-1] == 0 else "value > %(low)b")
        given["low"] = interval.low[:-1]
    if interval.high is not None:
        where.append("value < %(high)b" if interval.high[-1] == 0 else "value <= %(high)b")
        given["high"] = interval.high[:-1]
    return where


def _having(prefix: str, checks: Sequence[Interval], given: dict[str, Any], table: str = "rows") -> str:
    """That a row has each check's value; `prefix` tells parameters of several spaces apart."""
    text = ""
    for number, check in enumerate(checks):
        field, value = f"{prefix}field_{number}", f"{prefix}value_{number}"
        given |= {field: check.field, value: check.only}
        text += (
            f" and exists (select 1 from entries as other where other.space = {table}.space"
            f" and other.field = %({field})s and other.value = %({value})b and other.key = {table}.key)"
        )
    return text


def _looked_up(
    entity: str, seen: Seen, exact: Sequence[Interval], checks: Sequence[Interval], limit: int
) -> tuple[str, dict[str, Any]]:
    given: dict[str, Any] = {
        **_place(entity, seen),
        "field": exact[0].field if exact else "",
        "values": [interval.only for interval in exact],
        "most": limit,
    }
    text = (
        "unnest(%(values)b::bytea[]) with ordinality as asked (value, place) cross join lateral"
        " (select rows.* from entries join rows using (space, key)"
        f" where entries.space = {_SPACE.format('')} and entries.field = %(field)s and entries.value = asked.value"
        f" and {_LIVE.format('')}{_having('', checks, given)} order by entries.key limit %(most)s) as rows"
    )
    return text, given


def _sources(entity: str, seen: Seen, plan: JoinPlan, query: JoinQuery) -> tuple[str, dict[str, Any]]:
    """Keys and their places from 1 on."""
    if plan.exact is None:
        given: dict[str, Any] = {**_place(entity, seen), "keys": askable(query.keys)}
        text = (
            f"select asked.key, asked.place from unnest(%(keys)b::text[]) with ordinality as asked (key, place)"
            f" join rows on rows.key = asked.key and rows.space = {_SPACE.format('')}"
            f" where {_LIVE.format('')}{_having('', plan.checks, given)}"
        )
        return text, given
    source, given = _looked_up(entity, seen, plan.exact, plan.checks, query.limit + 1)
    text = (
        f"select key, row_number() over (order by key) as place"
        f" from (select distinct rows.key from {source} order by key limit %(most)s) as keys"
    )
    return text, given


def _lead(step: Step, given: dict[str, Any]) -> str:
    """Joins the lead of each source row as `lead.value`."""
    if step.lead.name is None:
        given["prefix"] = step.lead.prefix
        return "cross join lateral (select convert_to(%(prefix)s || source.key, 'UTF8') as value) as lead"
    given["lead"] = step.lead.name
    return (
        f"join leads as lead on lead.space = {_SPACE.format('')} and lead.field = %(lead)s and lead.key = source.key"
        " and lead.value <> ''"
    )


def _led_to(step: Step, given: dict[str, Any]) -> str:
    """The rows of one lead in their order, one more than the limit, with their numbers."""
    having = f"{_LIVE.format('t_')}{_having('t_', step.checks, given)}"
    space = _SPACE.format("t_")
    if step.kind == "key":
        found = f"from rows where rows.space = {space} and rows.key = convert_from(lead.value, 'UTF8') and {having}"
        return f"select {ROW}, 1 as number {found}"
    given |= {"index": step.indexed, "related": step.limit + 1}
    value, order = "entries.value = lead.value", "entries.value, entries.key"
    if step.kind == "group":
        value = r"entries.value >= lead.value || '\xff' and entries.value < lead.value || '\xffff'"
    if step.reverse:
        order = "entries.value desc, entries.key desc"
    return (
        f"select {ROW}, row_number() over (order by {order}) as number from entries join rows using (space, key)"
        f" where entries.space = {space} and entries.field = %(index)s and {value} and {having}"
        f" order by {order} limit %(related)s"
    )


def _sized(text: str) -> str:
    """Rows in the order of place and number, the place last, until those before are more than so many bytes."""
    return (
        f"with found as ({text}), sized as (select found.*, sum(octet_length(json)) over walked - octet_length(json)"
        " as before, row_number() over walked as rank from found"
        " window walked as (order by place, number rows unbounded preceding))"
        " select key, partition, epoch, json, flaw, place from sized where before <= %(most_bytes)s or rank <= 2"
        " order by place, number"
    )
