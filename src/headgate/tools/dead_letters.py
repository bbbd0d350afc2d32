"""`retry_dead_letters`, `drop_dead_letters`: what becomes of changes that could not be applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import anyio.to_thread
from pydantic import Field, model_validator

from headgate.access.view import CONTROL, PIPELINES, View
from headgate.model.entity import Entity
from headgate.tools._answers import lines
from headgate.tools._arguments import Arguments
from headgate.tools._pipeline_schemas import LETTERS_OUTPUT
from headgate.tools.base import Annotations, Result, Tool, TypedTool

MAX_IDS = 1_000

_SCOPES = frozenset({PIPELINES, CONTROL})


class LettersArguments(Arguments):
    """Which dead letters of which pipeline."""

    pipeline_id: str = Field(description="The pipeline's name; list_pipelines lists them.")
    ids: list[str] | None = Field(
        default=None, min_length=1, max_length=MAX_IDS, description="Their ids, as get_pipeline_errors gives them."
    )
    all: bool = Field(default=False, description="All that there are now, in place of ids.")

    @model_validator(mode="after")
    def _either(self) -> LettersArguments:
        if (self.ids is None) != self.all:
            raise ValueError("takes either ids, or all: true")
        return self


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The tools of this family."""
    return [
        TypedTool(
            name="retry_dead_letters",
            title="Retry dead letters",
            description=(
                "Applies changes that did not fit once more, after their cause is mended. A row that a later change "
                "has healed stays as it is: no row goes back. A change that fails again stays, with its new reason."
            ),
            scopes=_SCOPES,
            arguments=LettersArguments,
            output_schema=LETTERS_OUTPUT,
            answer=_retry,
            annotations=Annotations(read_only=False),
        ),
        TypedTool(
            name="drop_dead_letters",
            title="Drop dead letters",
            description=(
                "Removes changes that did not fit; their copies stay in the log. Their rows stay not to be trusted "
                "until a later change or a resnapshot_table heals them. An entity that stands still before such a "
                "change passes it over and goes on."
            ),
            scopes=_SCOPES,
            arguments=LettersArguments,
            output_schema=LETTERS_OUTPUT,
            answer=_drop,
            annotations=Annotations(read_only=False, destructive=True),
        ),
    ]


async def _retry(view: View, given: LettersArguments) -> Result:
    return await _ask(view, given, "retry", "Those that fail again stay there, with their new reason.")


async def _drop(view: View, given: LettersArguments) -> Result:
    said = "Rows that they left flawed stay flawed until a later change or resnapshot_table heals them."
    return await _ask(view, given, "drop", said)


async def _ask(view: View, given: LettersArguments, action: Literal["retry", "drop"], said: str) -> Result:
    control = view.control(given.pipeline_id)
    status = await view.pipeline(given.pipeline_id)
    _, total = await view.dead_letters(given.pipeline_id, 1)
    await anyio.to_thread.run_sync(control.letters, action, given.ids)
    which = "all dead letters" if given.ids is None else f"{len(given.ids)} dead letter(s)"
    does = "" if status.state in ("running", "snapshotting") else f"It is {status.state}, and does so once it runs."
    structured = {
        "pipeline_id": given.pipeline_id,
        "asked": action,
        "dead_letters_total": total,
        "status": status.state,
    }
    text = lines(
        f"{given.pipeline_id} is asked to {action} {which}; there are {total}.",
        does,
        f"Its processes do it within seconds: get_pipeline_errors shows what is left. {said}",
    )
    return Result(structured=structured, text=text)
