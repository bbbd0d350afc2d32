"""`lookup`, and one `lookup_<entity>` for each entity: rows by key or by a field that is looked up by."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, NamedTuple

import msgspec
from pydantic import AfterValidator, Field, WithJsonSchema, create_model

from headgate.access.view import DATA, View, narrow
from headgate.errors import InvalidArguments
from headgate.model.entity import Entity, Relation
from headgate.model.position import Watermark
from headgate.model.question import Question
from headgate.model.row import key_text
from headgate.model.table import ColumnType
from headgate.stores.base import Joined, JoinQuery, Rows
from headgate.tools import _schemas as schemas
from headgate.tools._answers import (
    MAX_BYTES,
    Allowance,
    flaw_note,
    framed,
    freshness_note,
    lines,
    row_answer,
    truncated,
)
from headgate.tools._arguments import Arguments, input_schema, invalid, parse, shown
from headgate.tools._indexes import equality_fields, require_equality, type_of
from headgate.tools._keys import KEY_SCHEMA, key_of, typed_value
from headgate.tools._relations import add_related, chosen, joins_of
from headgate.tools._values import SCALAR_SCHEMA, typed, value_schema
from headgate.tools.base import Described, Result, Tool, TypedTool

ROW_LIMIT = 50

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
"""What no tool's name may hold (MCP, Tool Names)."""

_BY_SCHEMA = {
    "description": 'Exactly one lookup field and its value, such as {"email": "a@b.example"}.',
    "type": "object",
    "additionalProperties": SCALAR_SCHEMA,
    "minProperties": 1,
    "maxProperties": 1,
}
_INCLUDE = "Names of relations to answer along with each row; describe_data says how many rows of each, and which."
_OUTPUT = schemas.output(
    {"entity": schemas.TEXT, "rows": schemas.a_list(schemas.ROW_WITH_RELATED, "Empty: there is no such row.")},
    {"truncated": schemas.TRUNCATED},
)


class LookupArguments(Arguments):
    """Which rows of which entity."""

    entity: str = Field(description="The entity's name; describe_data lists them.")
    key: Annotated[Any, WithJsonSchema(KEY_SCHEMA)] = None
    by: Annotated[Any, WithJsonSchema(_BY_SCHEMA)] = None
    include: list[str] = Field(default=[], description=_INCLUDE)


class _Way(NamedTuple):
    """How rows are looked up: by the whole key, or by one field's value."""

    key: tuple[Any, ...] = ()
    field: str = ""
    value: Any = None

    def words(self) -> str:
        if self.field:
            return f"with {self.field} {shown(self.value)}"
        return f"with key {', '.join(shown(part) for part in self.key)}"


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """`lookup`, then the entities' own tools in the order of their names."""
    return [_general(), *(_of_entity(entity) for _, entity in sorted(entities.items()))]


# --- lookup ---------------------------------------------------------------------------------------


def _general() -> TypedTool[LookupArguments]:
    return TypedTool(
        name="lookup",
        title="Look up rows",
        description=(
            "Answers the live row of an entity by its key, or the rows that have a value in a lookup field. "
            "Give exactly one of `key` and `by`. describe_data lists entities, keys, lookup fields and relations."
        ),
        scopes=frozenset({DATA}),
        arguments=LookupArguments,
        output_schema=_OUTPUT,
        answer=_lookup,
    )


async def _lookup(view: View, given: LookupArguments) -> Result:
    entity = await view.entity(given.entity)
    if (given.key is None) == (given.by is None):
        raise InvalidArguments(f"Give exactly one of key and by. {_ways(entity)}")
    way = _key_way(entity, given.key) if given.key is not None else _field_way(entity, given.by)
    return await _answer(view, entity, way, given.include, "include")


def _key_way(entity: Entity, given: Any) -> _Way:
    return _Way(key=key_of(entity, given))


def _field_way(entity: Entity, given: Any) -> _Way:
    if not isinstance(given, dict) or len(given) != 1:
        raise invalid({"by": f"must be an object with exactly one field and its value. {_ways(entity)}"})
    [(name, value)] = given.items()
    if entity.key == (name,):
        return _Way(key=(typed_value(entity, name, value, f"by.{name}"),))
    require_equality(entity, name, "by")
    return _Way(field=name, value=typed_value(entity, name, value, f"by.{name}"))


def _ways(entity: Entity) -> str:
    fields = ", ".join(equality_fields(entity))
    return f"The key of {entity.name!r} is {', '.join(entity.key)}; its lookup fields: {fields or 'none'}"


# --- lookup_<entity> ------------------------------------------------------------------------------


class _Names(NamedTuple):
    """What the arguments of an entity's tool are called: argument → field, and the argument for relations."""

    fields: dict[str, str]
    include: str


def _names(entity: Entity) -> _Names:
    fields = {name: name for name in (*entity.key, *entity.lookups)}
    if len(entity.key) == 1 and entity.key[0] == "id" and f"{entity.name}_id" not in fields:
        del fields["id"]
        fields = {f"{entity.name}_id": "id", **fields}
    return _Names(fields, "include" if "include" not in fields else "include_related")


def _of_entity(entity: Entity) -> Tool:
    names = _names(entity)
    about = f" {entity.description}" if entity.description else ""
    return _EntityTool(
        name=f"lookup_{_NOT_IN_NAMES.sub('_', entity.name)}",
        title=f"Look up {entity.name}",
        description=f"Answers live {entity.name!r} rows.{about} Give exactly one of: {_ways_of(entity, names)}.",
        scopes=frozenset({DATA}),
        output_schema=_OUTPUT,
        entity=entity,
        names=names,
        key=_single_key(entity, names),
    )


@dataclass(frozen=True, kw_only=True)
class _EntityTool(Described):
    """The tool of one entity. What is asked nearly always, one key and nothing else, needs no model of arguments.

    The model is made when it is first needed: those of a thousand entities, made at once, would hold up everyone.
    """

    entity: Entity
    """As it was when the tool was made: what its arguments are is by that."""
    names: _Names
    key: tuple[str, ColumnType] | None
    """What the argument is called that is the whole key, and its type."""

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the arguments."""
        return input_schema(self._arguments)

    @cached_property
    def _arguments(self) -> type[Arguments]:
        return _arguments_of(self.entity, self.names)

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Checks the arguments, and answers."""
        given = self._only_a_key(arguments)
        if given is None:
            return await _lookup_of(self.entity.name, self.names, view, parse(self._arguments, arguments))
        entity = await view.entity(self.entity.name)
        return await _answer(view, entity, _way_of(entity, self.names, given), (), self.names.include)

    def question(self, view: View, arguments: Mapping[str, Any]) -> Question[Result | None] | None:
        """See `tools.base.Questioning`: where a key and nothing else is asked."""
        given = self._only_a_key(arguments)
        if given is None:
            return None
        (value,) = given.values()
        found = view.question(self.entity.name, key_text((value,)))
        if found is None:
            return None
        entity, asked = found
        return Question(asked.send, partial(_of_one_key, view, value, entity, asked.read))

    def _only_a_key(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The key, typed as the model types it; None for all else, and for what does not fit: the model complains."""
        if self.key is None or len(arguments) != 1:
            return None
        name, type_ = self.key
        value = arguments.get(name)
        try:
            return None if value is None else {name: typed(type_, value)}
        except ValueError:
            return None


def _single_key(entity: Entity, names: _Names) -> tuple[str, ColumnType] | None:
    if len(entity.key) > 1:
        return None
    [name] = [name for name, field in names.fields.items() if field == entity.key[0]]
    return name, type_of(entity, entity.key[0])


def _arguments_of(entity: Entity, names: _Names) -> type[Arguments]:
    """Inner names are numbers, for a column may be called what no attribute of a model may be."""
    given: dict[str, Any] = {
        f"argument_{number}": (_argument_type(entity, field), Field(default=None, alias=name))
        for number, (name, field) in enumerate(names.fields.items())
    }
    if entity.relations:
        relations = f"{_INCLUDE} Relations: {', '.join(sorted(relation.name for relation in entity.relations))}."
        given["relations"] = (list[str], Field(default=[], alias=names.include, description=relations))
    model: type[Arguments] = create_model(f"Lookup_{entity.name}", __base__=Arguments, **given)
    return model


def _argument_type(entity: Entity, name: str) -> Any:
    field, type_ = entity.field(name), type_of(entity, name)
    role = "The key." if entity.key == (name,) else "Part of the key." if name in entity.key else "A lookup field."
    about = f" {field.description}" if field and field.description else ""
    schema = {"description": role + about, **value_schema(type_)}
    return Annotated[Any, AfterValidator(partial(typed, type_)), WithJsonSchema(schema)]


async def _lookup_of(name: str, names: _Names, view: View, given: Arguments) -> Result:
    entity = await view.entity(name)
    values = given.model_dump(by_alias=True, exclude_unset=True)
    include = values.pop(names.include, [])
    return await _answer(view, entity, _way_of(entity, names, values), include, names.include)


def _way_of(entity: Entity, names: _Names, given: Mapping[str, Any]) -> _Way:
    values = {names.fields[name]: value for name, value in given.items()}
    if tuple(values) == entity.key or set(values) == set(entity.key):
        return _Way(key=tuple(values[name] for name in entity.key))
    if len(values) == 1 and (field := next(iter(values))) in entity.lookups:
        return _Way(field=field, value=values[field])
    raise InvalidArguments(f"Give exactly one of: {_ways_of(entity, names)}.")


def _ways_of(entity: Entity, names: _Names) -> str:
    called = {field: name for name, field in names.fields.items()}
    key = " and ".join(called[name] for name in entity.key)
    together = f"{key} (together)" if len(entity.key) > 1 else key
    return ", ".join([together, *(called[name] for name in entity.lookups if entity.key != (name,))])


# --- the answer -----------------------------------------------------------------------------------


async def _answer(view: View, entity: Entity, way: _Way, include: Sequence[str], argument: str) -> Result:
    relations = await chosen(view, entity, include, argument) if include else []
    found = await _fetch(view, entity, way, relations)
    allowance = Allowance()
    kept = allowance.fit(found.rows[:ROW_LIMIT])
    rows = [row_answer(entity, row) for row in kept]
    if relations:
        await add_related(view, relations, found, rows, allowance)
    watermarks = list(found.watermarks) if rows else [found.watermarks[0]]
    structured: dict[str, Any] = {"entity": entity.name, "rows": rows}
    if len(kept) < len(found.rows) or found.cut:
        structured["truncated"] = truncated(_reason(len(kept), found), len(rows))
    freshness = await view.freshness([_narrowed(way, found), *watermarks[1:]])
    text = lines(freshness_note(freshness), *_text(entity, way, structured, has_related=bool(relations)))
    return Result(structured=structured, text=text, freshness=freshness, watermarks=watermarks)


def _reason(kept: int, found: Joined) -> str:
    """What bounded an answer that holds so many of the rows that were found."""
    if kept < min(len(found.rows), ROW_LIMIT):
        return "bytes"
    return found.cut or "rows"


def _of_one_key(
    view: View, value: Any, entity: Entity, read: Callable[[Any], Rows | None], reply: Any
) -> Result | None:
    """As `_answer` of a key without relations; None where somebody would have to be asked."""
    found = read(reply)
    if found is None:
        return None
    watermark = found.watermark
    freshness = view.freshness_now(watermark, entity, found.rows[0].partition if found.rows else None)
    if freshness is None:
        return None
    rows = [row_answer(entity, row) for row in found.rows]
    structured: dict[str, Any] = {"entity": entity.name, "rows": rows}
    if rows and "flaw" not in rows[0] and freshness.state == "fresh":  # what `_text` says of nearly all
        text = f"1 row of {entity.name!r} with key {shown(value)}.\n{framed([rows[0]['values']])}"
    else:
        text = lines(freshness_note(freshness), *_text(entity, _Way(key=(value,)), structured, has_related=False))
    return Result(structured=structured, text=text, freshness=freshness, watermarks=(watermark,))


async def _fetch(view: View, entity: Entity, way: _Way, relations: Sequence[Relation]) -> Joined:
    """The rows with what they lead to; without relations by what a store does fastest."""
    if relations:
        asked = JoinQuery(joins=joins_of(relations), limit=ROW_LIMIT, max_bytes=MAX_BYTES)
        if way.field:
            asked = msgspec.structs.replace(asked, field=way.field, values=[way.value])
        else:
            asked = msgspec.structs.replace(asked, keys=[key_text(way.key)])
        return await view.joined(entity.name, asked)
    if way.field:
        rows = await view.lookup(entity.name, way.field, [way.value], ROW_LIMIT + 1)
    else:
        rows = await view.get(entity.name, [key_text(way.key)])
    return Joined(rows=rows.rows, related={}, watermarks=[rows.watermark], cut=rows.cut)


def _narrowed(way: _Way, found: Joined) -> Watermark:
    """A row found by its key came from its own partition; whatever else was asked, from any."""
    own = found.watermarks[0]
    return narrow(own, {found.rows[0].partition}) if way.key and found.rows else own


def _text(entity: Entity, way: _Way, structured: Mapping[str, Any], *, has_related: bool) -> Sequence[str]:
    rows = structured["rows"]
    more = _more(way, structured["truncated"]["reason"]) if "truncated" in structured else ""
    if not rows:
        row = f"{entity.name!r} row {way.words()}"
        return [f"No {row} was found so far." if more else f"There is no {row}.", more]
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    said = [f"{count} of {entity.name!r} {way.words()}.", more]
    if not has_related:
        return [*said, flaw_note(rows), framed([row["values"] for row in rows])]
    return [*said, *_relation_notes(rows), flaw_note(_all(rows)), framed([_shown(row) for row in rows])]


def _more(way: _Way, reason: str) -> str:
    match = "More rows may match, but looking further would take too long" if reason == "time" else "More rows match"
    return f"{match}: go through all of them by find(entity, where={{{way.field!r}: …}}) and its cursor."


def _relation_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cut = sorted({name for row in rows for name, group in row.get("related", {}).items() if "truncated" in group})
    return [f"Of the relation {name!r} there are more rows than are shown." for name in cut]


def _all(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows and those they lead to."""
    groups = [group for row in rows for group in row.get("related", {}).values()]
    return [*rows, *(row for group in groups for row in group["rows"])]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the text: its values, and under a relation's name the values of its rows."""
    groups = {name: [each["values"] for each in group["rows"]] for name, group in row.get("related", {}).items()}
    return {"values": row["values"], "related": groups} if groups else dict(row["values"])
