"""Which fields of an entity take a filter or an order, and the error that says so."""

from __future__ import annotations

from headgate.errors import CallError, NotIndexed
from headgate.model.entity import Entity
from headgate.model.table import ColumnType
from headgate.tools._arguments import invalid, shown


def equality_fields(entity: Entity) -> list[str]:
    """The fields that can be asked for by their value."""
    return sorted({*entity.lookups, *entity.sorted})


def type_of(entity: Entity, field: str) -> ColumnType:
    """The field's type; text where the definition names none."""
    known = entity.field(field)
    return known.type if known else "string"


def require_equality(entity: Entity, field: str, argument: str) -> None:
    """Returns if the field can be asked for by its value; NotIndexed or InvalidArguments otherwise."""
    if field not in equality_fields(entity):
        raise _refusal(entity, field, argument, "a filter")


def require_order(entity: Entity, field: str, argument: str) -> None:
    """Returns if the field takes ranges and order; NotIndexed or InvalidArguments otherwise."""
    if field not in entity.sorted:
        raise _refusal(entity, field, argument, "a range or an order")


def _refusal(entity: Entity, field: str, argument: str, use: str) -> CallError:
    indexed = (
        f"Fields of {entity.name!r} that take a value: {', '.join(equality_fields(entity)) or 'none'}; "
        f"a range or an order: {', '.join(sorted(entity.sorted)) or 'none'}"
    )
    key = f"; its key ({', '.join(entity.key)}) is asked for by lookup"
    if entity.field(field) is None:
        return invalid({argument: f"names {shown(field)}, which {entity.name!r} has not. {indexed}{key}"})
    return NotIndexed(
        f"The field {field!r} has no index for {use}. {indexed}{key}.",
        field=field, equality=equality_fields(entity), sorted=sorted(entity.sorted),
    )  # fmt: skip
