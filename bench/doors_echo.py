"""The servers that doors.py and listeners.py hold Headgate against: `python doors_echo.py KIND`. Prints its port.

All of them run on the same uvicorn, uvloop and httptools. `bare` is an ASGI handler that answers with the body
that it was sent: no server on uvicorn is faster. `sdk` is the official SDK's low-level server with one tool, `fastmcp`
FastMCP's; both are stateless and answer in JSON, as they are fastest. `bus` is the SDK's server with its own bus of
notices in memory, and a tool that tells it of resources.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop

App = Callable[[Any, Any, Any], Awaitable[None]]


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that it was sent."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def sdk() -> Any:
    """The SDK's."""
    import mcp_types as types
    from mcp.server.lowlevel import Server

    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="echo", input_schema=schema)])

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        text = (params.arguments or {})["text"]
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    server: Server[Any] = Server("echo", on_list_tools=list_tools, on_call_tool=call_tool)
    return server.streamable_http_app(json_response=True, stateless_http=True)


def bus() -> Any:
    """The SDK's, which tells its listeners what its tool is told."""
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated

    told = InMemorySubscriptionBus()
    schema = {"type": "object", "properties": {"uris": {"type": "array"}}, "required": ["uris"]}

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="tell", input_schema=schema)])

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        for uri in (params.arguments or {})["uris"]:
            await told.publish(ResourceUpdated(uri=uri))
        return types.CallToolResult(content=[types.TextContent(type="text", text="told")])

    listening: Any = ListenHandler(told, max_subscriptions=2_048)
    server: Server[Any] = Server(
        "bus", on_list_tools=list_tools, on_call_tool=call_tool, on_subscriptions_listen=listening
    )
    return server.streamable_http_app(stateless_http=True)


def fastmcp() -> Any:
    """FastMCP's, whose environment is its own."""
    library: Any = importlib.import_module("fastmcp")
    server = library.FastMCP("echo")

    def echo(text: str) -> str:
        return text

    server.tool(echo)
    return server.http_app(stateless_http=True, json_response=True)


def main(name: str) -> None:
    """Serves on a free port until it is killed."""
    app: App = bare if name == "bare" else {"sdk": sdk, "bus": bus, "fastmcp": fastmcp}[name]()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
    listener.setblocking(False)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off" if name == "bare" else "on",
        access_log=False,
        log_level="error",
        server_header=False,
    )
    print(listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(sys.argv[1])
