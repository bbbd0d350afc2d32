"""Tasks in the extension's words (schema/draft/schema.ts of ext-tasks)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from headgate.server.tasks.task import Task
from headgate.server.wire import Noted

_decode = msgspec.json.Decoder().decode


class Seen(NamedTuple):
    """A task as its caller asks for it, with the answer of a completed one."""

    task: Task
    answer: bytes | None = None


def made(task: Task, noted: Noted) -> dict[str, Any]:
    """What a call answers that has become a task (CreateTaskResult)."""
    return {**_shown(task), "resultType": "task", "_meta": dict(noted)}


def seen(found: Seen, noted: Noted) -> dict[str, Any]:
    """What `tasks/get` answers (GetTaskResult)."""
    return {**detailed(found), "resultType": "complete", "_meta": dict(noted)}


def detailed(found: Seen) -> dict[str, Any]:
    """A task with all that is known of it (DetailedTask)."""
    task, answer = found
    shown = _shown(task)
    if task.status == "input_required":
        shown["inputRequests"] = task.open_questions()
    if task.status == "failed":
        shown["error"] = dict(task.error or {})
    if answer is not None:
        shown["result"] = _decode(answer)
    return shown


def noted(_: None, said: Noted) -> dict[str, Any]:
    """What `tasks/update` and `tasks/cancel` answer: that it was heard."""
    return {"resultType": "complete", "_meta": dict(said)}


def _shown(task: Task) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "taskId": task.id,
        "status": task.status,
        "createdAt": _instant(task.created_ms),
        "lastUpdatedAt": _instant(task.updated_ms),
        "ttlMs": task.ttl_ms,
        "pollIntervalMs": task.poll_ms,
    }
    return {**shown, "statusMessage": task.note} if task.note else shown


def _instant(time_ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message_of(error: Mapping[str, Any]) -> str:
    """The sentence of a JSON-RPC error."""
    return str(error.get("message", ""))
