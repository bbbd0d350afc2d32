"""`find`: rows by conditions on indexed fields, in order, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from pydantic import Field, WithJsonSchema

from headgate.access.view import DATA, View
from headgate.model.entity import Entity
from headgate.stores.base import Query, Range, Rows
from headgate.tools import _schemas as schemas
from headgate.tools._answers import MAX_BYTES, flaw_note, framed, freshness_note, lines, row_answer, truncated
from headgate.tools._arguments import Arguments, invalid
from headgate.tools._indexes import require_equality, require_order, type_of
from headgate.tools._values import SCALAR_SCHEMA, typed
from headgate.tools.base import Result, Tool, TypedTool

MAX_ROWS = 1_000
DEFAULT_ROWS = 50

_CUT = {
    "rows": "Cut by the limit on rows",
    "bytes": "Cut by the bound on an answer's bytes",
    "time": "Cut short, for looking further would take too long",
}
_BOUNDS = ("gt", "ge", "lt", "le")
_CONDITION_SCHEMA = {
    "anyOf": [
        {**SCALAR_SCHEMA, "type": [*SCALAR_SCHEMA["type"], "null"]},
        {
            "type": "object",
            "properties": dict.fromkeys(_BOUNDS, SCALAR_SCHEMA),
            "additionalProperties": False,
            "minProperties": 1,
        },
    ]
}
WHERE_SCHEMA = {
    "type": "object",
    "additionalProperties": _CONDITION_SCHEMA,
    "description": (
        "Conditions that all hold: a lookup or sorted field and its value, or a sorted field and its bounds, "
        'such as {"status": "paid", "placed_at": {"ge": "2026-11-01"}}. Without any, all rows.'
    ),
}
_OUTPUT = schemas.output(
    {"entity": schemas.TEXT, "rows": schemas.a_list(schemas.ROW, "Empty: no row matches.")},
    {"truncated": schemas.TRUNCATED},
)


class FindArguments(Arguments):
    """Which rows, in which order, and how many."""

    entity: str = Field(description="The entity's name; describe_data lists them.")
    where: Annotated[dict[str, Any], WithJsonSchema(WHERE_SCHEMA)] = {}
    order_by: str | None = Field(
        default=None, description="A sorted field. Without it rows come by their key, or by the range's field."
    )
    descending: bool = Field(default=False, description="The largest first; needs order_by.")
    limit: int = Field(default=DEFAULT_ROWS, ge=1, le=MAX_ROWS, description="How many rows at most.")
    cursor: str | None = Field(
        default=None, max_length=65_536, description="`truncated.cursor` of the page before, with all else the same."
    )


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The one tool of this family."""
    return [
        TypedTool(
            name="find",
            title="Find rows",
            description=(
                "Answers the live rows of an entity that match conditions on its lookup and sorted fields, in the "
                f"order of a sorted field, at most {MAX_ROWS} at a time; `truncated.cursor` leads to the next page. "
                "describe_data lists entities and the fields that take conditions."
            ),
            scopes=frozenset({DATA}),
            arguments=FindArguments,
            output_schema=_OUTPUT,
            answer=_find,
        )
    ]


async def _find(view: View, given: FindArguments) -> Result:
    entity = await view.entity(given.entity)
    found = await view.find(entity.name, query_of(entity, given))
    rows = [row_answer(entity, row) for row in found.rows]
    structured: dict[str, Any] = {"entity": entity.name, "rows": rows}
    if found.cut is not None:
        structured["truncated"] = truncated(found.cut, len(rows), found.cursor)
    freshness = await view.freshness([found.watermark])
    text = lines(freshness_note(freshness), *_text(entity, found, rows))
    return Result(structured=structured, text=text, freshness=freshness, watermarks=[found.watermark])


def query_of(entity: Entity, given: FindArguments) -> Query:
    """The question to the store. NotIndexed or InvalidArguments for what can't be asked."""
    if given.order_by is not None:
        require_order(entity, given.order_by, "order_by")
    elif given.descending:
        raise invalid({"descending": "needs order_by"})
    ranges = {name: value for name, value in given.where.items() if isinstance(value, dict)}
    equals = {name: value for name, value in given.where.items() if not isinstance(value, dict)}
    return Query(
        equals={name: _equal(entity, name, value) for name, value in sorted(equals.items())},
        ranges={name: _range(entity, name, bounds) for name, bounds in sorted(ranges.items())},
        order=given.order_by,
        direction="desc" if given.descending else "asc",
        limit=given.limit,
        max_bytes=MAX_BYTES,
        after=given.cursor,
    )


def _equal(entity: Entity, name: str, value: Any) -> Any:
    require_equality(entity, name, "where")
    if value is None:
        return None
    try:
        return typed(type_of(entity, name), value)
    except ValueError as error:
        raise invalid({f"where.{name}": str(error)}) from None


def _range(entity: Entity, name: str, bounds: Mapping[str, Any]) -> Range:
    require_order(entity, name, "where")
    given = {bound: value for bound, value in bounds.items() if value is not None}
    if not given or not set(given) <= set(_BOUNDS):
        raise invalid({f"where.{name}": f"must be a value, or an object with some of {', '.join(_BOUNDS)}"})
    if {"gt", "ge"} <= set(given) or {"lt", "le"} <= set(given):
        raise invalid({f"where.{name}": "must have one lower and one upper bound at most"})
    try:
        return Range(**{bound: typed(type_of(entity, name), value) for bound, value in given.items()})
    except ValueError as error:
        raise invalid({f"where.{name}": f"has a bound that {error}"}) from None


def _text(entity: Entity, found: Rows, rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    if not rows:
        return [f"No {entity.name!r} row matches{'' if found.cut is None else ' so far'}.", _going_on(found)]
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    more = {None: " match", "time": "; more may match"}.get(found.cut, "; more match")
    return [
        f"{count} of {entity.name!r}{more}.",
        _going_on(found),
        flaw_note(rows),
        framed([row["values"] for row in rows]),
    ]


def _going_on(found: Rows) -> str:
    if found.cut is None:
        return ""
    cursor = msgspec.json.encode(found.cursor).decode()
    return f"{_CUT[found.cut]}: call find again with the same arguments and cursor {cursor} for the next page."
