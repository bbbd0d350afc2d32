"""One HTTP request as the page meets it: its rules, its credentials, and then its body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import coroutine
from typing import Any, Literal, TypeVar

from starlette.types import Message, Receive, Scope

from headgate.access.identity import Credentials
from headgate.errors import InvalidRequest
from headgate.server import headers as rules
from headgate.server import wire
from headgate.server.message import VERSION_KEY, Asked, asked_of, parse
from headgate.server.message import Message as JsonRpc

T = TypeVar("T")

BODY_LIMIT = 4 * 1024 * 1024
BODY_TIMEOUT_S = 30.0
REQUEST = "headgate.request"
"""Where the door leaves the request itself: in the `scope` of what it admitted."""
MOST_BODY = 64 * 1024 * 1024
"""What a limit may be set to."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """How the door is reached. `public_url` is where clients see it, if a proxy stands before it.

    `authorization_servers` are the issuers named in the RFC 9728 metadata.
    """

    reach: rules.Reach = field(default_factory=rules.Reach)
    public_url: str = ""
    authorization_servers: tuple[str, ...] = ()
    subject_header: str = ""
    """The header in which a trusted proxy names the subject of a client's certificate; empty: none does."""
    express: bool = True
    """Whether the express lane answers the calls that it can."""
    body_limit: int = BODY_LIMIT
    """Bytes of one body."""
    body_timeout_s: float = BODY_TIMEOUT_S
    """How long a body may take to come."""
    workers: Callable[[], tuple[int, int]] | None = None
    """How many processes serve this port now, and how many there should be; None where there is one alone."""


class HttpRequest:
    """A request that has no body, and asks by its method and path alone."""

    door: Literal["http"] = "http"

    def __init__(self, scope: Scope, settings: HttpSettings) -> None:
        self.scope = scope
        self._reach = settings.reach
        self._subject_header = settings.subject_header
        self.peer: str = (scope.get("client") or ("", 0))[0]
        self.headers: Mapping[str, str] = {}
        self.has_no_doubles = False
        """Whether no header comes twice, so that any two readers see the same."""
        self.rpc_id: str | int | None = None
        self.had_token = False
        self.id = ""

    def opened(self, request_id: str) -> None:
        """The id that a refusal carries too."""
        self.id = request_id

    def check(self) -> None:
        """Host and Origin are ours, and what decides comes once."""
        self.headers = rules.single_valued(self.scope["headers"], self._subject_header)
        self.has_no_doubles = len(self.headers) == len(self.scope["headers"])
        self._reach.check(self.headers)

    def credentials(self) -> Credentials:
        """What the headers bring."""
        bearer = rules.bearer_of(self.headers)
        self.had_token = bearer is not None
        is_bare = bearer is None and self._subject_header not in self.headers
        return Credentials(
            bearer=bearer,
            door="http",
            loopback=is_bare and rules.is_from_this_machine(self.peer, self.headers),
            peer=self.peer,
            subject=self.headers.get(self._subject_header) if self._subject_header else None,
            in_query=rules.has_token_in_query(self.scope.get("query_string", b"")),
        )

    async def read(self) -> Asked:
        """The HTTP method and the path, as the record names them."""
        return Asked(method=self.scope["method"], name=self.scope["path"])


class MessageRequest(HttpRequest):
    """A POST whose body is one JSON-RPC message."""

    def __init__(self, scope: Scope, receive: Receive, settings: HttpSettings) -> None:
        super().__init__(scope, settings)
        self._receive = receive
        self._settings = settings
        self._body: bytes | None = None
        self._came: Message | None = None
        """The first part of the body, where it was looked at before it was read."""

    def peek(self) -> bytes | None:
        """The body, if it has come whole already. It can be read nonetheless."""
        if self._came is None:
            self._came = at_once(self._next())
        came = self._came
        if came is None or came["type"] != "http.request" or came.get("more_body", False):
            return None
        body: bytes = came.get("body", b"")
        return body

    async def _next(self) -> Message:
        came, self._came = self._came, None
        return await self._receive() if came is None else came

    async def read(self) -> Asked:
        """The body, bounded in size and time, and what it asks."""
        self.check_types()
        try:
            reading = _bounded_body(self.headers, self._next, self._settings.body_limit)
            self._body = await in_time(reading, self._settings.body_timeout_s)
        except TimeoutError as error:
            raise InvalidRequest("The body did not come in time.", http_status=408) from error
        return self.understood(self._body)

    def understood(self, body: bytes) -> Asked:
        """What a whole body asks."""
        message = parse(body)
        self.rpc_id = message.rpc_id
        header = self.headers.get("mcp-protocol-version", "")
        check_era(message, header)
        return self.asked_by(message, header)

    def check_types(self) -> None:
        """The body is JSON, and the answer may be that or an event stream."""
        rules.check_types(self.headers)

    def asked_by(self, message: JsonRpc, version: str) -> Asked:
        """What the message asks, with what its headers say of it."""
        return asked_of(
            message,
            protocol_version=version,
            traceparent=self.headers.get("traceparent", ""),
            tracestate=self.headers.get("tracestate", ""),
        )

    async def replay(self) -> Message:
        """The body once more, for the SDK, and then whatever else the client does."""
        if self._body is None:
            return await self._next()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def at_once(work: Coroutine[Any, Any, T]) -> T | None:
    """What the work answers, if it need not wait for anybody; else it is given up, and the answer is None."""
    try:
        work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    work.close()
    return None


async def in_time(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """What the work answers; TimeoutError when that takes longer. Work that need not wait sets no timer."""
    try:
        awaited = work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    async with asyncio.timeout(timeout_s):
        return await _going_on(work, awaited)


@coroutine
def _going_on(work: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """The rest of a coroutine that has begun, and waits for this."""
    while True:
        try:
            came = yield awaited
        except BaseException as error:
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, came)
        try:
            awaited = go_on()
        except StopIteration as done:
            answer: T = done.value
            return answer


async def _bounded_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequest("The client left before its request was whole.")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> InvalidRequest:
    return InvalidRequest(f"The body is larger than {limit} bytes.", http_status=413)


def check_era(message: JsonRpc, header: str) -> None:
    """InvalidRequest for a message of the stateless revision whose header does not say so (2026-07-28, "Protocol
    Version Header").

    Otherwise the SDK would serve it by the rules of 2025-03-26, and a proxy that reads headers would be misled.
    `initialize` exists in earlier revisions only.
    """
    version = message.meta.get(VERSION_KEY)
    if version is None or message.method == "initialize" or header == version:
        return
    raise InvalidRequest(
        "The header MCP-Protocol-Version must be that of params._meta: send both.",
        http_status=400,
        jsonrpc_code=wire.HEADER_MISMATCH,
    )
