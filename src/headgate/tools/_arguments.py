"""Arguments at a tool's edge: their JSON Schema, and complaints that a model can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from headgate.errors import InvalidArguments

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SHOWN = 80


class Arguments(BaseModel):
    """What a tool takes. Unknown arguments are refused; null is the same as leaving one out."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


A = TypeVar("A", bound=Arguments)


def input_schema(arguments: type[Arguments]) -> dict[str, Any]:
    """JSON Schema 2020-12 of the arguments: flat, without titles and without the null of an optional one."""
    schema = arguments.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    properties = {name: _plain(part, definitions) for name, part in schema.get("properties", {}).items()}
    cleaned: dict[str, Any] = {"$schema": DIALECT, "type": "object", "properties": properties}
    if schema.get("required"):
        cleaned["required"] = schema["required"]
    return {**cleaned, "additionalProperties": False}


def parse(arguments: type[A], given: Mapping[str, Any]) -> A:
    """The arguments, typed. InvalidArguments names each that does not fit, and what is wrong with it."""
    try:
        return arguments.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        known = [field.alias or name for name, field in arguments.model_fields.items()]
        raise invalid(_complaints(error.errors(include_url=False, include_input=False), known)) from None


def invalid(fields: Mapping[str, str]) -> InvalidArguments:
    """The error that says of each named argument what is wrong with it."""
    said = "; ".join(f"{name} {complaint}" for name, complaint in fields.items())
    return InvalidArguments(f"The arguments do not fit: {said}.", fields=dict(fields))


def shown(given: object) -> str:
    """A name or value that the caller gave, cut, and quoted if it is text, to be said back."""
    text = str(given)
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return repr(cut) if isinstance(given, str) else cut


def _plain(part: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_plain(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _plain({**definitions[part["$ref"].rpartition("/")[2]], **_without(part, "$ref")}, definitions)
    alternatives = part.get("anyOf")
    if alternatives and {"type": "null"} in alternatives:
        others = [each for each in alternatives if each != {"type": "null"}]
        rest = _without(part, "anyOf", "default")
        return _plain({**others[0], **rest} if len(others) == 1 else {**rest, "anyOf": others}, definitions)
    return {name: _plain(value, definitions) for name, value in part.items() if not _is_noise(name, value)}


def _is_noise(name: str, value: Any) -> bool:
    """A property may be named `title`; then its value is a schema and no text."""
    return (name == "title" and isinstance(value, str)) or (name == "default" and value is None)


def _without(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _complaints(errors: Sequence[ErrorDetails], known: Sequence[str]) -> dict[str, str]:
    complaints: dict[str, str] = {}
    for error in errors:
        place = ".".join(str(part) for part in error["loc"]) or "the whole"
        if error["type"] == "extra_forbidden":
            place = shown(place)
        complaints.setdefault(place, _complaint(error, known))
    return complaints


def _complaint(error: ErrorDetails, known: Sequence[str]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        there = ", ".join(known)
        return f"is no argument of this tool, which takes {there}" if there else "is given, but this tool takes none"
    if kind == "value_error":
        return str(context["error"])
    for prefix, words in _WORDS.items():
        if kind.startswith(prefix):
            return words.format(**context)
    return "does not fit the tool's input schema"


_WORDS = {
    "missing": "is required",
    "int_": "must be a whole number",
    "bool_": "must be true or false",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_": "must be text",
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
    "list_type": "must be a list",
    "dict_type": "must be an object",
}
