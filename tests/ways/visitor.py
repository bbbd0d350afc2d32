"""A client of 2026-07-28 by the wire, for any method."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from tests.ways.asking import VERSION, message_of

META = "io.modelcontextprotocol/"
CAPABILITIES: dict[str, Any] = {"elicitation": {}, "extensions": {f"{META}tasks": {}}}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri",
         "tasks/get": "taskId", "tasks/cancel": "taskId", "tasks/update": "taskId"}  # fmt: skip


class Visitor:
    """A client of the proxy, by the wire."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = url
        self._client = client

    def request(self, method: str, params: Mapping[str, Any], **meta: Any) -> dict[str, Any]:
        """Arguments of a POST by 2026-07-28."""
        said = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": CAPABILITIES, **meta}
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION,
                   "Mcp-Method": method}  # fmt: skip
        if method in NAMED:
            headers["Mcp-Name"] = params[NAMED[method]]
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": said}}
        return {"json": body, "headers": headers}

    def ask(self, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
        """The result; an error fails the test."""
        message = message_of(self._client.post(self.url, **self.request(method, params or {}, **meta)))
        assert "result" in message, message
        found: dict[str, Any] = message["result"]
        return found

    def call(self, tool: str, arguments: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """The result of a tool."""
        return self.ask("tools/call", {"name": tool, "arguments": arguments, **more})

    def ask_old(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The same by a revision before."""
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        message = message_of(self._client.post(self.url, json=body, headers=headers))
        assert "result" in message, message
        found: dict[str, Any] = message["result"]
        return found

    @contextlib.contextmanager
    def stream(self, method: str, params: Mapping[str, Any], **meta: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages of a stream as they come."""
        with self._client.stream("POST", self.url, **self.request(method, params, **meta)) as answer:
            assert answer.status_code == 200, answer.read()
            yield (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
