"""Requests to the HTTP door of a house of tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from headgate.server.http import Door, HttpSettings
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House

VERSION = "2026-07-28"
OLD = "2025-11-25"
JSON_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@asynccontextmanager
async def visit(house: House, settings: HttpSettings | None = None, peer: str = "192.0.2.7") -> AsyncIterator[Any]:
    door = Door(house.rooms, settings or HttpSettings())
    transport = httpx.ASGITransport(door, client=(peer, 5_000))
    async with door.running(), httpx.AsyncClient(transport=transport, base_url="http://localhost:8765") as client:
        yield client


def modern(method: str, params: Mapping[str, Any] | None = None, *, rpc_id: Any = 1) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": {**(params or {}), "_meta": meta}}


def modern_headers(method: str, name: str = "", token: str | None = None) -> dict[str, str]:
    headers = {**JSON_HEADERS, "mcp-protocol-version": VERSION, "mcp-method": method}
    if name:
        headers["mcp-name"] = name
    return {**headers, **bearer(token)}


def bearer(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def call_of(name: str, arguments: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    """Arguments of `client.post` for a modern tool call."""
    body = modern("tools/call", {"name": name, "arguments": dict(arguments)})
    return {"json": body, "headers": modern_headers("tools/call", name, token)}


def legacy(method: str, params: Mapping[str, Any] | None = None, *, token: str, version: str = OLD) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params or {})}
    return {"json": body, "headers": {**JSON_HEADERS, "mcp-protocol-version": version, **bearer(token)}}


def said(response: httpx.Response) -> dict[str, Any]:
    """The JSON-RPC message of an answer, plain or as an event stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        data = [line for line in response.text.splitlines() if line.startswith("data: {")]
        message: dict[str, Any] = json.loads(data[-1].removeprefix("data: "))
        return message
    answer: dict[str, Any] = response.json()
    return answer


class Broken(MemoryReader):
    """A store whose driver fails, saying more than anyone outside may hear."""

    def __init__(self, failure: Exception) -> None:
        super().__init__([CUSTOMER], {CUSTOMER.name: ROWS}, as_of_ms=NOW_MS)
        self.failure = failure

    async def get(self, entity: str, keys: Any) -> Any:
        raise self.failure

    async def watermark(self, entity: str) -> Any:
        raise self.failure
