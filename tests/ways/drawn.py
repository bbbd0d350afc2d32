"""Requests of every shape, as Hypothesis draws them: from the schemas that a server lists, and what breaks servers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hypothesis import strategies as st

from tests.ways.asking import VERSION

META = "io.modelcontextprotocol/"
VERSIONS = [VERSION, "2025-11-25", "2025-06-18", "2024-11-05", "1999-01-01", ""]
METHODS = [
    "server/discover", "tools/list", "tools/call", "resources/list", "resources/read", "resources/templates/list",
    "prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "initialize", "ping",
    "notifications/initialized", "notifications/cancelled", "resources/subscribe", "resources/unsubscribe",
    "subscriptions/listen", "tasks/get", "tasks/cancel", "tasks/update",
]  # fmt: skip

PATHS = ["/mcp"] * 12 + ["/messages", "/messages?session_id=" + "0" * 32, "/sse", "/healthz", "/", "/mcp/", "/%2e"]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=20)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
odd_text = st.sampled_from(
    ["", "\x00", "\u202e", "\U0001f600", "a" * 5_000, "'; drop table x; --", "../../etc/passwd", "${HOME}", "<data>",
     "headgate://entity/customer/3", "headgate://entity/customer/%2F", "docs://troubleshooting", "customer", "shop"]
)  # fmt: skip


def of_schema(schema: Mapping[str, Any], root: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema takes, or nearly."""
    if "$ref" in schema:
        return of_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return st.one_of([of_schema(each, root) for each in schema[word]])
    match schema.get("type"):
        case "string":
            return odd_text | st.text(max_size=12)
        case "integer":
            return st.integers(schema.get("minimum", -3), schema.get("maximum", 2**40))
        case "number":
            return st.floats(-5, 5)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(of_schema(schema.get("items", {}), root), max_size=3)
        case "object" if schema.get("properties"):
            parts = {name: of_schema(part, root) for name, part in schema["properties"].items()}
            needed = {name: parts[name] for name in schema.get("required", ()) if name in parts}
            return st.fixed_dictionaries(
                needed, optional={name: part for name, part in parts.items() if name not in needed}
            )
    return anything


CAPABILITIES: list[dict[str, Any]] = [
    {}, {"extensions": {f"{META}tasks": {}}}, {"elicitation": {}, "extensions": {f"{META}tasks": {}}},
]  # fmt: skip
MORE_META: dict[Any, st.SearchStrategy[Any]] = {
    "progressToken": st.integers(0, 9) | scalars,
    "headgate/idempotency-key": st.sampled_from(["k-1", "k-2", "", "k" * 300]) | scalars,
    "headgate/task": odd_text,
    f"{META}related-task": st.fixed_dictionaries({"taskId": odd_text}) | anything,
    f"{META}logLevel": st.sampled_from(["debug", "error", "x"]),
    "traceparent": st.sampled_from(["00-" + "1" * 32 + "-" + "2" * 16 + "-01", "x"]) | scalars,
    "tracestate": odd_text,
}

ANYHOW, AGAIN = 20, 10
"""So many requests of a batch come as they like, and so many behind a call that goes straight."""
Way = Literal["behind", "torn", "split", "at once"]
"""How a request follows another one on its connection: once that is answered, begun with it, in pieces, or with it."""
WAYS: list[Way] = ["behind", "torn", "split", "at once"]


@dataclass(frozen=True)
class Request:
    """One request as bytes; with a `way`, for a connection on which a call has just gone straight."""

    data: bytes
    way: Way | None = None
    cuts: tuple[int, int] = (0, 0)
    """Where it is cut into pieces, in thousandths."""

    @property
    def verb(self) -> bytes:
        return self.data.partition(b" ")[0]

    def pieces(self) -> tuple[bytes, bytes, bytes]:
        """It, cut there."""
        first, second = (len(self.data) * cut // 1000 for cut in sorted(self.cuts))
        return self.data[:first], self.data[first:second], self.data[second:]


@st.composite
def requests(draw: st.DrawFn, tools: Sequence[Mapping[str, Any]], tokens: Sequence[str | None]) -> Request:
    """Any request: most of them nearly right, as those go deepest."""
    method = draw(st.sampled_from([*METHODS, "tools/call", "tools/call", "tools/call"]) | st.text(max_size=12))
    version = draw(st.sampled_from([VERSION] * 6 + VERSIONS))
    params = draw(parameters(method, tools))
    if isinstance(params, dict):
        meta = draw(metas(version))
        params = {**params, "_meta": draw(st.just(meta) | st.just(meta) | st.just(meta) | anything)}
    message = {"jsonrpc": "2.0", "id": draw(st.integers(0, 9) | scalars), "method": method, "params": params}
    for name in draw(st.sets(st.sampled_from(["jsonrpc", "id", "method", "params"]), max_size=1)):
        if draw(st.booleans()):
            del message[name]
    body = json.dumps(draw(st.just(message) | st.just(message) | st.just(message) | anything)).encode()
    body = draw(st.just(body) | st.just(body) | st.just(body) | torn(body))
    return Request(draw(framed(method, version, params, body, tokens)))


@st.composite
def metas(draw: st.DrawFn, version: str) -> dict[str, Any]:
    """What `_meta` must hold, and often more that does something."""
    capabilities = draw(st.sampled_from(CAPABILITIES) | anything)
    more = draw(st.just({}) | st.fixed_dictionaries({}, optional=MORE_META))
    return {f"{META}protocolVersion": version, f"{META}clientCapabilities": capabilities, **more}


def parameters(method: str, tools: Sequence[Mapping[str, Any]]) -> st.SearchStrategy[Any]:
    """Parameters of a method, or anything."""
    if method == "tools/call":
        return st.one_of([called(tool) for tool in tools] + [anything])
    if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
        return st.fixed_dictionaries({"uri": odd_text})
    if method == "subscriptions/listen":
        asked = {"resourceSubscriptions": st.lists(odd_text, max_size=3), "toolsListChanged": st.booleans(),
                 "taskIds": st.lists(odd_text, max_size=2)}  # fmt: skip
        return st.fixed_dictionaries({"notifications": st.fixed_dictionaries({}, optional=asked) | anything})
    if method == "prompts/get":
        named = st.sampled_from(["diagnose_pipeline", "investigate_entity", "explain_freshness", "x"])
        return st.fixed_dictionaries({"name": named, "arguments": anything})
    return st.just({}) | st.just({}) | anything


def called(tool: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """A call of the tool. One that waits, waits shortly."""

    def short(arguments: Any) -> Any:
        waits = tool["name"].startswith("wait_") and isinstance(arguments, dict)
        return {**arguments, "timeout_s": 0.01} if waits else arguments

    given_ = (of_schema(tool["inputSchema"], tool["inputSchema"]) | anything).map(short)
    return st.fixed_dictionaries({"name": st.just(tool["name"]), "arguments": given_})


def torn(body: bytes) -> st.SearchStrategy[bytes]:
    """A body with something wrong in it."""
    return st.one_of(
        st.integers(0, len(body)).map(lambda end: body[:end]),
        st.binary(max_size=30),
        st.just(body + body),
        st.just(b"[" + body + b"]"),
        st.just(b"[" * 20_000),
        st.just(body.replace(b'"method"', b'"method":"ping","method"', 1)),
        st.just(b"\xef\xbb\xbf" + body),
        st.just(body.decode().encode("utf-16")),
    )


@st.composite
def framed(draw: st.DrawFn, method: str, version: str, params: Any, body: bytes, tokens: Sequence[str | None]) -> bytes:
    """The request's bytes."""
    verb = draw(st.sampled_from(["POST"] * 12 + ["GET", "DELETE", "OPTIONS", "PUT", "HEAD", "BREW"]))
    path = draw(st.sampled_from(PATHS))
    if path == "/sse":
        verb = draw(st.sampled_from(["GET", "POST"]))
    headers = [
        ("host", draw(st.sampled_from(["localhost"] * 12 + ["evil.example", "localhost:1", ""]))),
        ("content-length", str(len(body))),
        ("content-type", draw(st.sampled_from(["application/json"] * 9 + ["text/plain", "application/json;a=b"]))),
        ("accept", draw(st.sampled_from(["application/json, text/event-stream"] * 9 + ["*/*", "text/html", ""]))),
        ("mcp-protocol-version", draw(st.sampled_from([version] * 9 + VERSIONS))),
        ("mcp-method", draw(st.just(_plain(method)) | st.just(_plain(method)) | st.sampled_from(METHODS))),
    ]  # fmt: skip
    name = (params.get("name") or params.get("uri")) if isinstance(params, dict) else None
    if isinstance(name, str):
        headers.append(("mcp-name", _plain(name)))
    bearer = draw(st.sampled_from(tokens))
    if bearer is not None:
        headers.append(("authorization", f"Bearer {bearer}"))
    headers += draw(st.lists(st.sampled_from(EXTRA), max_size=2))
    head = f"{verb} {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers) + "\r\n"
    return head.encode("latin-1", "replace") + body


# --- who comes again ---------------------------------------------------------------------------------


def lookup(bearer: str, id_: int, arguments: Any, meta: Mapping[str, Any] | None = None) -> bytes:
    """The call that goes straight: but for arguments and id always the same."""
    said = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}, **(meta or {})}
    params = {"name": "lookup_customer", "arguments": arguments, "_meta": said}
    body = json.dumps({"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}).encode()
    head = (
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\ncontent-type: application/json\r\n"
        "accept: application/json, text/event-stream\r\nmcp-protocol-version: {}\r\nmcp-method: tools/call\r\n"
        "mcp-name: lookup_customer\r\nauthorization: Bearer {}\r\n\r\n"
    )
    return head.format(len(body), VERSION, bearer).encode() + body


@st.composite
def returning(draw: st.DrawFn, bearer: str) -> Request:
    """A request whose caller has just gone straight: the same again, but for something in its head or its body."""
    arguments = st.fixed_dictionaries({"customer_id": st.integers(-1, 30)}) | anything
    meta = draw(st.just({}) | st.just({}) | st.fixed_dictionaries({}, optional=MORE_META))
    head, _, body = lookup(bearer, draw(st.integers(-1, 9)), draw(arguments), meta).partition(b"\r\n\r\n")
    match draw(st.sampled_from(["as it is", "a byte of the body", "a torn body", "a byte of the head", "more head"])):
        case "a byte of the body":
            body = draw(flipped(body, range(256)))
        case "a torn body":
            body = draw(torn(body))
        case "a byte of the head":
            start, stop = _LENGTH.search(head).span()  # type: ignore[union-attr]
            odd = [*range(32, 127), 0, 9, 127, 255]
            head = draw(flipped(head[:start], odd)) + head[start:stop] + draw(flipped(head[stop:], odd))
        case "more head":
            name, value = draw(st.sampled_from(EXTRA))
            head += f"\r\n{name}: {value}".encode("latin-1")
    cuts = st.integers(0, 1000)
    whole = _sized(head, body)
    return Request(whole, draw(st.sampled_from(WAYS)), (draw(cuts), draw(cuts)))


def flipped(data: bytes, values: Sequence[int]) -> st.SearchStrategy[bytes]:
    """The same with one byte that is another, but for the ends of lines."""
    places = [place for place, byte in enumerate(data) if byte not in b"\r\n"]

    def flip(place: int, value: int) -> bytes:
        return data[:place] + bytes([value]) + data[place + 1 :]

    return st.builds(flip, st.sampled_from(places), st.sampled_from(values))


class Batch(list[Request]):
    """Requests that are drawn together. What a failure shows of them is the one that failed."""

    def __repr__(self) -> str:
        return f"{len(self)} requests"


@st.composite
def batches(draw: st.DrawFn, anyhow: st.SearchStrategy[Request], again: st.SearchStrategy[Request]) -> Batch:
    """Requests of both sorts, in any order."""
    made = [*(draw(anyhow) for _ in range(ANYHOW)), *(draw(again) for _ in range(AGAIN))]
    return Batch(draw(st.permutations(made)))


# --- as they are sent --------------------------------------------------------------------------------


def recombined(batch: Sequence[Request], turn: int) -> list[Request]:
    """The same requests, each with the body of another one: drawing is dear, and sending is not."""
    if turn == 0:
        return list(batch)
    parts = [request.data.partition(b"\r\n\r\n") for request in batch]
    bodies = [body for _, _, body in parts[turn:] + parts[:turn]]
    return [
        replace(request, data=_sized(head, body))
        for request, (head, _, _), body in zip(batch, parts, bodies, strict=True)
    ]


def _sized(head: bytes, body: bytes) -> bytes:
    return _LENGTH.sub(b"\r\ncontent-length: %d" % len(body), head, count=1) + b"\r\n\r\n" + body


_LENGTH = re.compile(rb"\r\ncontent-length: \d+")
EXTRA = [
    ("origin", "https://evil.example"), ("origin", "http://localhost:3"), ("host", "localhost"), ("x-a", "b" * 9_000),
    ("mcp-session-id", "x"), ("last-event-id", "1"), ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
    ("traceparent", "\u00ff"), ("expect", "100-continue"), ("upgrade", "websocket"), ("connection", "upgrade"),
    ("authorization", "Basic eDp5"), ("mcp-param-customer_id", "=?base64?!!?="), ("transfer-encoding", "chunked"),
    ("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=x"), ("content-length", "7"), ("bad header", "x"),
]  # fmt: skip


def _plain(text: str) -> str:
    """As a header may carry it."""
    return "".join(letter for letter in text[:200] if " " <= letter <= "~")
