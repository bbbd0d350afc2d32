"""The contract of all that Headgate writes to the log, as an AsyncAPI 3.0 document: for who reads its topics, and
for who sets up the cluster.

Format: https://www.asyncapi.com/docs/reference/specification/v3.0.0, with the Kafka bindings in version 0.5.0.
What AsyncAPI has no word for stands under `x-acls` (what each side must be allowed) and `x-compatibility`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headgate.audit import acls, records
from headgate.audit.event import CONTENT_TYPE
from headgate.audit.publisher import CALLS_TOPIC, LINK_HEADER, PREVIOUS_HEADER, SEQ_HEADER, WRITER_HEADER
from headgate.audit.records import BINDING, MESSAGES_OF_TABLES
from headgate.audit.schemas import COMPATIBILITY, TYPES, schema_and_parts
from headgate.log.base import Topic
from headgate.model.pipeline import dead_letter_topic, group_of
from headgate.model.table import heartbeat_topic

ASYNCAPI = "3.0.0"
_SCHEMAS = "#/components/schemas/"
_OVERHEAD = 1_024
"""A batch of one record is a little larger than the record."""


class PipelineTopics(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of one pipeline's topics."""

    pipeline: str
    partitions: int
    retention_ms: int
    """For how long the log keeps each change and each dead letter."""
    tables: Sequence[str] = ()
    """The tables that are known by now, as `schema.table`."""
    fed_by: Sequence[str] | None = None
    """The topics that are read, where others fill them."""
    message_max_bytes: int | None = None
    """The largest record of the pipeline's log, on Kafka."""


def contract(
    version: str,
    pipelines: Sequence[PipelineTopics],
    *,
    calls_retention_ms: int,
    servers: Sequence[str] = (),
    message_max_bytes: int | None = None,
) -> dict[str, Any]:
    """The document. `version` is Headgate's; `servers` are `host:port` of the brokers, none for the embedded log.

    `message_max_bytes` is the largest record of the log that has the record of calls, on Kafka.
    """
    calls = Topic(name=CALLS_TOPIC.name, partitions=CALLS_TOPIC.partitions, retention_ms=calls_retention_ms)
    channels = {"calls": _calls(calls, message_max_bytes)}
    operations = {"write_calls": _written("calls", channels["calls"])}
    messages: dict[str, Any] = {_word(type_): _event(type_) for type_ in TYPES}
    schemas: dict[str, Any] = {}
    for type_ in TYPES:
        schema, parts = schema_and_parts(type_, _SCHEMAS)
        schemas |= {_word(type_): schema, **parts}
    for topics in pipelines:
        ours, others = _channels(topics), _channels_of_others(topics)
        channels |= ours | others
        operations |= {f"write_{name}": _written(name, channel) for name, channel in ours.items()}
        operations |= _materialized(topics, others or {name: ours[name] for name in ours if name.endswith("_tables")})
    if pipelines:
        messages |= records.messages()
        schemas |= records.schemas()
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Headgate",
            "version": version,
            "description": (
                "The topics that Headgate writes: changes of databases, and the record of calls. A topic that is "
                "there is left as it is; one that is not is created so."
            ),
        },
        "defaultContentType": "application/json",
        **(
            {"servers": {f"broker{n}": {"host": host, "protocol": "kafka"} for n, host in enumerate(servers, 1)}}
            if servers
            else {}
        ),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
        "x-acls": acls.of_cluster(),
    }


# --- the record ----------------------------------------------------------------------------------


def _calls(topic: Topic, message_max_bytes: int | None) -> dict[str, Any]:
    return {
        "address": topic.name,
        "title": "The record",
        "description": (
            "Every call, answered, refused or failed, and the events around calls. Keyed by writer, so that a writer's "
            "events are in one partition in their order. Events come at least once: drop a pair of headgate-writer "
            "and headgate-seq that was seen."
        ),
        "messages": {_word(type_): {"$ref": f"#/components/messages/{_word(type_)}"} for type_ in TYPES},
        "bindings": _kafka(topic, message_max_bytes),
        "x-compatibility": COMPATIBILITY,
    }


def _event(type_: str) -> dict[str, Any]:
    text = {"type": "string"}
    names = ("content-type", WRITER_HEADER, SEQ_HEADER, PREVIOUS_HEADER, LINK_HEADER)
    return {
        "name": type_,
        "title": (TYPES[type_].__doc__ or type_).partition("\n")[0],
        "contentType": CONTENT_TYPE.decode(),
        "headers": {"type": "object", "required": list(names), "properties": dict.fromkeys(names, text)},
        "payload": {"$ref": f"{_SCHEMAS}{_word(type_)}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "The writer."}, "bindingVersion": BINDING}},
        "x-compatibility": COMPATIBILITY,
    }


# --- pipelines -----------------------------------------------------------------------------------


def _channels(topics: PipelineTopics) -> dict[str, Any]:
    """Of the topics that are written for a pipeline."""
    pipeline, most = topics.pipeline, topics.message_max_bytes
    heartbeats = Topic(name=heartbeat_topic(pipeline), retention_ms=3_600_000)
    letters = Topic(name=dead_letter_topic(pipeline), retention_ms=topics.retention_ms)
    of_letters = _channel(letters, ["dead_letter"], "Changes that could not be applied, whole.", most)
    if topics.fed_by is not None:
        return {f"{pipeline}_dead_letters": of_letters}
    return {
        f"{pipeline}_tables": _tables(topics),
        f"{pipeline}_heartbeats": _channel(
            heartbeats, ["heartbeat"], "Each second, how far the source is captured.", most
        ),
        f"{pipeline}_dead_letters": of_letters,
    }


def _channels_of_others(topics: PipelineTopics) -> dict[str, Any]:
    """Of the topics that are only read for a pipeline: what they hold, and for how long, is said by who fills them."""
    return {
        f"{topics.pipeline}_source_{number}": {
            "address": topic,
            "description": "Filled by others, and read.",
            "bindings": {"kafka": {"topic": topic, "bindingVersion": BINDING}},
        }
        for number, topic in enumerate(sorted(topics.fed_by or ()), 1)
    }


def _tables(topics: PipelineTopics) -> dict[str, Any]:
    tables = Topic(
        name=f"{topics.pipeline}.{{schema}}.{{table}}",
        partitions=topics.partitions,
        retention_ms=topics.retention_ms,
        compacted=True,
    )
    said = "A topic for each table. Compacted: the last record of each key stays for ever."
    known = [table.partition(".") for table in sorted(topics.tables)]
    return {
        **_channel(tables, MESSAGES_OF_TABLES, said, topics.message_max_bytes),
        "parameters": {
            "schema": _parameter("The table's schema.", {schema for schema, _, _ in known}),
            "table": _parameter("The table.", {table for _, _, table in known}),
        },
    }


def _parameter(description: str, values: set[str]) -> dict[str, Any]:
    return {"description": description, **({"examples": sorted(values)} if values else {})}


def _channel(topic: Topic, messages: Sequence[str], description: str, message_max_bytes: int | None) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
        "bindings": _kafka(topic, message_max_bytes),
    }


# --- Kafka ---------------------------------------------------------------------------------------


def _kafka(topic: Topic, message_max_bytes: int | None) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms}
    if topic.compacted:
        kept = topic.retention_ms
        configuration = {"cleanup.policy": ["compact"], "delete.retention.ms": kept, "min.compaction.lag.ms": kept}
    if message_max_bytes is not None:
        configuration["max.message.bytes"] = message_max_bytes + _OVERHEAD
    said: dict[str, Any] = {
        "partitions": topic.partitions,
        "topicConfiguration": {**configuration, "message.timestamp.type": "LogAppendTime"},
        "bindingVersion": BINDING,
    }
    return {"kafka": said if "{" in topic.name else {"topic": topic.name, **said}}


def _written(name: str, channel: dict[str, Any]) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in channel["messages"]],
        "x-acls": acls.of_written(channel["address"]),
    }


def _materialized(topics: PipelineTopics, channels: dict[str, Any]) -> dict[str, Any]:
    """Rows and positions are applied by members of one group. A store's own position is the truth, not the group's."""
    group = {"type": "string", "const": group_of(topics.pipeline)}
    return {
        f"read_{name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}"},
            "bindings": {"kafka": {"groupId": group, "bindingVersion": BINDING}},
            "x-acls": [*acls.of_read(channel["address"]), *acls.of_group(topics.pipeline)],
        }
        for name, channel in channels.items()
    }


def _word(type_: str) -> str:
    """`call_v1` of `dev.headgate.call.v1`."""
    return type_.removeprefix("dev.headgate.").replace(".", "_")
