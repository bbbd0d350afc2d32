"""The peer of cold_start.py: the least MCP server that the official SDK makes, with one echo tool."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

ECHO = types.Tool(name="echo", input_schema={"type": "object"})


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    """The one tool."""
    return types.ListToolsResult(tools=[ECHO])


async def main() -> None:
    """Serves on standard input and output."""
    server: Server[Any] = Server("echo", on_list_tools=list_tools)
    async with stdio_server() as (requests, answers):
        await server.run(requests, answers, server.create_initialization_options())


asyncio.run(main())
