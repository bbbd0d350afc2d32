"""Completions: how a name that someone has begun may go on, of what the grant lets its caller see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from headgate.access.view import View
from headgate.errors import SnapshotPending, UnknownEntity, UnknownResource
from headgate.model.position import Watermark
from headgate.stores.base import Query
from headgate.tools._arguments import shown
from headgate.tools._prompts import Completed, Prompt, prompt_of
from headgate.tools._resources import Shelf, templates

MOST_VALUES = 100
"""A completion holds no more (MCP, Completion)."""
ENUMERATION = 1_000
"""Keys are completed of entities with at most so many rows: others are found by `find`."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """At most a hundred values, sorted, and how many there are in all. `watermarks`: what was read of the store."""

    values: Sequence[str] = ()
    total: int = 0
    watermarks: Sequence[Watermark] = ()


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An argument that someone has begun: of which prompt or template, and what else is given already."""

    prompt: str = ""
    template: str = ""
    argument: str
    value: str = ""
    given: Mapping[str, str] = {}


async def complete(
    view_of: Callable[[str], View], begun: Begun, prompts: Sequence[Prompt], shelves: Sequence[Shelf]
) -> Completion:
    """How it may go on; nothing where nobody can tell. UnknownPrompt or UnknownResource for what is not offered.

    `view_of` a tool is the store as the caller sees it by that tool: each kind of name as the tool that lists it.
    """
    match _named_by(begun, prompts, shelves):
        case "entity":
            return _beginning(begun.value, await view_of("lookup").entities())
        case "pipeline":
            pipelines = await view_of("list_pipelines").pipelines()
            return _beginning(begun.value, (status.info.name for status in pipelines))
        case "key":
            return await _keys(view_of("find"), begun)
    return Completion()


def _named_by(begun: Begun, prompts: Sequence[Prompt], shelves: Sequence[Shelf]) -> Completed:
    if begun.prompt:
        arguments = prompt_of(begun.prompt, prompts).info.arguments
        return next((each.names for each in arguments if each.name == begun.argument), "")
    for template in templates(shelves):
        if template.uri_template == begun.template:
            return template.names.get(begun.argument, "")
    raise UnknownResource(f"There is no resource template {shown(begun.template)}.", uri=begun.template)


async def _keys(view: View, begun: Begun) -> Completion:
    """The keys of an enumeration: an entity so small that its keys can be gone through."""
    try:
        entity = await view.entity(begun.given.get("entity", ""))
        counted = await view.count(entity.name, ENUMERATION + 1)
        if counted.more or counted.rows > ENUMERATION:
            return Completion()
        found = await view.find(entity.name, Query(limit=ENUMERATION))
    except (UnknownEntity, SnapshotPending):
        return Completion()
    if found.cut == "time":
        return Completion()
    return _beginning(begun.value, (row.key for row in found.rows), found.watermark)


def _beginning(value: str, names: Iterable[str], *watermarks: Watermark) -> Completion:
    found = sorted(name for name in names if name.casefold().startswith(value.casefold()))
    return Completion(values=found[:MOST_VALUES], total=len(found), watermarks=watermarks)
