"""The HTTP door against a table of bad requests over a real socket: each refused clearly, and leaking nothing."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.ways.clients.process import DEADLINE_S, Gate, bodies_in, counted_in, events_in

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
LOOKUP = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "lookup_customer", "arguments": {"customer_id": 4}, "_meta": META},
}
SECRETS = ("c4@shop.example", "Traceback", "/work", ".db", "dev-token.secret", "uvicorn")
"""What no refusal may hold: data, and how the server is made."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Request(NamedTuple):
    """A request as it goes over the wire: nothing is added or put right."""

    headers: tuple[tuple[str, str], ...]
    body: bytes = json.dumps(LOOKUP).encode()
    method: str = "POST"
    target: str = "/mcp"

    def with_headers(self, *headers: tuple[str, str]) -> Request:
        """The same with these headers in place of those of the same names."""
        names = {name for name, _ in headers}
        return self._replace(headers=(*(pair for pair in self.headers if pair[0] not in names), *headers))

    def without(self, *names: str) -> Request:
        """The same without these headers."""
        return self._replace(headers=tuple(pair for pair in self.headers if pair[0] not in names))


def good(gate: Gate, token: str = "data") -> Request:
    """A request that is answered."""
    return Request(
        (
            ("Host", gate.url.split("/")[2]),
            ("Authorization", f"Bearer {gate.tokens[token]}"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("MCP-Protocol-Version", VERSION),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "lookup_customer"),
        )
    )


def send(gate: Gate, request: Request, *, declared: int | None = None) -> Answer:
    """What the server says to it, on a connection of its own."""
    host, port = gate.url.split("/")[2].split(":")
    length = len(request.body) if declared is None else declared
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
    head = "\r\n".join([*lines, f"Content-Length: {length}", "Connection: close", "", ""])
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode("latin-1") + request.body)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    start, _, body = received.partition(b"\r\n\r\n")
    status_line, *headers = start.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in headers)
    return Answer(int(status_line.split()[1]), {name.lower(): value for name, _, value in pairs}, body.decode())


def forged(token: str) -> str:
    """The token with more scopes and the old signature."""
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return ".".join([head, encoded({**claims, "scope": "admin"}), signature])


def unsigned(token: str) -> str:
    """The token without a signature, as `alg: none` would have it."""
    return ".".join([encoded({"alg": "none", "typ": "JWT"}), token.split(".")[1], ""])


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    opened = Gate(tmp_path_factory.mktemp("door"), "http")
    try:
        yield opened
    finally:
        assert opened.close() == 0


def check_harmless(gate: Gate, answer: Answer) -> None:
    """Nothing leaked, and the next one is served."""
    said = answer.body + json.dumps(answer.headers)
    assert not [secret for secret in (*SECRETS, *gate.tokens.values()) if secret in said]
    served = send(gate, good(gate))
    assert served.status == 200
    assert "c4@shop.example" in served.body


# --- strangers: counted, and told no more than where to get a credential --------------------------


def test_a_stranger_gets_no_further_than_the_question_who_it_is(tmp_path: Path) -> None:
    gate = Gate(tmp_path, "http")
    request, token = good(gate), gate.tokens["data"]
    strangers = {
        "missing": request.without("Authorization"),
        "expired": request.with_headers(bearer(gate.tokens["expired"])),
        "bad_signature": request.with_headers(bearer(forged(token))),
        "wrong_audience": request.with_headers(bearer(gate.tokens["elsewhere"])),
        "malformed": request.with_headers(bearer("nonsense")),
        "in_query": request.without("Authorization")._replace(target=f"/mcp?access_token={token}"),
        "unknown_key": request.with_headers(bearer("hg_000000000000_" + "A" * 43)),
    }
    answers = {reason: send(gate, stranger) for reason, stranger in strangers.items()}
    none = send(gate, request.with_headers(bearer(unsigned(token))))
    basic = send(gate, request.with_headers(("Authorization", "Basic YWRhOmFkYQ==")))
    assert gate.close() == 0
    for reason, answer in {**answers, "none": none, "basic": basic}.items():
        assert answer.status == 401, reason
        challenge = answer.headers["www-authenticate"]
        assert 'resource_metadata="http://127.0.0.1:' in challenge
        given = reason not in ("missing", "in_query")
        assert ('error="invalid_token"' in challenge) is given
        assert answer.error["data"] == {"code": "unauthenticated", "request_id": answer.headers["x-request-id"]}
        assert not [secret for secret in (*SECRETS, *gate.tokens.values()) if secret in answer.body]
    assert events_in(tmp_path) == []
    counted = counted_in(tmp_path)
    assert sum(counted.values()) == len(strangers) + 2
    assert set(strangers) <= set(counted)
    assert not [body for body in bodies_in(tmp_path) if any(t.encode() in body for t in gate.tokens.values())]


def test_a_stranger_is_refused_before_its_body_is_read(gate: Gate) -> None:
    request = good(gate).without("Authorization")._replace(body=b"{")
    answer = send(gate, request, declared=4_000_000)
    assert answer.status == 401


STRANGE_PLACES = [
    (("Host", "evil.example"), 421),
    (("Host", "127.0.0.1.evil.example:8765"), 421),
    (("Origin", "https://evil.example"), 403),
    (("Origin", "null"), 403),
]


@pytest.mark.parametrize(("header", "status"), STRANGE_PLACES)
def test_another_host_or_origin_is_refused_even_with_a_good_token(
    gate: Gate, header: tuple[str, str], status: int
) -> None:
    answer = send(gate, good(gate).with_headers(header))
    assert (answer.status, answer.error["data"]["code"]) == (status, "origin_refused")
    assert "evil" not in answer.body + json.dumps(answer.headers)
    check_harmless(gate, answer)


def test_a_page_of_this_machine_may_call(gate: Gate) -> None:
    assert send(gate, good(gate).with_headers(("Origin", "http://localhost:6274"))).status == 200


# --- known callers: each refusal is an event -------------------------------------------------------


def message(**changes: Any) -> bytes:
    return json.dumps({**LOOKUP, **changes}).encode()


class Case(NamedTuple):
    """What is wrong with a request of a known caller, and what it is told."""

    name: str
    status: int
    code: int
    says: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()
    token: str = "data"


CASES = [
    Case("no JSON", 400, -32700, "not JSON", body=b'{"jsonrpc":'),
    Case("an empty body", 400, -32700, "not JSON", body=b""),
    Case("too deep", 400, -32700, "not JSON", body=b'{"jsonrpc":"2.0","method":"x","params":' + b'{"a":' * 90_000),
    Case("no UTF-8", 400, -32700, "not JSON", body=b'{"jsonrpc":"2.0","id":1,"method":"\xff"}'),
    Case("a batch", 400, -32600, "Batches", body=b"[" + json.dumps(LOOKUP).encode() + b"]"),
    Case("no object", 400, -32600, "object", body=b'"tools/call"'),
    Case("a response", 400, -32600, "responses", body=b'{"jsonrpc":"2.0","id":1,"result":{}}'),
    Case("another version of JSON-RPC", 400, -32600, "jsonrpc", body=message(jsonrpc="1.0")),
    Case("an id that is none", 400, -32600, "id", body=message(id={"a": 1})),
    Case("params that are none", 400, -32600, "params", body=message(params=[1])),
    Case("another type", 415, -32600, "application/json", headers=(("Content-Type", "text/plain"),)),
    Case("no type", 415, -32600, "application/json", without=("Content-Type",)),
    Case("an answer that can't be taken", 406, -32600, "Accept", headers=(("Accept", "text/html"),)),
    Case("no version in the header", 400, -32020, "MCP-Protocol-Version", without=("MCP-Protocol-Version",)),
    Case("an older header", 400, -32020, "MCP-Protocol-Version", headers=(("MCP-Protocol-Version", "2025-11-25"),)),
    Case("another method in the header", 400, -32020, "mcp-method", headers=(("Mcp-Method", "tools/list"),)),
    Case("another tool in the header", 400, -32020, "mcp-name", headers=(("Mcp-Name", "find"),)),
    Case("no tool in the header", 400, -32020, "mcp-name", without=("Mcp-Name",)),
    Case(
        "an unknown revision", 400, -32022, "Unsupported", headers=(("MCP-Protocol-Version", "2031-01-01"),),
        body=message(params={"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "2031-01-01"}}),
    ),
    Case("no such method", 404, -32601, "Method", headers=(("Mcp-Method", "no/such"),), body=message(method="no/such")),
    Case(
        "arguments that are no object", 400, -32602, "parameters",
        body=message(params={"name": "lookup_customer", "arguments": [4], "_meta": META}),
    ),
    Case(
        "no such tool", 400, -32602, "tool", headers=(("Mcp-Name", "drop_table"),),
        body=message(params={"name": "drop_table", "arguments": {}, "_meta": META}),
    ),
    Case("too few scopes", 403, -32600, "data:read", token="pipelines"),
    Case("no scopes", 403, -32600, "data:read", token="nothing"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_request_is_refused_clearly_and_recorded(gate: Gate, case: Case) -> None:
    before = len(events_in(gate.folder))
    request = good(gate, case.token).with_headers(*case.headers).without(*case.without)
    answer = send(gate, request._replace(body=request.body if case.body is None else case.body))
    recorded = events_in(gate.folder)[before:]
    assert (answer.status, answer.error["code"]) == (case.status, case.code)
    assert case.says in answer.error["message"]
    assert [event.status for event in recorded] == ["refused"]
    assert recorded[0].error_code in ("invalid_request", "unknown_tool", "insufficient_scope")
    assert recorded[0].caller is not None
    check_harmless(gate, answer)


def test_an_under_scoped_call_is_told_the_scopes_to_ask_for(gate: Gate) -> None:
    challenge = send(gate, good(gate, "pipelines")).headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="data:read"' in challenge


@pytest.mark.parametrize(
    "name", ["Host", "Authorization", "Origin", "Content-Type", "MCP-Protocol-Version", "Mcp-Name"]
)
def test_a_header_that_decides_is_taken_once(gate: Gate, name: str) -> None:
    request = good(gate)
    value = dict(request.headers).get(name, "http://localhost")
    twice = request.without(name)
    answer = send(gate, twice._replace(headers=(*twice.headers, (name, value), (name, value))))
    assert answer.status == 400
    check_harmless(gate, answer)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_not_read_to_its_end(gate: Gate, declared: bool) -> None:
    request = good(gate)
    if declared:
        answer = send(gate, request._replace(body=b""), declared=50_000_000)
    else:
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        answer = send_chunks(gate, request, [chunk] * 5)
    assert answer.status == 413
    check_harmless(gate, answer)


def send_chunks(gate: Gate, request: Request, chunks: list[bytes]) -> Answer:
    """Sends a body of no declared size. Its end never comes: the server must not wait for it."""
    host, port = gate.url.split("/")[2].split(":")
    lines = [f"POST {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(head + b"".join(chunks))
        received = connection.recv(65_536)
    return Answer(int(received.split()[1]), {}, "")


def test_bytes_that_are_no_http_do_no_harm(gate: Gate) -> None:
    host, port = gate.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00 not http at all\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b"Traceback" not in received
    assert send(gate, good(gate)).status == 200


def test_blanks_after_a_header_do_no_harm(gate: Gate) -> None:
    request = good(gate).with_headers(("Mcp-Method", "tools/call  \t"), ("MCP-Protocol-Version", f"{VERSION} "))
    assert send(gate, request).status == 200


def test_a_server_says_nothing_of_what_it_is_made_of(gate: Gate) -> None:
    assert "server" not in send(gate, good(gate)).headers
