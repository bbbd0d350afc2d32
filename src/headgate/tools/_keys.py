"""Keys of rows as callers give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate.model.entity import Entity
from headgate.model.row import key_parts
from headgate.tools._arguments import invalid
from headgate.tools._indexes import type_of
from headgate.tools._values import SCALAR_SCHEMA, scalar, typed

KEY_SCHEMA = {
    "description": "The key's value; of a composite key the list of its parts, in the key's order.",
    "anyOf": [SCALAR_SCHEMA, {"type": "array", "items": SCALAR_SCHEMA, "minItems": 1}],
}


def key_of(entity: Entity, given: Any) -> tuple[Any, ...]:
    """The parts of the key, typed. InvalidArguments names what does not fit."""
    parts = _parts(entity, given)
    if len(parts) != len(entity.key):
        raise invalid({"key": f"must have {len(entity.key)} parts, in this order: {', '.join(entity.key)}"})
    return tuple(typed_value(entity, name, part, "key") for name, part in zip(entity.key, parts, strict=True))


def typed_value(entity: Entity, name: str, value: Any, place: str) -> Any:
    """A value that is given for a field, as the store holds it. InvalidArguments names its place."""
    try:
        return typed(type_of(entity, name), scalar(value))
    except ValueError as error:
        raise invalid({place: str(error)}) from None


def _parts(entity: Entity, given: Any) -> Sequence[Any]:
    """A composite key may also come as the text that ends its resource's URI."""
    if isinstance(given, list):
        return given
    if isinstance(given, str) and len(entity.key) > 1:
        return key_parts(given)
    return [given]
