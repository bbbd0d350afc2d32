"""The schema of a record's data, whichever format told it: Kafka Connect's inline one, or Avro.

Kafka Connect's in JSON: https://github.com/apache/kafka/blob/trunk/connect/json (`JsonSchema`). Avro:
https://avro.apache.org/docs/1.12.0/specification/, with Connect's own names in `connect.name` and
`connect.parameters`, as both common Avro converters write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One type. `kind` is one of Connect's: struct, array, map, int8 … int64, float, double, boolean, string, bytes.

    A union of several types is of kind `union`.
    """

    kind: str
    name: str = ""
    """What it stands for, such as `io.debezium.time.Date`; for Avro's own logical types `avro.<logical type>`."""
    optional: bool = False
    parameters: Mapping[str, str] = {}
    fields: tuple[tuple[str, Shape], ...] = ()
    """Of a struct, in its order."""
    items: Shape | None = None
    """Of an array or a map."""

    def field(self, name: str) -> Shape | None:
        """A struct's field of that name."""
        return next((shape for each, shape in self.fields if each == name), None)


_CONNECT: Final = {"float32": "float", "float64": "double"}
_AVRO: Final = {"int": "int32", "long": "int64", "fixed": "bytes", "enum": "string", "null": "union"}


def of_connect(schema: Mapping[str, Any]) -> Shape:
    """The shape that an inline schema says. ValueError when it is none."""
    kind = schema.get("type")
    if not isinstance(kind, str):
        raise ValueError("a schema without a type")
    items = schema.get("items") or schema.get("values")
    return Shape(
        kind=_CONNECT.get(kind, kind),
        name=schema.get("name") or "",
        optional=bool(schema.get("optional")),
        parameters={str(key): str(value) for key, value in (schema.get("parameters") or {}).items()},
        fields=tuple((str(field["field"]), of_connect(field)) for field in schema.get("fields") or ()),
        items=None if items is None else of_connect(items),
    )


def of_avro(schema: Any) -> Shape:
    """The shape that an Avro schema says. ValueError when it is none; a type that holds itself has no inside."""
    return _AvroReading().shape(schema, "")


class _AvroReading:
    """One pass over one schema: types are known by their names once they have been met."""

    def __init__(self) -> None:
        self._named: dict[str, Shape] = {}

    def shape(self, schema: Any, space: str) -> Shape:
        if isinstance(schema, str):
            return self._named.get(_full(schema, space)) or self._named.get(schema) or Shape(kind=_kind(schema))
        if isinstance(schema, list):
            return self._union(schema, space)
        if not isinstance(schema, dict) or "type" not in schema:
            raise ValueError("no Avro schema")
        if not isinstance(schema["type"], str):
            return self.shape(schema["type"], space)
        return self._complex(schema, space)

    def _union(self, branches: list[Any], space: str) -> Shape:
        shapes = [self.shape(branch, space) for branch in branches if branch != "null"]
        if len(shapes) != 1:
            return Shape(kind="union", optional=True)
        return msgspec.structs.replace(shapes[0], optional=len(branches) > 1)

    def _complex(self, schema: dict[str, Any], space: str) -> Shape:
        kind = schema["type"]
        name = _full(str(schema.get("name", "")), str(schema.get("namespace", space)))
        inner = name.rpartition(".")[0]
        if kind in ("record", "error", "enum", "fixed"):
            self._named[name] = Shape(kind="union")  # stands for itself inside itself
        shape = Shape(
            kind="struct" if kind in ("record", "error") else _kind(schema.get("connect.type") or kind),
            name=_logical_name(schema),
            parameters=_parameters(schema),
            fields=tuple((str(field["name"]), self.shape(field["type"], inner)) for field in schema.get("fields", ())),
            items=self.shape(schema["items"], space) if kind == "array"
            else self.shape(schema["values"], space) if kind == "map" else None,
        )  # fmt: skip
        if kind in ("record", "error", "enum", "fixed"):
            self._named[name] = shape
        return shape


def _kind(name: str) -> str:
    return _AVRO.get(name, name)


def _full(name: str, space: str) -> str:
    return f"{space}.{name}" if space and "." not in name else name


def _logical_name(schema: Mapping[str, Any]) -> str:
    if schema.get("connect.name"):
        return str(schema["connect.name"])
    return f"avro.{schema['logicalType']}" if schema.get("logicalType") else ""


def _parameters(schema: Mapping[str, Any]) -> dict[str, str]:
    found = {str(key): str(value) for key, value in (schema.get("connect.parameters") or {}).items()}
    if "scale" in schema:
        found.setdefault("scale", str(schema["scale"]))
    return found
