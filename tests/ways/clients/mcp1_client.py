"""The official Python client of the 1.x line, run by a Python that has it: prints what came back as JSON.

python mcp1_client.py http|sse URL [TOKEN]
python mcp1_client.py stdio COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any

mcp: Any = importlib.import_module("mcp")
types: Any = importlib.import_module("mcp.types")
sse: Any = importlib.import_module("mcp.client.sse")
http: Any = importlib.import_module("mcp.client.streamable_http")
httpx: Any = importlib.import_module("httpx")


async def main(transport: str, target: str, *rest: str) -> None:
    """Lists and calls the tools."""
    if transport == "stdio":
        parameters = mcp.StdioServerParameters(command=target, args=list(rest), env=dict(os.environ))
        async with mcp.stdio_client(parameters) as (read, write):
            await use(read, write)
        return
    headers = {"Authorization": f"Bearer {rest[0]}"} if rest else {}
    if transport == "sse":
        async with sse.sse_client(target, headers=headers) as (read, write):
            await use(read, write)
        return
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as client,
        http.streamable_http_client(target, http_client=client) as (read, write, _),
    ):
        await use(read, write)


async def use(read: Any, write: Any) -> None:
    """What a host does with a server."""
    async with mcp.ClientSession(read, write) as session:
        hello = await session.initialize()
        tools = (await session.list_tools()).tools
        row = await session.call_tool("lookup_customer", {"customer_id": 4})
        mistake = await session.call_tool("lookup", {"entity": "nothing", "key": 1})
        resources = (await session.list_resources()).resources
        text = await session.read_resource(resources[0].uri)
        prompts = (await session.list_prompts()).prompts
        prompt = await session.get_prompt("explain_freshness", {"entity": "customer"})
        reference = types.PromptReference(type="ref/prompt", name="explain_freshness")
        completed = await session.complete(reference, {"name": "entity", "value": "cu"})
        try:
            await session.call_tool("no_such_tool", {})
            unknown = None
        except mcp.McpError as error:
            unknown = error.error.code
    found = {
        "tools": [tool.name for tool in tools],
        "rows": row.structuredContent["rows"],
        "freshness": row.meta["headgate/freshness"],
        "mistake": {"isError": mistake.isError, "text": mistake.content[0].text},
        "text": text.contents[0].text,
        "prompts": [each.name for each in prompts],
        "prompt": prompt.messages[0].content.text,
        "completed": completed.completion.values,
        "unknown": unknown,
        "server": hello.serverInfo.name,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
