"""Tools that change what the server offers, as a changed config does: the suite calls them while it listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from headgate.access.view import View
from headgate.model.entity import Entity
from headgate.tools._offer import Offer
from headgate.tools._prompts import PromptInfo
from headgate.tools.base import Result, Tool, TypedTool
from tests.conformance.offer import OFFER, TestPrompt
from tests.conformance.tools import Nothing, tools

_ADDED = "test_zz_added"


class Changing:
    """An offer that becomes another one each time that one of its tools is called."""

    def __init__(self) -> None:
        self._has_more_tools = False
        self._has_more_prompts = False
        self.adopt: Callable[[Offer], None] = lambda offer: None
        """Has the server adopt another offer."""

    @property
    def offer(self) -> Offer:
        """What there is now."""
        added = TestPrompt(PromptInfo(name=_ADDED, title=_ADDED, description=_ADDED))
        prompts = [*OFFER.prompts, added] if self._has_more_prompts else OFFER.prompts
        return dataclasses.replace(OFFER, tools=self._tools, prompts=prompts)

    def _tools(self, entities: Mapping[str, Entity]) -> Mapping[str, Tool]:
        added = {"test_trigger_tool_change": self._change_tools, "test_trigger_prompt_change": self._change_prompts}
        if self._has_more_tools:
            added[_ADDED] = self._change_tools
        return dict(sorted({**tools(entities), **{name: _tool(name, act) for name, act in added.items()}}.items()))

    async def _change_tools(self, _: View, __: Nothing) -> Result:
        self._has_more_tools = not self._has_more_tools
        self.adopt(self.offer)
        return Result(structured={}, text="The tools have changed.")

    async def _change_prompts(self, _: View, __: Nothing) -> Result:
        self._has_more_prompts = not self._has_more_prompts
        self.adopt(self.offer)
        return Result(structured={}, text="The prompts have changed.")


def _tool(name: str, act: Callable[[View, Nothing], Awaitable[Result]]) -> Tool:
    return TypedTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=Nothing,
        output_schema={"type": "object"}, answer=act,
    )  # fmt: skip
