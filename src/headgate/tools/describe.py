"""`describe_data`: what there is to ask for, and by which fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from pydantic import Field

from headgate.access.deadline import Deadline
from headgate.access.view import DATA, View
from headgate.errors import SnapshotPending
from headgate.model.derive import DOUBTS
from headgate.model.entity import Entity, Relation
from headgate.model.position import Watermark
from headgate.model.table import ColumnType
from headgate.stores.base import Count
from headgate.tools import _schemas as schemas
from headgate.tools._answers import MAX_BYTES, freshness_answer, freshness_note, lines
from headgate.tools._arguments import Arguments
from headgate.tools._frames import one_line
from headgate.tools._relations import relations_of
from headgate.tools._standing import standing
from headgate.tools.base import Result, Tool, TypedTool

_FIELD = schemas.an_object(
    {
        "name": schemas.TEXT,
        "type": schemas.one_of(get_args(ColumnType)),
        "nullable": schemas.FLAG,
        "classification": {**schemas.TEXT, "description": "Such as personal.email; empty for none."},
        "description": schemas.TEXT,
    }
)
_RELATION = schemas.an_object(
    {
        "name": schemas.TEXT,
        "entity": schemas.TEXT,
        "many": schemas.FLAG,
        "field": schemas.TEXT,
        "target_field": schemas.TEXT,
        "order_by": {
            "type": ["string", "null"],
            "description": "The target's field whose largest, so newest, rows come first; null: in the order of keys.",
        },
        "limit": {**schemas.WHOLE, "description": "How many rows of it come along with one row."},
    }
)
_ENTITY = schemas.an_object(
    {
        "name": schemas.TEXT,
        "description": schemas.TEXT,
        "pipeline": schemas.TEXT,
        "table": schemas.TEXT,
        "key": schemas.TEXTS,
        "lookups": {**schemas.TEXTS, "description": "Fields that take a value."},
        "sorted": {**schemas.TEXTS, "description": "Fields that take a value, a range and an order."},
        "fields": schemas.a_list(_FIELD),
        "relations": schemas.a_list(_RELATION),
        "rows": {
            **schemas.WHOLE_OR_NULL,
            "description": "How many there are; null before the first snapshot is whole.",
        },
        "freshness": schemas.FRESHNESS,
    },
    {"more_rows": {**schemas.FLAG, "description": "Present where there are more: they were not counted to the end."}},
)
_OUTPUT = schemas.output(
    {"entities": schemas.a_list(_ENTITY)},
    {
        "truncated": schemas.TRUNCATED,
        "not_shown": {**schemas.TEXTS, "description": "Entities left out; ask for each by its name."},
    },
)


class DescribeArguments(Arguments):
    """Which entity, or all."""

    entity: str | None = Field(default=None, description="One entity's name; without it, every entity.")


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The one tool of this family."""
    return [
        TypedTool(
            name="describe_data",
            title="Describe the data",
            description=(
                "Lists the entities that can be read: fields with types and classification, key, lookup and sorted "
                "fields, relations, number of rows and freshness. Start here."
            ),
            scopes=frozenset({DATA}),
            arguments=DescribeArguments,
            output_schema=_OUTPUT,
            answer=_describe,
        )
    ]


async def _describe(view: View, given: DescribeArguments) -> Result:
    entities = [await view.entity(given.entity)] if given.entity else list((await view.entities()).values())
    answers: list[dict[str, Any]] = []
    watermarks: list[Watermark] = []
    left, deadline = MAX_BYTES, view.reading.answer()
    for entity in entities:
        answer, watermark = await _one(view, entity, deadline)
        left -= len(msgspec.json.encode(answer))
        if answers and left < 0:
            break
        answers.append(answer)
        watermarks.append(watermark)
    structured: dict[str, Any] = {"entities": answers}
    not_shown = [entity.name for entity in entities[len(answers) :]]
    if not_shown:
        structured |= {"truncated": _cut(len(answers)), "not_shown": not_shown}
    freshness = await view.freshness(watermarks) if watermarks else None
    said = [_text(answer) for answer in answers] or ["There is no entity that you can read yet."]
    note = freshness_note(freshness) if freshness else ""
    return Result(
        structured=structured,
        text=lines(note, *said, _not_shown(not_shown)),
        freshness=freshness,
        watermarks=watermarks,
    )


async def _one(view: View, entity: Entity, deadline: Deadline) -> tuple[dict[str, Any], Watermark]:
    watermark = await standing(view, entity.name)
    counted = await _count(view, entity.name, deadline)
    relations = (await relations_of(view, entity)).values()
    return {
        "name": entity.name,
        "description": entity.description,
        "pipeline": entity.pipeline,
        "table": entity.table,
        "key": list(entity.key),
        "lookups": sorted(entity.lookups),
        "sorted": sorted(entity.sorted),
        "fields": [msgspec.to_builtins(field) for field in entity.fields],
        "relations": [_relation(relation) for relation in relations],
        "rows": counted.rows if counted else None,
        "freshness": freshness_answer(await view.freshness([watermark])),
        **({"more_rows": True} if counted and counted.more else {}),
    }, watermark


async def _count(view: View, entity: str, deadline: Deadline) -> Count | None:
    try:
        return await view.count(entity, deadline=deadline)
    except SnapshotPending:
        return None


def _relation(relation: Relation) -> dict[str, Any]:
    return {
        "name": relation.name,
        "entity": relation.entity,
        "many": relation.many,
        "field": relation.field,
        "target_field": relation.target_field,
        "order_by": relation.order_by,
        "limit": relation.limit,
    }


def _cut(returned: int) -> dict[str, Any]:
    return {"reason": "bytes", "returned": returned, "cursor": None}


def _text(answer: Mapping[str, Any]) -> str:
    more = " or more" if "more_rows" in answer else ""
    rows = "no whole snapshot yet" if answer["rows"] is None else f"{answer['rows']}{more} rows"
    fields = ", ".join(_field(field) for field in answer["fields"])
    relations = ", ".join(f"{each['name']} → {each['entity']}" for each in answer["relations"])
    said = (
        f"{answer['name']} ({rows}, {answer['freshness']['state']})",
        f"  {answer['description']}" if answer["description"] else "",
        f"  key: {', '.join(answer['key'])}",
        f"  fields: {fields}",
        f"  lookup fields: {', '.join(answer['lookups']) or 'none'}",
        f"  sorted fields: {', '.join(answer['sorted']) or 'none'}",
        f"  relations: {relations}" if relations else "",
        *_doubtful(answer["fields"]),
    )
    return lines(*map(one_line, said))  # names are the source's own


def _doubtful(fields: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of which nobody can tell what they are, by what is said of them."""
    named = {said: [each["name"] for each in fields if said in each["description"]] for said in DOUBTS.values()}
    return [f"  {', '.join(names)}: {said}" for said, names in named.items() if names]


def _field(field: Mapping[str, Any]) -> str:
    classified = f" [{field['classification']}]" if field["classification"] else ""
    return f"{field['name']} {field['type']}{classified}"


def _not_shown(names: Sequence[str]) -> str:
    return f"Not shown, for the answer is full; ask for each by its name: {', '.join(names)}." if names else ""
