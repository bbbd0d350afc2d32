"""What is kept of a call's arguments and result: the whole, the whole with personal values masked, or the digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict

from headgate.audit.event import Payload, payload_of
from headgate.model.entity import Entity

Keep = Literal["whole", "masked", "digest"]

ARGUMENTS_KEPT = 64 * 1024
"""Arguments of more bytes than this are kept as their digest and size alone."""
RESULTS_KEPT = 256 * 1024
"""So are results of more."""
MASK = "***"

_NO_CLASS = "none"


class ToolPayloads(BaseModel):
    """What is kept of one tool's calls, where it differs from the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    arguments: Keep | None = None
    results: Keep | None = None


class PayloadRules(BaseModel):
    """What is kept of calls."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    arguments: Keep = "whole"
    results: Keep = "digest"
    tools: dict[str, ToolPayloads] = {}
    """By the tool's name."""

    def of_arguments(self, tool: str) -> Keep:
        """What is kept of this tool's arguments."""
        own = self.tools.get(tool)
        return (own and own.arguments) or self.arguments

    @property
    def masks(self) -> bool:
        """Whether anything may have to be masked."""
        every = (
            self.arguments,
            self.results,
            *(kept for own in self.tools.values() for kept in (own.arguments, own.results)),
        )
        return "masked" in every

    def of_results(self, tool: str) -> Keep:
        """What is kept of this tool's results."""
        own = self.tools.get(tool)
        return (own and own.results) or self.results


def kept(value: object, keep: Keep, limit: int, personal: frozenset[str] = frozenset()) -> Payload:
    """Digest and size of a JSON value, and with them what is to be kept, if it takes no more than `limit` bytes.

    `personal` are the names of which the values are masked: see `personal_names`.
    """
    if keep == "whole":
        return payload_of(value, keep=limit)
    payload = payload_of(value)
    if keep == "digest" or not payload.sha256:
        return payload
    shown = payload_of(masked(msgspec.to_builtins(value), personal), keep=limit)
    return msgspec.structs.replace(payload, json=shown.json, masked=True)


def masked(value: Any, personal: frozenset[str]) -> Any:
    """The value with `***` for everything that stands under one of these names, however deep."""
    if isinstance(value, Mapping):
        return {
            name: MASK if name in personal and each is not None else masked(each, personal)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(each, personal) for each in value]
    return value


def personal_names(entities: Iterable[Entity]) -> frozenset[str]:
    """The names under which classified values of these entities stand in arguments and answers.

    Names of fields, whichever entity has them; where a classified field is in a key, also what holds keys (`key`,
    `uri`, the argument `<entity>_id`); where there is any, cursors, which hold values of what was sorted by.
    """
    names: set[str] = set()
    for entity in entities:
        mine = {field.name for field in entity.fields if field.classification not in ("", _NO_CLASS)}
        names |= mine
        if mine & set(entity.key):
            names |= {"key", "uri", f"{entity.name}_id"}
    return frozenset(names | {"cursor"} if names else names)
