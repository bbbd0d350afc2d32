"""What each of MCP's methods does with a call that was admitted: the act that the page runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mcp_types as types

from headgate.errors import InvalidArguments, UnknownResource, UnknownTool
from headgate.model.position import Freshness, Watermark
from headgate.server.call import Call
from headgate.server.client import Context, client_of
from headgate.tools._arguments import shown
from headgate.tools._client import Client
from headgate.tools._completions import Begun, Completion, complete
from headgate.tools._prompts import Prompt, PromptAnswer, PromptInfo, offered, prompt_of
from headgate.tools._resources import ResourceContents, ResourceInfo, TemplateInfo, read_resource, resources, templates
from headgate.tools.base import Result, Talking, Tool


async def list_tools(call: Call, version: str) -> bytes:
    """The tools that the grant allows, encoded for clients of that revision."""
    toolbox = call.rooms.toolbox
    return await toolbox.lists.encoded(tuple((await toolbox.allowed(call.granted)).values()), version)


async def call_tool(call: Call, context: Context) -> Result:
    """The tool's answer to the client of the request."""
    return await answer_of_tool(call, await client_of(call, context))


async def answer_of_tool(call: Call, client: Client) -> Result:
    """The tool's answer to this client."""
    tool = call.tool
    if tool is None:
        raise UnknownTool("There is no such tool: tools/list names the ones there are.")
    if isinstance(tool, Talking):
        return await tool.talk(call.view(), call.asked.arguments, client)
    return await tool.run(call.view(), call.asked.arguments)


async def list_resources(call: Call) -> Sequence[ResourceInfo]:
    """The resources that the grant allows."""
    return [each for each in resources(call.rooms.offer.shelves) if call.granted.allows(*each.scopes)]


async def list_templates(call: Call) -> Sequence[TemplateInfo]:
    """The forms of resources that the grant allows."""
    return [each for each in templates(call.rooms.offer.shelves) if call.granted.allows(*each.scopes)]


async def read(call: Call) -> ResourceContents:
    """What the resource holds."""
    return await read_resource(call.view(), call.asked.name, call.rooms.offer.shelves)


async def check_resource(call: Call) -> None:
    """UnknownResource when there is none such that an older client could hear of."""
    if not any(shelf.holds(call.asked.name) for shelf in call.rooms.offer.shelves):
        raise UnknownResource(f"There is no resource {shown(call.asked.name)}.", uri=call.asked.name)


async def list_prompts(call: Call) -> Sequence[PromptInfo]:
    """The prompts all of whose tools the grant allows."""
    return [prompt.info for prompt in await _prompts(call)]


async def get_prompt(call: Call, context: Context) -> PromptAnswer:
    """What the prompt says for these arguments."""
    allowed = await call.rooms.toolbox.allowed(call.granted)
    prompt = prompt_of(call.asked.name, offered(call.rooms.offer.prompts, allowed))
    client = await client_of(call, context)
    given = {name: value for name, value in call.asked.arguments.items() if isinstance(value, str)}
    return await prompt.get(_Desk(call, {name: allowed[name] for name in prompt.info.tools}), given, client)


async def completion(call: Call, params: types.CompleteRequestParams) -> Completion:
    """How what was begun may go on."""
    is_prompt = isinstance(params.ref, types.PromptReference)
    begun = Begun(
        prompt=call.asked.name if is_prompt else "",
        template="" if is_prompt else call.asked.name,
        argument=params.argument.name,
        value=params.argument.value,
        given=(params.context.arguments if params.context else None) or {},
    )
    view_of = partial(call.rooms.view_for, call.granted)
    return await complete(view_of, begun, await _prompts(call), call.rooms.offer.shelves)


def check_page(params: types.PaginatedRequestParams | None) -> None:
    """InvalidArguments for a cursor: every list is one page, so that none was given out."""
    if params is not None and params.cursor is not None:
        raise InvalidArguments("There is no such page: this list comes whole, without a cursor.")


async def _prompts(call: Call) -> Sequence[Prompt]:
    return offered(call.rooms.offer.prompts, await call.rooms.toolbox.allowed(call.granted))


class _Desk:
    """The tools that a prompt names, on the caller's own view. All they are asked for is one call, paid once."""

    def __init__(self, call: Call, tools: Mapping[str, Tool]) -> None:
        self._call = call
        self._tools = tools

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Result:
        return await self._tools[tool].run(self._call.rooms.view_for(self._call.granted, tool), arguments)

    async def freshness(self, watermarks: Sequence[Watermark]) -> Freshness:
        return await self._call.view().freshness(watermarks)
