"""Output schemas of the pipelines' tools."""

from __future__ import annotations

from typing import get_args

from headgate.model.pipeline import Half, PipelineState
from headgate.tools import _schemas as schemas
from headgate.tools._connectors import CONNECTOR

_STATUS = schemas.one_of(get_args(PipelineState))
DESIRED = {
    **schemas.one_of(["running", "paused"]),
    "description": "What was asked of it: pause_pipeline, resume_pipeline.",
}
_FAULT = schemas.an_object(
    {
        "half": {
            **schemas.one_of(get_args(Half)),
            "description": "capture: from the source into the log; materialize: from the log into the store.",
        },
        "code": {**schemas.TEXT, "description": "docs://troubleshooting explains it."},
        "message": schemas.TEXT,
        "since": schemas.TEXT,
    },
    {
        "entity": {**schemas.TEXT, "description": "The one entity that stands still, where the others go on."},
        "dead_letter": {**schemas.TEXT, "description": "The id of the change before which it stands still."},
    },
)
_SUMMARY = schemas.an_object(
    {
        "pipeline_id": schemas.TEXT,
        "status": _STATUS,
        "desired": DESIRED,
        "source": schemas.TEXT,
        "destination": schemas.TEXT,
        "entities": schemas.TEXTS,
        "events_per_s": {**schemas.NUMBER, "description": "Changes applied to the store."},
        "lag_ms": {**schemas.WHOLE_OR_NULL, "description": "The larger lag of its halves; null when not known."},
        "faults": {**schemas.TEXTS, "description": "Codes; get_pipeline_errors has more."},
    }
)
_LAG_RECORDS = {
    **schemas.WHOLE_OR_NULL,
    "description": "Up to the log's end. Null for capture: a database's own log does not count changes; see lag_ms.",
}
_MEMBER = schemas.an_object(
    {
        "process": schemas.TEXT,
        "status": _STATUS,
        "partitions": {**schemas.WHOLE_OR_NULL, "description": "How many of the log's partitions are its own."},
        "events_per_s": schemas.NUMBER,
        "lag_records": _LAG_RECORDS,
        "lag_ms": schemas.WHOLE_OR_NULL,
    }
)
_FLOW = schemas.an_object(
    {
        "status": _STATUS,
        "processes": schemas.WHOLE,
        "members": schemas.a_list(_MEMBER, "Each of its processes, and its share."),
        "events_per_s": schemas.NUMBER,
        "bytes_per_s": schemas.NUMBER,
        "lag_records": _LAG_RECORDS,
        "lag_ms": schemas.WHOLE_OR_NULL,
        "batch_size": schemas.WHOLE,
        "flush_interval_ms": schemas.NUMBER,
        "last_event": schemas.INSTANT,
    }
)
LIST_OUTPUT = schemas.output(
    {"status_filter": schemas.TEXT, "pipelines": schemas.a_list(_SUMMARY)},
    {
        "unrecorded_calls": {
            **schemas.WHOLE,
            "description": "Calls of the last week that were answered without a record, for a full disk.",
        }
    },
)
DETAIL_OUTPUT = schemas.output(
    {
        "pipeline_id": schemas.TEXT,
        "status": _STATUS,
        "desired": DESIRED,
        "source": schemas.an_object({"kind": schemas.TEXT, "where": schemas.TEXT, "tables": schemas.TEXTS}),
        "log": schemas.an_object({"kind": schemas.TEXT}),
        "destination": schemas.an_object({"kind": schemas.TEXT, "entities": schemas.TEXTS}),
        "capture": {**_FLOW, "description": "From the source into the log: the source's throughput."},
        "materialize": {**_FLOW, "description": "From the log into the store: our throughput."},
        "snapshot": {
            "anyOf": [
                schemas.an_object({"rows_done": schemas.WHOLE, "rows_total": schemas.WHOLE_OR_NULL}),
                {"type": "null"},
            ],
            "description": "Progress of the snapshot that is under way; null when there is none.",
        },
        "faults": schemas.a_list(_FAULT),
        "freshness": schemas.FRESHNESS,
        "dead_letters": {**schemas.WHOLE, "description": "Changes that could not be applied."},
    },
    {"connector": CONNECTOR},
)
_LETTER = schemas.an_object(
    {
        "id": {**schemas.TEXT, "description": "entity/topic/partition/offset: its place in the log."},
        "entity": schemas.TEXT,
        "topic": schemas.TEXT,
        "partition": schemas.WHOLE,
        "offset": schemas.WHOLE,
        "key": {"description": "The row's key, as data; null when it has none."},
        "code": {**schemas.TEXT, "description": "docs://troubleshooting explains it."},
        "message": schemas.TEXT,
        "time": schemas.TEXT,
        "tried_again": {**schemas.INSTANT, "description": "When retry_dead_letters last failed; null if never."},
    }
)
ERRORS_OUTPUT = schemas.output(
    {
        "pipeline_id": schemas.TEXT,
        "status": _STATUS,
        "faults": schemas.a_list(_FAULT),
        "dead_letters": schemas.a_list(_LETTER, "The newest first."),
        "dead_letters_total": schemas.WHOLE,
    },
    {"truncated": schemas.TRUNCATED},
)
ASKED_OUTPUT = schemas.output(
    {
        "pipeline_id": schemas.TEXT,
        "asked": {**schemas.TEXT, "description": "What was asked of the pipeline's processes."},
        "is_news": {**schemas.FLAG, "description": "False when it was so already."},
        "status": {**_STATUS, "description": "As it was when it was asked; list_pipelines shows what becomes of it."},
        "desired": DESIRED,
    }
)
LETTERS_OUTPUT = schemas.output(
    {
        "pipeline_id": schemas.TEXT,
        "asked": {**schemas.TEXT, "description": "What was asked of the pipeline's processes."},
        "dead_letters_total": {**schemas.WHOLE, "description": "As it was when it was asked."},
        "status": {**_STATUS, "description": "A pipeline that does not run does it when it runs again."},
    }
)
