"""Records in Avro, in the wire format of a schema registry."""

from __future__ import annotations

from io import BytesIO
from typing import Any, NamedTuple

import msgspec
from fastavro import parse_schema, schemaless_reader

from headgate.connections.registry import Registry, Schema, split
from headgate.errors import Undecodable
from headgate.sources._wire.shape import Shape, of_avro


class AvroRecord(NamedTuple):
    """A record's data as its schema says, without its logical types: those are turned afterwards, by the shape."""

    schema: int
    shape: Shape
    value: Any


class Avro:
    """Reads records by the schemas of one registry. Each schema is asked for and taken apart once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[int, tuple[Shape, Any]] = {}

    def read(self, data: bytes) -> AvroRecord:
        """The record in these bytes. Undecodable when they are none; Unavailable when the registry is away."""
        try:
            number, body = split(data)
        except ValueError as error:
            raise Undecodable(
                "The record is not in the wire format of a schema registry, a zero and the schema's id in four bytes: "
                "let the converter write ids into the data, not into headers."
            ) from error
        shape, schema = self._known.get(number) or self._learn(number)
        stream = BytesIO(body)
        try:
            value: Any = schemaless_reader(stream, schema, None)
        except Exception as error:  # hostile bytes make it raise nearly anything
            raise Undecodable("The record does not hold what its registered schema says.") from error
        if stream.tell() != len(body):
            raise Undecodable("The record holds more than its registered schema says.")
        return AvroRecord(number, shape, value)

    def shape_of(self, subject: str) -> Shape | None:
        """What a subject's newest schema says; None when there is no such subject, or it is no Avro."""
        schema = self._registry.latest(subject)
        if schema is None or schema.kind != "AVRO":
            return None
        return self._taken_apart(schema)[0]

    def _learn(self, number: int) -> tuple[Shape, Any]:
        schema = self._registry.by_id(number)
        if schema is None:
            raise Undecodable(f"The schema registry has no schema {number}: see which registry the producer uses.")
        if schema.kind != "AVRO":
            raise Undecodable(f"The schema {number} of the registry is of kind {schema.kind}, where Avro is read.")
        self._known[number] = self._taken_apart(schema)
        return self._known[number]

    def _taken_apart(self, schema: Schema) -> tuple[Shape, Any]:
        try:
            whole = _with_references(schema, self._registry)
            return of_avro(whole), parse_schema(_without_logical_types(whole))
        except Undecodable:
            raise
        except Exception as error:  # fastavro's errors have no common root but this
            raise Undecodable(f"The schema {schema.id} of the registry is no Avro schema.") from error


def _with_references(schema: Schema, registry: Registry) -> Any:
    """The schema with each named schema of another subject in the place where it is first named."""
    text = msgspec.json.decode(schema.text)
    pending: dict[str, Any] = {}
    for reference in schema.references:
        found = registry.at(reference.subject, reference.version)
        if found is None:
            raise Undecodable(f"The registry lacks a schema that the schema {schema.id} refers to.")
        pending[reference.name] = _with_references(found, registry)
    return _put_in(text, pending) if pending else text


def _put_in(node: Any, pending: dict[str, Any]) -> Any:
    if isinstance(node, str):
        return pending.pop(node, node)
    if isinstance(node, list):
        return [_put_in(each, pending) for each in node]
    if not isinstance(node, dict):
        return node
    put = {key: _put_in(value, pending) for key, value in node.items() if key in ("type", "items", "values", "fields")}
    return {**node, **put}


def _without_logical_types(node: Any) -> Any:
    """fastavro would make objects of them, some with a loss; the shape knows them."""
    if isinstance(node, list):
        return [_without_logical_types(each) for each in node]
    if isinstance(node, dict):
        return {
            key: value if key in ("default", "symbols") else _without_logical_types(value)
            for key, value in node.items()
            if key != "logicalType"
        }
    return node
