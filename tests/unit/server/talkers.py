"""Tools that talk with their client, and a house that offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headgate.access.view import View
from headgate.model.entity import Entity
from headgate.tools._arguments import Arguments
from headgate.tools._client import Client, elicitation
from headgate.tools._offer import Offer
from headgate.tools.base import Annotations, Result, TalkingTool, Tool
from tests.unit.server.house import House

NAME = {"type": "object", "properties": {"name": {"type": "string"}}}


class Given(Arguments):
    """Whatever is asked with."""

    about: str = ""


@dataclass
class Talkers:
    """The tools, and what they have gone through."""

    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """A call of `wait` is under way."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """It was cancelled."""
    done: list[Any] = field(default_factory=list)
    """What `change` did, and for whom."""

    def house(self, house: House) -> House:
        """The same house with these tools alone."""
        return replace(house, rooms=replace(house.rooms, offer=Offer(tools=self.tools)))

    def tools(self, _: Mapping[str, Entity]) -> dict[str, Tool]:
        """The tools by name, whatever the entities."""
        every = [_tool("ask", self._ask), _tool("change", self._change, False), _tool("tell", self._tell)]
        return {tool.name: tool for tool in [*every, _tool("wait", self._wait)]}

    async def _ask(self, _: View, given: Given, client: Client) -> Result:
        if "who" not in client.answers:
            await client.ask({"who": elicitation("Who?", NAME)}, keep={"about": given.about})
        return Result(structured={"kept": client.kept}, text=f"{client.answers['who']['content']['name']}")

    async def _change(self, view: View, given: Given, client: Client) -> Result:
        if "who" not in client.answers:
            await client.ask({"who": elicitation("Who?", NAME)})
        self.done.append(client.answers["who"]["content"]["name"])
        return Result(structured={}, text="changed")

    async def _tell(self, _: View, __: Given, client: Client) -> Result:
        await client.progress(1, 2, "half")
        await client.notice("debug", "small")
        await client.notice("warning", {"large": True})
        await client.progress(2, 2)
        return Result(structured={}, text="told")

    async def _wait(self, _: View, __: Given, client: Client) -> Result:
        await client.progress(0, None, "begun")
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        raise AssertionError("nothing ends it but its client")


def _tool(name: str, answer: Any, read_only: bool = True) -> Tool:
    return TalkingTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=Given, output_schema={"type": "object"},
        answer=answer, annotations=Annotations(read_only=read_only, idempotent=read_only),
    )  # fmt: skip
