"""`check_data_freshness`: how far behind its source each entity is, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from headgate.access.view import DATA, View
from headgate.model.entity import Entity
from headgate.model.position import Freshness, Watermark
from headgate.tools import _schemas as schemas
from headgate.tools._answers import freshness_answer, freshness_note, lines, span
from headgate.tools._arguments import Arguments
from headgate.tools._standing import standing
from headgate.tools.base import Result, Tool, TypedTool

_OUTPUT = schemas.output(
    {
        "entities": schemas.a_list(
            schemas.an_object(
                {
                    "entity": schemas.TEXT,
                    "pipeline": schemas.TEXT,
                    "freshness": schemas.FRESHNESS,
                    "position": {
                        "type": "object",
                        "additionalProperties": schemas.WHOLE,
                        "description": "Per partition of the log, the offset up to which changes are applied.",
                    },
                    "explanation": schemas.TEXT,
                }
            )
        )
    }
)


class FreshnessArguments(Arguments):
    """Which entity, or all."""

    entity: str | None = Field(default=None, description="One entity's name; without it, every entity.")


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The one tool of this family."""
    return [
        TypedTool(
            name="check_data_freshness",
            title="Check how fresh the data is",
            description=(
                "Says for one entity or all how far the data may be behind its source now: fresh, stale, "
                "snapshotting, stopped or unknown, as of when, and the bound it is held against."
            ),
            scopes=frozenset({DATA}),
            arguments=FreshnessArguments,
            output_schema=_OUTPUT,
            answer=_check,
        )
    ]


async def _check(view: View, given: FreshnessArguments) -> Result:
    entities = [await view.entity(given.entity)] if given.entity else list((await view.entities()).values())
    watermarks = [await standing(view, entity.name) for entity in entities]
    answers, said = [], []
    for entity, watermark in zip(entities, watermarks, strict=True):
        freshness = await view.freshness([watermark])
        answers.append(_answer(entity, watermark, freshness))
        said.append(f"{entity.name}: {_line(freshness)}")
    return Result(
        structured={"entities": answers},
        text=lines(*said) or "There is no entity yet.",
        freshness=await view.freshness(watermarks) if watermarks else None,
        watermarks=watermarks,
    )


def _answer(entity: Entity, watermark: Watermark, freshness: Freshness) -> dict[str, Any]:
    return {
        "entity": entity.name,
        "pipeline": entity.pipeline,
        "freshness": freshness_answer(freshness),
        "position": freshness.position.get(watermark.entity, {}),
        "explanation": _explanation(freshness),
    }


def _line(freshness: Freshness) -> str:
    if freshness.state == "fresh" and freshness.staleness_ms is not None:
        return f"fresh, {span(freshness.staleness_ms)} behind its source at most (bound {span(freshness.bound_ms)})."
    return f"{freshness.state}. {_explanation(freshness)}"


def _explanation(freshness: Freshness) -> str:
    return freshness_note(freshness) or "The data is within its bound."
