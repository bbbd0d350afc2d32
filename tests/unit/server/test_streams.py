"""A connection that carries messages both ways: what comes over it is recorded, whoever answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp.shared.message import SessionMessage

from tests.unit.server.house import House, open_house
from tests.unit.server.piped import pipe_into
from tests.unit.server.served import DEADLINE_S

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "old", "version": "9"}}
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "new", "version": "1"},
}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


async def asked(ends: Any, *messages: Any, answers: int) -> list[Any]:
    """What is answered to these messages."""
    read, write = ends
    for message in messages:
        await write.send(message if isinstance(message, Exception) else SessionMessage(message))
    async with asyncio.timeout(DEADLINE_S):
        return [(await read.receive()).message for _ in range(answers)]


def request(rpc_id: int, method: str, **params: Any) -> types.JSONRPCRequest:
    return types.JSONRPCRequest(jsonrpc="2.0", id=rpc_id, method=method, params=params)


async def test_the_handshake_a_ping_and_what_there_is_not_are_recorded(house: House) -> None:
    async with pipe_into(house) as ends:
        [hello] = await asked(ends, request(1, "initialize", **HELLO), answers=1)
        initialized = types.JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized")
        answers = await asked(ends, initialized, request(2, "ping"), answers=1)
        answers += await asked(ends, request(3, "no/such"), answers=1)
        answers += await asked(ends, request(4, "server/discover", _meta=MODERN), answers=1)
    assert hello.result["protocolVersion"] == "2025-06-18"
    assert not hello.result["capabilities"]["resources"]["subscribe"]
    assert (answers[0].result, answers[1].error.code, answers[2].error.code) == ({}, -32601, -32600)
    assert [(event.method, event.status, event.error_code) for event in house.events()] == [
        ("initialize", "answered", ""),
        ("notifications/initialized", "answered", ""),
        ("ping", "answered", ""),
        ("no/such", "refused", "invalid_request"),
        ("server/discover", "refused", "invalid_request"),
    ]
    assert {event.client_name for event in house.events()[:4]} == {"old"}
    assert {event.protocol_version for event in house.events()[:4]} == {"2025-06-18"}


async def test_what_is_no_message_is_answered_and_recorded(house: House) -> None:
    reply = types.JSONRPCResponse(jsonrpc="2.0", id=9, result={})
    async with pipe_into(house) as ends:
        [broken] = await asked(ends, ValueError("too secret"), answers=1)
        [hello] = await asked(ends, reply, request(1, "server/discover", _meta=MODERN), answers=1)
    assert (broken.id, broken.error.code) == (None, -32700)
    assert "too secret" not in broken.error.message
    assert hello.result["supportedVersions"] == ["2026-07-28"]
    assert [(event.method, event.status) for event in house.events()] == [
        ("", "refused"),
        ("", "refused"),
        ("server/discover", "answered"),
    ]


async def test_without_a_disk_for_events_nothing_is_answered(house: House) -> None:
    async with pipe_into(house) as ends:
        house.rooms.outbox.close()
        answers = await asked(ends, request(1, "initialize", **HELLO), answers=1)
    assert answers[0].error.data["code"] == "outbox_failed"


async def test_a_bad_key_is_refused_before_anything_is_done(house: House) -> None:
    meta = {**MODERN, "headgate/idempotency-key": ""}
    async with pipe_into(house) as ends:
        [refused] = await asked(ends, request(1, "tools/call", name="lookup", arguments={}, _meta=meta), answers=1)
    assert (refused.error.code, refused.error.data["request_id"]) == (-32600, house.events()[0].id)
    assert [(event.method, event.error_code) for event in house.events()] == [("", "invalid_request")]
