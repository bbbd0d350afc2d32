"""Values that a caller gives for fields, made what the store holds in them."""

from __future__ import annotations

import math
import re
from typing import Any

from headgate.model.table import ColumnType

MAX_TEXT = 4_096
"""Characters in one given value."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,80}", re.ASCII)
_NUMERIC_TEXT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?|NaN|[+-]?Infinity", re.ASCII)
_TEXT_FORMS = {
    "date": 'must be text, as answers show it, such as "2026-11-21"',
    "time": "must be text, as answers show it",
    "timestamp": 'must be text, as answers show it, such as "2026-11-21T02:00:00Z"',
    "duration": "must be text, as answers show it",
    "uuid": "must be the uuid as text",
    "bytes": "must be the bytes in base64, as text",
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "integer": {"type": ["integer", "string"], "pattern": "^[+-]?[0-9]+$"},
    "number": {"type": ["number", "string"]},
    "decimal": {"type": ["number", "string"]},
    "boolean": {"type": "boolean"},
    "json": {},
    "array": {"type": "array"},
}

SCALAR_SCHEMA: dict[str, Any] = {"type": ["string", "integer", "number", "boolean"]}


def value_schema(type_: ColumnType) -> dict[str, Any]:
    """JSON Schema of a value of that type. Whole numbers may be text: beyond 2^53 answers show them so."""
    return _SCHEMAS.get(type_, {"type": "string", "maxLength": MAX_TEXT})


def typed(type_: ColumnType, value: Any) -> Any:
    """The value as a store takes it for a field of that type. ValueError says what it must be."""
    if type_ == "integer":
        return _whole(value)
    if type_ in ("number", "decimal"):
        return _number(value)
    if type_ == "boolean":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if type_ in ("json", "array"):
        return value
    if type_ == "string" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(value, _TEXT_FORMS.get(type_, "must be text"))


def scalar(value: Any) -> Any:
    """A value of no known type. ValueError for lists and objects."""
    if isinstance(value, str):
        return _text(value, "must be text")
    if isinstance(value, (int, float)):
        return value
    raise ValueError("must be text, a number, true or false")


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    raise ValueError("must be a whole number")


def _number(value: Any) -> int | float | str:
    """Text stays text, for the store compares numbers by their exact value."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and _NUMERIC_TEXT.fullmatch(value):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise ValueError("must be a number")


def _text(value: Any, complaint: str) -> str:
    if not isinstance(value, str):
        raise ValueError(complaint)
    if len(value) > MAX_TEXT:
        raise ValueError(f"must have at most {MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be whole Unicode text") from None
    return value
