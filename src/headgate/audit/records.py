"""What the records of a pipeline's topics look like, as messages of AsyncAPI with JSON Schemas (draft 7).

They say what the encoders write (`model.envelope`, `flow.writing`, `flow.heartbeat`, `flow.copying`), and tests hold
them against those.
"""

from __future__ import annotations

from typing import Any, Final

BINDING: Final = "0.5.0"
"""The version of AsyncAPI's bindings of Kafka."""
_COMPATIBILITY: Final = "FORWARD_TRANSITIVE"
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}
_ROW: Final = {
    "type": "object",
    "description": (
        "A row: a member for each column, by its name. A column that the source left out, as PostgreSQL does with an "
        "unchanged TOAST value, is __debezium_unavailable_value."
    ),
}
_NOTHING: Final = {"type": "null"}
_PRIMARY_KEY: Final = {"type": "object", "minProperties": 1, "description": "The columns of the primary key."}


def messages() -> dict[str, Any]:
    """All messages of pipelines' topics, by name."""
    return {
        "change": _message(
            "A change of one row, as Debezium writes it without inline schemas.", _ref("change"), _PRIMARY_KEY
        ),
        "tombstone": _message(
            "Follows each delete under the same key, so that a compacted topic forgets the row.", _NOTHING, _PRIMARY_KEY
        ),
        "mark": _message(
            "In every partition of a table's topic: a truncate (op t), or where a snapshot begins or ends (op m).",
            _ref("mark"), _MARKS_KEY,
        ),
        "heartbeat": _message(
            "Each second: the source's head, its time, and the ends of partitions that the log had acknowledged.",
            _ref("heartbeat"), {"const": "heartbeat"},
        ),
        "dead_letter": _LETTER,
    }  # fmt: skip


def schemas() -> dict[str, Any]:
    """The schemas of payloads, by the messages' names."""
    return {"change": _CHANGE, "mark": _MARK, "heartbeat": _HEARTBEAT}


MESSAGES_OF_TABLES: Final = ("change", "tombstone", "mark")


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _message(title: str, payload: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        "contentType": "application/json",
        "payload": payload,
        "bindings": {"kafka": {"key": key, "bindingVersion": BINDING}},
        "x-compatibility": _COMPATIBILITY,
    }


# --- rows ----------------------------------------------------------------------------------------

_SOURCE: Final = {
    "type": "object",
    "required": ["version", "connector", "name", "db", "schema", "table", "ts_ms", "snapshot"],
    "properties": {
        "version": {"const": "headgate"},
        "connector": {**_TEXT, "description": "The source's kind."},
        "name": {**_TEXT, "description": "The pipeline."},
        "db": _TEXT,
        "schema": _TEXT,
        "table": _TEXT,
        "ts_ms": {**_NUMBER, "description": "When it was committed, by the source's clock."},
        "snapshot": {"enum": ["true", "false"]},
        "sequence": {
            **_TEXT,
            "pattern": r'^\["[0-9]+","[0-9]+"(,".*")?\]$',
            "description": (
                "The place in the source's own order: an array in a string, of the commit, the event in it, and what "
                "numbered them where that may change. What is strictly older than what was applied is to be dropped."
            ),
        },
    },
}
_ENVELOPE: Final = {
    "type": "object",
    "required": ["op", "before", "after", "source", "ts_ms"],
    "properties": {
        "before": {"oneOf": [_ROW, _NOTHING], "description": "Null also where the source does not tell."},
        "source": _SOURCE,
        "ts_ms": _NUMBER,
    },
}


def _when(op: list[str], then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"op": {"enum": op}}}, "then": then}


_CHANGE: Final = {
    **_ENVELOPE,
    "title": "Debezium's envelope",
    "properties": {
        **_ENVELOPE["properties"],  # type: ignore[dict-item]
        "op": {"enum": ["c", "u", "d", "r"], "description": "Create, update, delete, read by a snapshot."},
        "after": {"oneOf": [_ROW, _NOTHING]},
    },
    "allOf": [
        _when(["c", "u", "r"], {"properties": {"after": _ROW}}),
        _when(["d"], {"properties": {"after": _NOTHING}}),
    ],
}
_MARK: Final = {
    **_ENVELOPE,
    "title": "Debezium's envelope without a row",
    "properties": {
        **_ENVELOPE["properties"],  # type: ignore[dict-item]
        "op": {"enum": ["t", "m"], "description": "Truncate; message, as Debezium's of logical decoding."},
        "before": _NOTHING,
        "after": _NOTHING,
        "message": {
            "type": "object",
            "required": ["prefix", "content"],
            "properties": {
                "prefix": {"const": "headgate.snapshot"},
                "content": {
                    "type": "object",
                    "required": ["type", "phase", "generation"],
                    "properties": {
                        "type": {"const": "snapshot"},
                        "phase": {"enum": ["begin", "end"]},
                        "generation": {**_NUMBER, "description": "Grows from snapshot to snapshot."},
                        "partitions": {**_NUMBER, "description": "Over how many the snapshot's rows are spread."},
                    },
                },
            },
        },
    },
    "allOf": [_when(["m"], {"required": ["message"]}), _when(["t"], {"not": {"required": ["message"]}})],
}
_MARKS_KEY: Final = {
    "type": "object",
    "description": "Of no row: what is to be kept of a compacted topic needs a key of its own.",
    "required": ["headgate", "at", "generation", "partition"],
    "properties": {
        "headgate": {"enum": ["truncate", "begin", "end"]},
        "at": {"type": "array", "items": [_NUMBER, _NUMBER, _TEXT], "minItems": 2, "maxItems": 3},
        "generation": _NUMBER,
        "partition": _NUMBER,
    },
}

# --- beside rows ---------------------------------------------------------------------------------

_HEARTBEAT: Final = {
    "title": "How far the source is captured",
    "type": "object",
    "required": ["head", "time_ms", "ends", "logs"],
    "properties": {
        "head": {
            "type": "array",
            "items": [_NUMBER, _NUMBER, _TEXT],
            "minItems": 3,
            "maxItems": 3,
            "description": "The source held nothing newer: as `source.sequence` of a change.",
        },
        "time_ms": {**_NUMBER, "description": "When that was, by the source's clock."},
        "ends": {
            "type": "object",
            "description": "Topic → partition → the offset behind the last change up to the head.",
            "additionalProperties": {"type": "object", "additionalProperties": _NUMBER},
        },
        "logs": {
            "type": "object",
            "description": "Topic → its identity, which a recreated one does not share.",
            "additionalProperties": _TEXT,
        },
    },
}
_PLACE: Final = ("id", "entity", "topic", "partition", "offset", "code", "message", "time_ms")
_LETTER: Final = {
    "title": "A record that could not be applied, with its own key, value and headers, and the reason behind these.",
    "contentType": "application/octet-stream",
    "headers": {
        "type": "object",
        "required": [f"headgate.{name}" for name in _PLACE],
        "properties": {
            **{f"headgate.{name}": _TEXT for name in _PLACE},
            "headgate.left-out": {"const": "value", "description": "It was too large to be copied; the store has it."},
        },
    },
    "payload": {"description": "The record's own bytes: that they are no envelope may be the reason."},
    "bindings": {"kafka": {"key": {"description": "The record's own."}, "bindingVersion": BINDING}},
    "x-compatibility": _COMPATIBILITY,
}
