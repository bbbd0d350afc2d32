"""Tools: what agents may call. A family of tools is one file with `tools(entities) -> Sequence[Tool]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, runtime_checkable

import msgspec

from headgate import plugins
from headgate.access.approval import DECIDE
from headgate.access.view import View
from headgate.model.entity import Entity
from headgate.model.position import Freshness, Watermark
from headgate.model.question import Question
from headgate.tools._arguments import A, input_schema, parse
from headgate.tools._client import NOBODY, Client


class Annotations(msgspec.Struct, frozen=True, kw_only=True):
    """MCP's hints about a tool (ToolAnnotations, revision 2026-07-28)."""

    read_only: bool = True
    destructive: bool = False
    idempotent: bool = True
    open_world: bool = False


READ_ONLY = Annotations()

TaskUse = Literal["never", "optional", "required"]
"""Whether a call may become a task, of a client that takes tasks: `optional` when it turns out to take long, for a
tool that reads; `required` at once, so that other clients can't call it at all. A tool that changes something and
says `optional` becomes a task at once too."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answers: `structured` fits its output schema, `text` says the same compactly.

    `freshness` covers all that was read from the store; None where nothing was. `watermarks` are the
    positions that were read, for the call event.
    """

    structured: Mapping[str, Any]
    text: str
    freshness: Freshness | None = None
    watermarks: Sequence[Watermark] = ()
    content: Sequence[dict[str, Any]] = ()
    """What goes along with the text: pictures, sounds, resources, each a ContentBlock in MCP's own words."""


class Tool(Protocol):
    """One tool. Stateless: any number of calls run at once."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def scopes(self) -> frozenset[str]:
        """All the scopes that a call needs."""

    @property
    def annotations(self) -> Annotations: ...
    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the arguments, `additionalProperties: false`."""

    @property
    def output_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of `Result.structured`."""

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Answers from the view alone. InvalidArguments and other CallErrors tell the caller what to mend."""


@runtime_checkable
class Talking(Protocol):
    """What a tool is besides, that talks with its client while it runs: it is called by `talk` and not by `run`."""

    async def talk(self, view: View, arguments: Mapping[str, Any], client: Client) -> Result:
        """As `Tool.run`. Cancelled when the client leaves or takes its request back; then it stops its work."""


@runtime_checkable
class Questioning(Protocol):
    """What a tool is besides, whose commonest calls need no task of their own."""

    def question(self, view: View, arguments: Mapping[str, Any]) -> Question[Result | None] | None:
        """As `Tool.run`, on a view that `is_of` the entities that there are now.

        None, now or of a reply, where only `run` can tell; nothing has happened then. Reading raises as `run` does.
        """


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a tool says of itself."""

    name: str
    title: str
    description: str
    scopes: frozenset[str]
    output_schema: dict[str, Any]
    annotations: Annotations = READ_ONLY
    task: TaskUse = "never"


@dataclass(frozen=True, kw_only=True)
class Taking(Described, Generic[A]):
    """A tool whose `arguments` type what it takes."""

    arguments: type[A]

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the arguments."""
        return input_schema(self.arguments)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Returns if the arguments fit. InvalidArguments otherwise."""
        parse(self.arguments, arguments)


@dataclass(frozen=True, kw_only=True)
class TypedTool(Taking[A]):
    """A tool made of a function: `answer` gets the arguments, checked."""

    answer: Callable[[View, A], Awaitable[Result]]

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Checks the arguments, and answers."""
        return await self.answer(view, parse(self.arguments, arguments))


@dataclass(frozen=True, kw_only=True)
class TalkingTool(Taking[A]):
    """A tool made of a function that tells its client how far it is, or asks it for more."""

    answer: Callable[[View, A, Client], Awaitable[Result]]

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Answers without a client: nobody hears how far it is, and what it asks for is refused."""
        return await self.talk(view, arguments, NOBODY)

    async def talk(self, view: View, arguments: Mapping[str, Any], client: Client) -> Result:
        """Checks the arguments, and answers."""
        return await self.answer(view, parse(self.arguments, arguments), client)


def task_use(tool: Tool) -> TaskUse:
    """Whether a call of the tool may become a task; never, of one that does not say."""
    use: TaskUse = getattr(tool, "task", "never")
    return use


def approvable() -> frozenset[str]:
    """The tools whose calls a policy may let wait for a person's yes: those that change something, but for deciding."""
    return frozenset(
        tool.name for tool in discover({}).values() if not tool.annotations.read_only and DECIDE not in tool.scopes
    )


def discover(entities: Mapping[str, Entity]) -> dict[str, Tool]:
    """Every tool of every file in this folder, by name, in the order of names.

    Files whose names begin with an underscore serve the others and hold no tools.
    """
    found: dict[str, Tool] = {}
    for family in plugins.kinds("tools"):
        if family.startswith("_"):
            continue
        for tool in plugins.load("tools", family).tools(entities):
            found[tool.name] = tool
    return dict(sorted(found.items()))
