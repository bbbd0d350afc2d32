"""The tools that the suite's scenarios of the Tasks extension ask for by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from headgate.access.view import View
from headgate.errors import InvalidArguments
from headgate.tools._arguments import Arguments
from headgate.tools._client import Client, elicitation
from headgate.tools.base import READ_ONLY, Annotations, Result, TalkingTool, TaskUse, Tool

_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_YES = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
_CHANGES = Annotations(read_only=False, destructive=True, idempotent=False)


class Greeted(Arguments):
    """Who is greeted."""

    name: str = "World"


class Computed(Arguments):
    """How long something takes."""

    seconds: float = 1
    label: str = ""


class Deleted(Arguments):
    """What goes."""

    filename: str = "file.txt"


class Nothing(Arguments):
    """What takes nothing."""


async def _greet(_: View, given: Greeted, __: Client) -> Result:
    return _said(f"Hello, {given.name}!")


async def _compute(_: View, given: Computed, client: Client) -> Result:
    await client.progress(0, given.seconds, f"Computing for {given.seconds:g} s")
    await asyncio.sleep(given.seconds)
    return _said(f"Computed {given.label!r} for {given.seconds:g} s")


async def _fail(_: View, __: Nothing, ___: Client) -> Result:
    raise InvalidArguments("This job fails, as it is to.")


async def _break(_: View, __: Nothing, ___: Client) -> Result:
    raise RuntimeError("this job breaks, as it is to")


async def _confirm(_: View, given: Deleted, client: Client) -> Result:
    if "sure" not in client.answers:
        await client.ask({"sure": elicitation(f"Delete {given.filename}?", _YES)})
    return _said(f"Deleted {given.filename}")


async def _several(_: View, __: Nothing, client: Client) -> Result:
    if len(client.answers) < 2:
        await client.ask({"first": elicitation("First name?", _NAME), "last": elicitation("Last name?", _NAME)})
    return _said("Both were given")


async def _asks_then_takes_long(_: View, __: Nothing, client: Client) -> Result:
    if "user_name" not in client.answers:
        await client.ask({"user_name": elicitation("What is your name?", _NAME)})
    await asyncio.sleep(1)
    return _said(f"Done for {client.answers['user_name']['content']['name']}")


def _said(text: str) -> Result:
    return Result(structured={}, text=text)


def _tool(
    name: str, arguments: type[Arguments], answer: Callable[[View, Any, Client], Awaitable[Result]],
    task: TaskUse = "never", annotations: Annotations = READ_ONLY,
) -> Tool:  # fmt: skip
    return TalkingTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=arguments,
        output_schema={"type": "object"}, answer=answer, task=task, annotations=annotations,
    )  # fmt: skip


LONG: Sequence[Tool] = (
    _tool("greet", Greeted, _greet),
    _tool("slow_compute", Computed, _compute, "optional"),
    _tool("failing_job", Nothing, _fail, "required"),
    _tool("protocol_error_job", Nothing, _break, "required"),
    _tool("confirm_delete", Deleted, _confirm, "required", _CHANGES),
    _tool("multi_input", Nothing, _several, "required"),
    _tool("test_tool_with_task", Nothing, _asks_then_takes_long, "optional"),
)
