"""What a door makes of one body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.errors import InvalidRequest
from headgate.server.message import INVALID_REQUEST, PARSE_ERROR, asked_of, parse


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", PARSE_ERROR, "not JSON"),
        (b"{", PARSE_ERROR, "not JSON"),
        (b"\xff\xfe{}", PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","method":"ping","id":NaN}', PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, PARSE_ERROR, "not JSON"),
        (b"[]", INVALID_REQUEST, "Batches"),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', INVALID_REQUEST, "Batches"),
        (b"3", INVALID_REQUEST, "an object"),
        (b"null", INVALID_REQUEST, "an object"),
        (b"{}", INVALID_REQUEST, "jsonrpc"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', INVALID_REQUEST, "jsonrpc"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', INVALID_REQUEST, "no JSON-RPC responses"),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST, "method"),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST, "id"),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST, "id"),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST, "id"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', INVALID_REQUEST, "params"),
    ],
)
def test_a_body_that_is_no_message_is_refused_with_its_code_and_what_is_wrong(
    body: bytes, code: int, says: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(body)
    assert refused.value.details["jsonrpc_code"] == code
    assert says in refused.value.message


def test_a_message_without_id_is_a_notification() -> None:
    assert parse(b'{"jsonrpc":"2.0","method":"notifications/initialized"}').rpc_id is None
    assert parse(b'{"jsonrpc":"2.0","method":"ping","id":0}').rpc_id == 0


def asked(method: str, params: dict[str, Any], **known: str) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": "a", "method": method, "params": params})
    return asked_of(parse(body.encode()), **known)


def test_a_modern_call_says_all_of_itself() -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "3"},
        "traceparent": "00-1-2-01",
    }
    call = asked("tools/call", {"name": "lookup", "arguments": {"key": 7}, "_meta": meta}, traceparent="other")
    assert (call.method, call.name, call.arguments) == ("tools/call", "lookup", {"key": 7})
    assert (call.client_name, call.client_version) == ("probe", "3")
    assert (call.protocol_version, call.traceparent, call.rpc_id) == ("2026-07-28", "00-1-2-01", "a")


def test_an_older_call_is_known_by_what_the_door_knows() -> None:
    call = asked("resources/read", {"uri": "docs://x"}, protocol_version="2025-11-25", traceparent="00-1-2-01")
    assert (call.name, call.protocol_version, call.traceparent) == ("docs://x", "2025-11-25", "00-1-2-01")


def test_a_handshake_says_who_comes() -> None:
    call = asked("initialize", {"protocolVersion": "2025-06-18", "clientInfo": {"name": "old", "version": "1"}})
    assert (call.client_name, call.client_version, call.protocol_version) == ("old", "1", "2025-06-18")


def test_parts_of_other_types_count_as_absent() -> None:
    call = asked("tools/call", {"name": 5, "arguments": [1], "_meta": "x"})
    assert (call.name, call.arguments, call.protocol_version) == ("", {}, "")
