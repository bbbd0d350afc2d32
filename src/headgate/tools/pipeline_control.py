"""`pause_pipeline`, `resume_pipeline`, `restart_pipeline`, `resnapshot_table`: the life of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread
from pydantic import Field

from headgate.access.control import Control
from headgate.access.status import PipelineStatus
from headgate.access.view import CONTROL, PIPELINES, View
from headgate.model.entity import Entity
from headgate.tools._answers import lines
from headgate.tools._arguments import Arguments
from headgate.tools._connectors import ask_connector
from headgate.tools._pipeline_schemas import ASKED_OUTPUT
from headgate.tools.base import Annotations, Result, Tool, TypedTool

SCOPES = frozenset({PIPELINES, CONTROL})

_IDEMPOTENT = Annotations(read_only=False)
_EACH_TIME = Annotations(read_only=False, idempotent=False)
_SEEN = "Its processes obey within about a second, as soon as one runs: list_pipelines shows the status."


class PipelineArguments(Arguments):
    """Which pipeline."""

    pipeline_id: str = Field(description="The pipeline's name; list_pipelines lists them.")


class TableArguments(Arguments):
    """Which table of which pipeline."""

    pipeline_id: str = Field(description="The pipeline's name; list_pipelines lists them.")
    table: str = Field(min_length=1, description="schema.table; get_pipeline_detail lists them.")


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The tools of this family."""
    return [
        TypedTool(
            name="pause_pipeline",
            title="Pause a pipeline",
            description=(
                "Lets a pipeline stand still: nothing is captured or applied until resume_pipeline. Data is answered "
                "as it was, and grows old; the source keeps what changes meanwhile."
            ),
            scopes=SCOPES,
            arguments=PipelineArguments,
            output_schema=ASKED_OUTPUT,
            answer=_pause,
            annotations=_IDEMPOTENT,
        ),
        TypedTool(
            name="resume_pipeline",
            title="Resume a pipeline",
            description="Lets a paused pipeline go on from where it stands; nothing is lost.",
            scopes=SCOPES,
            arguments=PipelineArguments,
            output_schema=ASKED_OUTPUT,
            answer=_resume,
            annotations=_IDEMPOTENT,
        ),
        TypedTool(
            name="restart_pipeline",
            title="Restart a pipeline",
            description=(
                "Lets each half of a pipeline begin anew from its saved position, at once also where it waits after "
                "an error. It loses nothing and mends no cause. A paused pipeline stays paused."
            ),
            scopes=SCOPES,
            arguments=PipelineArguments,
            output_schema=ASKED_OUTPUT,
            answer=_restart,
            annotations=_EACH_TIME,
        ),
        TypedTool(
            name="resnapshot_table",
            title="Read a table again",
            description=(
                "Reads one table whole from its source, beside the rows that are answered, and switches to the new "
                "ones at once. It heals rows that are not to be trusted, and is load for the source."
            ),
            scopes=SCOPES,
            arguments=TableArguments,
            output_schema=ASKED_OUTPUT,
            answer=_resnapshot,
            annotations=_IDEMPOTENT,
        ),
    ]


async def _pause(view: View, given: PipelineArguments) -> Result:
    if (connector := await view.connector(given.pipeline_id)) is not None:
        return await ask_connector(view, connector, "pause")
    control = view.control(given.pipeline_id)
    is_news = await anyio.to_thread.run_sync(control.pause)
    said = lines(
        f"{given.pipeline_id} is asked to pause." if is_news else f"{given.pipeline_id} was asked to pause already.",
        _SEEN,
        "Answers from its data say how old it is, and past the pipeline's bound that it stands still.",
        "The source keeps everything that changes meanwhile (PostgreSQL its WAL, for the replication slot; SQLite a "
        "table): do not leave it paused for long.",
    )
    return await _asked(view, control, "pause", said, is_news=is_news)


async def _resume(view: View, given: PipelineArguments) -> Result:
    if (connector := await view.connector(given.pipeline_id)) is not None:
        return await ask_connector(view, connector, "resume")
    control = view.control(given.pipeline_id)
    is_news = await anyio.to_thread.run_sync(control.resume)
    asked = f"{given.pipeline_id} is asked to go on from where it stands."
    said = lines(asked if is_news else f"{given.pipeline_id} was not asked to be paused.", _SEEN)
    return await _asked(view, control, "resume", said, is_news=is_news)


async def _restart(view: View, given: PipelineArguments) -> Result:
    if (connector := await view.connector(given.pipeline_id)) is not None:
        return await ask_connector(view, connector, "restart")
    control = view.control(given.pipeline_id)
    await anyio.to_thread.run_sync(control.restart)
    said = lines(f"{given.pipeline_id} is asked to begin anew from its saved positions.", _SEEN)
    return await _asked(view, control, "restart", said, is_news=True)


async def _resnapshot(view: View, given: TableArguments) -> Result:
    control = view.control(given.pipeline_id)
    is_news = await anyio.to_thread.run_sync(control.resnapshot, given.table)
    said = lines(
        f"{given.pipeline_id} is asked to read {given.table} again." if is_news else
        f"{given.pipeline_id} was asked to read {given.table} again already, and has not begun yet.",
        "Capture begins within about a second, if it runs; get_pipeline_detail shows how far it is. Rows are "
        "answered as they were until the new ones are whole.",
    )  # fmt: skip
    return await _asked(view, control, "resnapshot", said, is_news=is_news)


async def _asked(view: View, control: Control, what: str, said: str, *, is_news: bool) -> Result:
    status: PipelineStatus = await view.pipeline(control.pipeline)
    desired = await anyio.to_thread.run_sync(control.desired)
    structured: dict[str, Any] = {
        "pipeline_id": control.pipeline,
        "asked": what,
        "is_news": is_news,
        "status": status.state,
        "desired": "paused" if desired.paused else "running",
    }
    nobody = "No process runs this pipeline now: start headgate run or sync." if status.state == "stopped" else ""
    return Result(structured=structured, text=lines(said, nobody))
