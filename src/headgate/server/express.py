"""The express lane: the hot case, answered without the SDK's cost for each request.

An ASGI application in front of the SDK's, behind the page's first half: what it answers was admitted as every call
is, and runs on the same page. It takes one case alone, a well-formed `tools/call` of 2026-07-28 or 2025-11-25, of a
tool that only reads, asks nobody and tells no progress. Every other request goes on untouched, and what a request
must be to be well-formed is asked of the SDK's own models, once for each `_meta` that comes.

Its answers are the SDK's, member by member in the same order; only texts beyond ASCII are written as they are, where
the SDK writes escapes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, decode_header_value
from mcp_types import SERVER_INFO_META_KEY, ErrorData
from mcp_types import methods as surface
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from headgate.access.budget import Allowance
from headgate.access.sight import Kept
from headgate.audit.event import LONGEST_TEXT
from headgate.errors import HeadgateError, OutboxError
from headgate.server import wire
from headgate.server.call import Call
from headgate.server.mcp import Otherwise, said
from headgate.server.message import CAPABILITIES_KEY, CLIENT_KEY, LOG_LEVEL_KEY, VERSION_KEY, Asked, asked_of
from headgate.server.message import Message as JsonRpc
from headgate.server.request import REQUEST, MessageRequest, check_era
from headgate.server.streams import CALL
from headgate.tools.base import Result, Tool, task_use

_MODERN: Final = "2026-07-28"
_OLDER: Final = "2025-11-25"
_TYPES: Final = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})
_LONGEST: Final = 64 * 1024
_DEEPEST: Final = 64
"""How many objects and lists a body may have: deep ones are for the SDK to judge."""
_LONGEST_META: Final = 2 * 1024
_METAS: Final = 1_024
_PLAIN: Final = frozenset(
    {VERSION_KEY, CLIENT_KEY, CAPABILITIES_KEY, LOG_LEVEL_KEY, "traceparent", "tracestate", "baggage"}
    | {"headgate/task", "headgate/model", "headgate/prompt"}
)
"""What `_meta` may hold: whatever else does something (a progress token, a key, an extension's) goes on."""
_TRACED: Final = re.compile(rb'"(traceparent|tracestate)"[ ]?:[ ]?"([ !#-\[\]-~]*)"')
"""With values that JSON writes as they are."""
_WATCHED_AFTER_S: Final = 0.05
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),
)
_EVENT: Final = b"event: message\r\ndata: %b\r\n\r\n"
_PLAIN_ANSWER: Final = b"content-length: %d\r\ncontent-type: application/json\r\nx-request-id: %b\r\n\r\n%b"
_STREAMED_ANSWER: Final = (
    b"".join(b"%b: %b\r\n" % header for header in _STREAM)
    + b"x-request-id: %b\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
)

Trace = Mapping[str, str]
"""A `traceparent` and a `tracestate`, as far as there are any."""


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] = {}
    meta: msgspec.Raw = msgspec.field(name="_meta", default=msgspec.Raw(b""))


class _HotCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    id: int | str
    method: Literal["tools/call"]
    params: _Params


class _Asker(NamedTuple):
    """A call with that `_meta` and nothing else, and what it asks; None: not the hot case."""

    message: JsonRpc | None = None
    asked: Asked = Asked(method="")


_decode = msgspec.json.Decoder(_HotCall).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_askers = Kept(_METAS)


# --- recognising ---------------------------------------------------------------------------------


class HotRequest(MessageRequest):
    """A POST that may be the hot case: `is_hot` tells, once it is read."""

    is_hot = False

    def understood(self, body: bytes) -> Asked:
        """What the body asks, by the short way where that is the hot case, with the same answer."""
        asked = recognised(body, self.headers) if self.has_no_doubles else None
        if asked is None:
            return super().understood(body)
        self.is_hot = True
        self.rpc_id = asked.rpc_id
        return asked

    def recognised(self, body: bytes, headers: Mapping[str, str]) -> Asked | None:
        """What the body asks, if with these headers it is the hot case, and no longer than it may be."""
        return recognised(body, headers) if len(body) <= self._settings.body_limit else None

    def take(self, request_id: str, headers: Mapping[str, str], body: bytes, asked: Asked) -> None:
        """It is admitted as that, its headers being known to be good."""
        self.opened(request_id)
        self.headers = headers
        self._came, self._body = None, body
        self.rpc_id = asked.rpc_id
        self.is_hot = True


def recognised(body: bytes, headers: Mapping[str, str]) -> Asked | None:
    """What a request of the hot case asks; None for every other one, of which nothing is said."""
    version = headers.get("mcp-protocol-version", "")
    if version not in (_MODERN, _OLDER) or headers.get("content-type") not in _TYPES or "mcp-session-id" in headers:
        return None
    hot = _hot(body)
    if hot is None or (version == _MODERN and not _is_mirrored(hot.params.name, headers)):
        return None
    asker, trace = _asker_of(hot, version)
    if asker.message is None:
        return None
    asked = _traced(asker, version, trace, headers)
    return msgspec.structs.replace(asked, name=hot.params.name, arguments=hot.params.arguments, rpc_id=hot.id)


def recognised_again(body: bytes, name: str | None, version: str, trace: Trace) -> Again | None:
    """As `recognised`, with headers that hold for the hot case; `name` is the tool's there, and `trace` what they say
    of one.
    """
    hot = _hot(body)
    if hot is None or (name is not None and hot.params.name != name):
        return None
    if isinstance(hot.id, str) and len(hot.id) > LONGEST_TEXT:  # the record would cut it
        return None
    asker, of_meta = _asker_of(hot, version)
    if asker.message is None:
        return None
    if not (of_meta or trace):
        return Again(asker.asked, hot.id, hot.params.name, hot.params.arguments)
    asked = _traced(asker, version, of_meta, trace)
    if len(asked.tracestate) > LONGEST_TEXT:
        return None
    return Again(asker.asked, hot.id, hot.params.name, hot.params.arguments, asked.traceparent, asked.tracestate)


class Again(msgspec.Struct, frozen=True, gc=False):
    """What is asked by whoever asks again."""

    asker: Asked
    """It without what differs from call to call: one object while that is remembered."""
    rpc_id: int | str
    name: str
    arguments: dict[str, Any]
    traceparent: str = ""
    tracestate: str = ""

    def asked(self) -> Asked:
        """All of it."""
        return msgspec.structs.replace(
            self.asker,
            name=self.name,
            arguments=self.arguments,
            rpc_id=self.rpc_id,
            traceparent=self.traceparent or self.asker.traceparent,
            tracestate=self.tracestate or self.asker.tracestate,
        )


def _traced(asker: _Asker, version: str, of_meta: Trace, of_headers: Trace) -> Asked:
    """What is asked, with its trace: that of `_meta` comes before that of headers."""
    assert asker.message is not None, "it is the hot case"
    parent, state = of_headers.get("traceparent", ""), of_headers.get("tracestate", "")
    if not (of_meta or parent or state):
        return asker.asked
    asked = asked_of(asker.message, protocol_version=version, traceparent=parent, tracestate=state)
    return msgspec.structs.replace(
        asked,
        traceparent=of_meta.get("traceparent") or asked.traceparent,
        tracestate=of_meta.get("tracestate") or asked.tracestate,
    )


def mirrored_name(headers: Mapping[str, str]) -> str | None:
    """The tool's name as good headers of the hot case have it; None where they need not."""
    is_modern = headers["mcp-protocol-version"] == _MODERN
    return decode_header_value(headers.get("mcp-name")) if is_modern else None


def _hot(body: bytes) -> _HotCall | None:
    if len(body) > _LONGEST or body.count(b"{") + body.count(b"[") > _DEEPEST:
        return None
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _asker_of(hot: _HotCall, version: str) -> tuple[_Asker, Trace]:
    """Who asks so, and the trace that `_meta` names, which the asker is without."""
    meta = bytes(hot.params.meta)
    blank, trace = _blanked(meta) if b'"trace' in meta else (meta, {})
    asker: _Asker | None = _askers.get((blank, version))
    if asker is None:
        asker = _asker(blank, version)
        if len(blank) <= _LONGEST_META:
            _askers.take((blank, version), lambda: asker)
    if trace and asker.message is not None and any(asker.message.meta.get(name) != "" for name in trace):
        return _asker(meta, version), {}  # it stands deeper in there, and is no trace
    return asker, trace


def _blanked(meta: bytes) -> tuple[bytes, Trace]:
    """Without the trace's values, which differ from call to call; and these. As it is where they can't be told."""
    found = [(name.decode(), value.decode()) for name, value in _TRACED.findall(meta)]
    trace = dict(found)
    return (_TRACED.sub(rb'"\1":""', meta), trace) if len(trace) == len(found) else (meta, {})


def _is_mirrored(name: str, headers: Mapping[str, str]) -> bool:
    """Whether the headers say what the body does (2026-07-28, "Standard Headers")."""
    return headers.get("mcp-method") == "tools/call" and decode_header_value(headers.get("mcp-name")) == name


def _asker(meta: bytes, version: str) -> _Asker:
    """By our own rules of eras, and by the SDK's models."""
    try:
        params = {"name": "", "arguments": {}} | ({"_meta": _decode_any(meta)} if meta else {})
        message = JsonRpc("2.0", "tools/call", 0, params)
        if not _PLAIN.issuperset(message.meta) or (version == _MODERN and CAPABILITIES_KEY not in message.meta):
            return _Asker()
        check_era(message, version)
        surface.validate_client_request("tools/call", version, params)
    except (msgspec.MsgspecError, ValueError, RecursionError, ValidationError, HeadgateError):
        return _Asker()
    if (message.meta.get(VERSION_KEY) == version) != (version == _MODERN):
        return _Asker()
    return _Asker(message, asked_of(message, protocol_version=version))


# --- answering -----------------------------------------------------------------------------------


class Sent(NamedTuple):
    """An answer as HTTP has it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Without a length it is a stream."""
    body: bytes


class Express:
    """The lane. `answered` counts the calls that took it."""

    def __init__(self, inner: ASGIApp, server_info: Mapping[str, Any]) -> None:
        """`inner` answers everything else; `server_info` is what the server says of itself in each answer."""
        self.answered = 0
        self._inner = inner
        self._stamp = {SERVER_INFO_META_KEY: msgspec.Raw(_encode(server_info))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers an admitted call of the hot case, and passes on every other. OutboxError: no answer has left."""
        call: Call = scope[CALL]
        if not scope[REQUEST].is_hot or call.tool is None or not is_quick(call.tool):
            await self._inner(scope, receive, send)
            return
        self.answered += 1
        client = _Client(receive)
        try:
            status, headers, body = await self._said(call)
        except asyncio.CancelledError:
            if not client.has_left():
                raise
        else:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            client.forget()

    async def _said(self, call: Call) -> Sent:
        """OutboxError where the SDK's path has sent nothing yet when the event is lost."""
        is_modern = call.asked.protocol_version == _MODERN
        try:
            show = _shown if is_modern else _shown_to_older
            return self._around(call, await said(call, _run, show, _OTHERWISE[is_modern], call.asked.protocol_version))
        except MCPError as failed:
            error = failed.error
            if isinstance(failed.__cause__, OutboxError):
                if is_modern:
                    raise failed.__cause__ from None
                error = ErrorData(**wire.error_data(failed.__cause__))
            status = ERROR_CODE_HTTP_STATUS.get(error.code, 200)
            return _sent(call, {"error": error.model_dump(mode="json", by_alias=True, exclude_none=True)}, status)

    def answer(self, again: Again, request_id: str, allowance: Allowance | None, result: Result) -> bytes:
        """A paid call's result as it is sent, from behind the status and the headers of every answer on."""
        is_modern = again.asker.protocol_version == _MODERN
        noted: dict[str, Any] = {wire.REQUEST_ID: request_id}
        if allowance is not None:
            noted[wire.BUDGET] = allowance
        shaped = _shown(result, noted, is_modern=is_modern)
        if is_modern:
            shaped["_meta"].update(self._stamp)
        body = _encode({"jsonrpc": "2.0", "id": again.rpc_id, "result": shaped})
        if is_modern:
            return _PLAIN_ANSWER % (len(body), request_id.encode(), body)
        event = _EVENT % body
        return _STREAMED_ANSWER % (request_id.encode(), len(event), event)

    def _around(self, call: Call, shaped: dict[str, Any]) -> Sent:
        if call.asked.protocol_version == _MODERN:
            shaped["_meta"].update(self._stamp)
        return _sent(call, {"result": shaped})


def _sent(call: Call, message: dict[str, Any], status: int = 200) -> Sent:
    body = _encode({"jsonrpc": "2.0", "id": call.asked.rpc_id, **message})
    if call.asked.protocol_version != _MODERN:
        headers = [*_STREAM, wire.request_id_header(call.id)]
        return Sent(200, headers, _EVENT % body)
    length = (b"content-length", b"%d" % len(body))
    headers = [length, _JSON, wire.request_id_header(call.id), *wire.when_to_come_back(call.error)]
    return Sent(status, headers, body)


def _shown(result: Result, noted: wire.Noted, *, is_modern: bool = True) -> dict[str, Any]:
    """A result as the SDK's models write it. Of plain text alone, which nearly all are, without asking them."""
    if result.content:
        return _by_models(wire.answer(result, noted), is_modern=is_modern)
    meta = {**noted, wire.FRESHNESS: result.freshness} if result.freshness is not None else dict(noted)
    shaped: dict[str, Any] = {"_meta": meta, "content": [{"text": result.text, "type": "text"}], "isError": False}
    if is_modern:
        shaped["resultType"] = "complete"
    shaped["structuredContent"] = result.structured
    return shaped


def _by_models(result: dict[str, Any], *, is_modern: bool) -> dict[str, Any]:
    return surface.serialize_server_result("tools/call", _MODERN if is_modern else _OLDER, result)


def _otherwise(*, is_modern: bool) -> Otherwise:
    def refused(error: HeadgateError, noted: wire.Noted) -> dict[str, Any]:
        return _by_models(wire.tool_error(error, noted), is_modern=is_modern)

    return Otherwise(refused)


_shown_to_older = partial(_shown, is_modern=False)
_OTHERWISE: Final = {is_modern: _otherwise(is_modern=is_modern) for is_modern in (True, False)}


class _Client:
    """Whoever asked. When it leaves a call that takes long, the call is cancelled; a short one ends anyway."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._call = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER_S, self._begin_to_watch)
        self._left = False

    def has_left(self) -> bool:
        """Whether that is why the call was cancelled."""
        return self._left and self._call is not None and self._call.uncancel() == 0

    def forget(self) -> None:
        """The call has ended."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _begin_to_watch(self) -> None:
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._call is not None:
            self._left = True
            self._call.cancel()


async def _run(call: Call) -> Result:
    assert call.tool is not None, "only calls of tools come here"
    return await call.tool.run(call.view(), call.asked.arguments)


def is_quick(tool: Tool) -> bool:
    """Whether a tool only reads, asks nobody, and tells no progress."""
    return tool.annotations.read_only and not hasattr(tool, "talk") and task_use(tool) == "never"
