"""Derives an entity from what a config declares and what the source's schema says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import structs

from headgate.errors import ConfigError
from headgate.model.entity import Declared, DeclaredField, DeclaredRelation, Entity, Field, Group, Relation
from headgate.model.table import Column, ColumnType, Doubt, ForeignKey, Table

_IRREGULAR = {"people": "person", "children": "child", "addresses": "address", "statuses": "status"}


def entity_name(table: str) -> str:
    """The name of a table's entity when nobody gave one: the table's own name in the singular."""
    name = table.partition(".")[2].lower()
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name.endswith("ies") and len(name) > 4:
        return name[:-3] + "y"
    if name.endswith(("sses", "xes", "ches", "shes")):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us", "is")) else name


def declare_all(pipeline: str, tables: Sequence[Table]) -> list[Declared]:
    """One entity for each table, for a pipeline whose config declares none."""
    names = [entity_name(table.name) for table in tables]
    unique = [
        name if names.count(name) == 1 else table.name.replace(".", "_")
        for name, table in zip(names, tables, strict=True)
    ]
    return [
        Declared(name=name, pipeline=pipeline, table=table.name) for name, table in zip(unique, tables, strict=True)
    ]


def derive(declared: Sequence[Declared], tables: Mapping[str, Table], partitions: Mapping[str, int]) -> list[Entity]:
    """The entities of one pipeline, complete: keys, fields, indexes and relations.

    Lookups default to the single-column unique indexes and foreign keys; both ends of a relation are
    always looked up by. ConfigError when a declaration names a column that its table lacks, or one whose type
    can never be the declared one.
    """
    entities, broken = derive_each(declared, tables, partitions)
    for error in broken.values():
        raise error
    return entities


def derive_each(
    declared: Sequence[Declared], tables: Mapping[str, Table], partitions: Mapping[str, int]
) -> tuple[list[Entity], dict[str, ConfigError]]:
    """As `derive`, but an entity whose table does not fit it is left out, with the reason under its name."""
    by_name = {entity.name: entity for entity in declared}
    relations = {entity.name: _relations(entity, by_name, tables) for entity in declared}
    relations = {name: [_typed(each, by_name, tables) for each in found] for name, found in relations.items()}
    entities: list[Entity] = []
    broken: dict[str, ConfigError] = {}
    for each in declared:
        try:
            entities.append(_derive_one(each, tables[each.table], relations, partitions.get(each.table, 1)))
        except ConfigError as error:
            broken[each.name] = error
    return entities, broken


def _derive_one(
    declared: Declared, table: Table, relations: Mapping[str, Sequence[Relation]], partitions: int
) -> Entity:
    key = declared.key or table.key
    if set(key) != set(table.key):
        raise ConfigError(
            f"entity {declared.name!r}: its key must be the key of table {table.name}, as changes are told by it: "
            f"{', '.join(table.key)}"
        )
    own = list(declared.lookups) if declared.lookups is not None else _default_lookups(table)
    incoming = [relation for each in relations.values() for relation in each if relation.entity == declared.name]
    lookups = dict.fromkeys([*own, *(relation.target_field for relation in incoming)])
    if len(key) == 1:
        lookups.pop(key[0], None)
    ordered = declared.sorted if declared.sorted is not None else _default_sorted(table)
    groups = _groups(incoming, ordered)
    named = [name for group in groups for name in (group.field, group.order_by) if name is not None]
    outgoing = [relation.field for relation in relations[declared.name]]
    _require_columns(declared, table, [*key, *lookups, *ordered, *named, *outgoing, *declared.fields])
    _require_types(declared, table)
    return Entity(
        name=declared.name,
        pipeline=declared.pipeline,
        table=declared.table,
        key=tuple(key),
        fields=_fields(declared, table),
        lookups=tuple(sorted(lookups)),
        sorted=tuple(sorted(ordered)),
        relations=tuple(relations[declared.name]),
        groups=groups,
        description=declared.description,
        partitions=partitions,
    )


def _groups(incoming: Sequence[Relation], ordered: Sequence[str]) -> tuple[Group, ...]:
    """One for each order that relations to a field ask for; a lookup has its rows by key, a sorted field has not."""
    wanted = {
        (relation.target_field, relation.order_by)
        for relation in incoming
        if not relation.target_is_key and (relation.order_by is not None or relation.target_field in ordered)
    }
    return tuple(
        Group(field=field, order_by=order) for field, order in sorted(wanted, key=lambda one: (one[0], one[1] or ""))
    )


def _typed(relation: Relation, by_name: Mapping[str, Declared], tables: Mapping[str, Table]) -> Relation:
    """With what a store must know of the target to follow it there."""
    target = by_name[relation.entity]
    table = tables[target.table]
    said, column = target.fields.get(relation.target_field), table.column(relation.target_field)
    kind = said.type if said and said.type else column.type if column else "string"
    return structs.replace(
        relation, target_is_key=tuple(target.key or table.key) == (relation.target_field,), target_type=kind
    )


def _fields(declared: Declared, table: Table) -> tuple[Field, ...]:
    fields = []
    for column in table.columns:
        said = declared.fields.get(column.name)
        fields.append(
            Field(
                name=column.name,
                type=said.type if said and said.type else column.type,
                nullable=column.nullable,
                classification=said.classification if said else "",
                description=_described(said, column),
            )
        )
    return tuple(fields)


DOUBTS: Mapping[Doubt, str] = {
    "decimal": "Perhaps a decimal's digits, as base64 without their scale: do not read a number from it.",
    "time": "Perhaps a time, as a number without its unit: do not read a date from it.",
}
"""What is said of a field that the config does not declare, where its records carry no schema."""


def _described(said: DeclaredField | None, column: Column) -> str:
    description = said.description if said else ""
    is_told = said is not None and said.type is not None
    return description if is_told else f"{description} {DOUBTS.get(column.doubt, '')}".strip()


def _default_lookups(table: Table) -> list[str]:
    unique = [columns[0] for columns in table.unique if len(columns) == 1]
    return unique + [foreign.columns[0] for foreign in table.foreign_keys if len(foreign.columns) == 1]


def _default_sorted(table: Table) -> tuple[str, ...]:
    """Single-column indexes of times and numbers are there to be ranged over."""
    ranged = {"timestamp", "date", "decimal", "number"}
    singles = [columns[0] for columns in table.indexed if len(columns) == 1]
    return tuple(name for name in singles if (column := table.column(name)) and column.type in ranged)


def _require_columns(declared: Declared, table: Table, names: Sequence[str]) -> None:
    missing = sorted({name for name in names if table.column(name) is None})
    if missing:
        there = ", ".join(column.name for column in table.columns)
        raise ConfigError(
            f"entity {declared.name!r} names {', '.join(missing)}, which table {table.name} has not; it has: {there}"
        )


_TEXTS: frozenset[ColumnType] = frozenset({"string", "date", "time", "timestamp", "duration", "bytes", "uuid"})
_NUMBERS: frozenset[ColumnType] = frozenset({"integer", "number", "decimal"})
_HELD: Mapping[ColumnType, frozenset[ColumnType]] = {
    "integer": frozenset({"integer"}),
    "number": _NUMBERS | _TEXTS,
    "decimal": _NUMBERS | _TEXTS,
    "boolean": frozenset({"boolean"}),
    "array": frozenset({"array"}),
    **{name: _TEXTS | {"decimal"} for name in _TEXTS},
}
"""Declared type → types of columns whose values can be of it. A column of json may hold anything."""


def _require_types(declared: Declared, table: Table) -> None:
    for name, said in declared.fields.items():
        column = table.column(name)
        if column is None or said.type in (None, "json", column.type) or column.type == "json":
            continue
        if column.type not in _HELD[said.type]:
            raise ConfigError(
                f"entity {declared.name!r} declares {name} as {said.type}, and in table {table.name} it is "
                f"{column.type}: mend one of them"
            )


def _relations(declared: Declared, by_name: Mapping[str, Declared], tables: Mapping[str, Table]) -> list[Relation]:
    if declared.relations is not None:
        return [_declared_relation(declared, name, said, by_name) for name, said in declared.relations.items()]
    found: dict[str, Relation] = {}
    for relation in [*_outgoing(declared, by_name, tables), *_incoming(declared, by_name, tables)]:
        found.setdefault(relation.name, relation)
    return list(found.values())


def _declared_relation(
    declared: Declared, name: str, said: DeclaredRelation, by_name: Mapping[str, Declared]
) -> Relation:
    if said.entity not in by_name:
        raise ConfigError(
            f"relation {name!r} of entity {declared.name!r} leads to {said.entity!r}, which its pipeline has not: "
            f"it has {', '.join(sorted(by_name))}"
        )
    return Relation(
        name=name,
        entity=said.entity,
        field=said.field,
        target_field=said.target_field,
        many=said.many,
        order_by=said.order_by,
        limit=said.limit,
    )


def _outgoing(declared: Declared, by_name: Mapping[str, Declared], tables: Mapping[str, Table]) -> list[Relation]:
    """The row that a foreign key here refers to, under the target's name."""
    return [
        Relation(name=target.name, entity=target.name, field=foreign.columns[0],
                 target_field=foreign.refers_to[0], many=False)
        for foreign in _single(tables[declared.table])
        for target in by_name.values()
        if target.table == foreign.table
    ]  # fmt: skip


def _incoming(declared: Declared, by_name: Mapping[str, Declared], tables: Mapping[str, Table]) -> list[Relation]:
    """The rows elsewhere whose foreign key refers here, under their table's name."""
    return [
        Relation(name=other.table.partition(".")[2].lower(), entity=other.name, field=foreign.refers_to[0],
                 target_field=foreign.columns[0], many=True)
        for other in by_name.values()
        for foreign in _single(tables[other.table])
        if foreign.table == declared.table
    ]  # fmt: skip


def _single(table: Table) -> list[ForeignKey]:
    return [foreign for foreign in table.foreign_keys if len(foreign.columns) == len(foreign.refers_to) == 1]
