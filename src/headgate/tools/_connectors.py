"""Kafka Connect's connectors, as the pipelines' tools tell of them and ask them."""

from __future__ import annotations

from typing import Any, Literal

from headgate.access.connectors import ConnectorStatus
from headgate.access.view import View
from headgate.tools import _schemas as schemas
from headgate.tools._answers import framed, lines
from headgate.tools.base import Result

Order = Literal["pause", "resume", "restart"]

_TASK = schemas.an_object(
    {
        "id": schemas.WHOLE,
        "state": schemas.TEXT,
        "worker": schemas.TEXT,
        "trace": {**schemas.TEXT, "description": "Why it failed, as data; empty while it runs."},
    }
)
CONNECTOR = schemas.an_object(
    {
        "plugin": schemas.TEXT,
        "kind": {**schemas.one_of(["source", "sink", "unknown"])},
        "state": {**schemas.TEXT, "description": "The connector's own; its tasks tell more."},
        "worker": schemas.TEXT,
        "trace": schemas.TEXT,
        "tasks": schemas.a_list(_TASK),
        "config": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Its settings, as data; whatever may be a secret is hidden.",
        },
    },
    description="Present when the pipeline is a connector of Kafka Connect.",
)


def connector_answer(status: ConnectorStatus) -> dict[str, Any]:
    """The connector behind a pipeline."""
    connector = status.connector
    return {
        "plugin": connector.plugin,
        "kind": connector.kind,
        "state": connector.state,
        "worker": connector.worker,
        "trace": connector.trace,
        "tasks": [
            {"id": task.id, "state": task.state, "worker": task.worker, "trace": task.trace} for task in connector.tasks
        ],
        "config": dict(connector.config),
    }


def connector_text(status: ConnectorStatus) -> str:
    """The same compactly; traces and settings are framed as the data that they are."""
    connector = status.connector
    tasks = ", ".join(f"task {task.id} {task.state}" for task in connector.tasks) or "no tasks"
    told = {"config": dict(connector.config), "traces": [task.trace for task in connector.tasks if task.trace]}
    return lines(
        f"It is the {connector.kind} connector {connector.name} ({connector.plugin}) of Kafka Connect: "
        f"{connector.state}, {tasks}.",
        framed(told),
    )


async def ask_connector(view: View, status: ConnectorStatus, order: Order) -> Result:
    """Asks a connector, which obeys in its own time."""
    connectors, name = view.connect_control(), status.info.name
    await {"pause": connectors.pause, "resume": connectors.resume, "restart": connectors.restart}[order](name)
    wanted = "paused" if order == "pause" else "running"
    structured = {
        "pipeline_id": name,
        "asked": order,
        "is_news": True,
        "status": status.state,
        "desired": wanted if order != "restart" else ("paused" if status.state == "paused" else "running"),
    }
    said = f"{name} is asked to {order}: Kafka Connect obeys in its own time; list_pipelines shows the status."
    return Result(structured=structured, text=said)
