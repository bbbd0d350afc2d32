"""JSON Schemas of the events, as values of the topic, and their registration in a schema registry.

Each type has a schema of its own, named as the type is (`dev.headgate.call.v1`, a subject of the registry by the
record-name strategy), and a URI (`dataschema`). New optional members may come within a version, so that readers
pass over what they do not know; anything else is a new version, which is a new type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from headgate.audit.checkpoints import CHECKPOINT_TYPE, Checkpoint
from headgate.audit.event import CALL_TYPE, CallEvent, schema_uri
from headgate.audit.kinds import (
    APPROVAL_TYPE,
    CATALOG_TYPE,
    CONFIG_TYPE,
    INTENT_TYPE,
    PIPELINE_TYPE,
    POLICY_TYPE,
    ApprovalEvent,
    CatalogEvent,
    ConfigEvent,
    IntentEvent,
    PipelineEvent,
    PolicyEvent,
)
from headgate.audit.refusals import REFUSALS_TYPE, RefusalsEvent
from headgate.audit.stub import STUB_TYPE, WithheldEvent

if TYPE_CHECKING:
    from headgate.connections.registry import Registry

COMPATIBILITY = "FORWARD_TRANSITIVE"
"""Whoever reads by any earlier schema of a version reads what a later one writes."""
TYPES: dict[str, type[msgspec.Struct]] = {
    CALL_TYPE: CallEvent,
    INTENT_TYPE: IntentEvent,
    REFUSALS_TYPE: RefusalsEvent,
    POLICY_TYPE: PolicyEvent,
    CONFIG_TYPE: ConfigEvent,
    PIPELINE_TYPE: PipelineEvent,
    APPROVAL_TYPE: ApprovalEvent,
    CATALOG_TYPE: CatalogEvent,
    CHECKPOINT_TYPE: Checkpoint,
    STUB_TYPE: WithheldEvent,
}
"""Each event's type, and what its `data` is."""

_TEXT = {"type": "string"}
_DRAFT = "http://json-schema.org/draft-07/schema#"
"""As AsyncAPI 3.0 and schema registries take it."""


def schema_of(type_: str) -> dict[str, Any]:
    """The schema of a whole event of that type, in JSON Schema draft 7."""
    schema, parts = schema_and_parts(type_, "#/definitions/")
    # Without an $id: registries would look for the parts beside it.
    return {"$schema": _DRAFT, **schema, "definitions": parts}


def schema_and_parts(type_: str, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same, for a document that keeps the schemas of parts, by their names, at that place."""
    (data,), parts = msgspec.json.schema_components([TYPES[type_]], ref_template=place + "{name}")
    schema: dict[str, Any] = {
        "title": type_,
        "type": "object",
        "required": ["specversion", "id", "source", "type", "dataschema", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _TEXT,
            "source": {"type": "string", "format": "uri-reference"},
            "type": {"const": type_},
            "time": {"type": "string", "format": "date-time"},
            "subject": _TEXT,
            "datacontenttype": {"const": "application/json"},
            "dataschema": {"const": schema_uri(type_)},
            "traceparent": _TEXT,
            "tracestate": _TEXT,
            "data": data,
        },
    }
    return schema, {name: _plain(part) for name, part in parts.items()}


def register(registry: Registry) -> int:
    """Registers every type's schema, and answers how many. Idempotent; blocks.

    LogError when the registry finds one not compatible with what it has; Unavailable, ConfigError as `Registry`.
    """
    for type_ in TYPES:
        registry.register(type_, msgspec.json.encode(schema_of(type_)).decode(), "JSON")
        registry.set_compatibility(type_, COMPATIBILITY)
    return len(TYPES)


def _plain(value: Any) -> Any:
    """Without the line breaks of docstrings."""
    if isinstance(value, dict):
        return {
            name: " ".join(part.split()) if name == "description" and isinstance(part, str) else _plain(part)
            for name, part in value.items()
        }
    return [_plain(part) for part in value] if isinstance(value, list) else value
