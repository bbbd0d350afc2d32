"""A connection that carries messages both ways: each is let in by the page, and out once its event is durable.

For stdio and for the deprecated HTTP+SSE transport. Over Streamable HTTP every message is a request of its own, and
`gate` does the same for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import anyio
import mcp_types as types
import msgspec
from mcp.server.lowlevel.server import Server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage

from headgate.errors import HeadgateError, InvalidRequest
from headgate.server import wire
from headgate.server.call import Call
from headgate.server.listing import GAP, Gap
from headgate.server.message import PARSE_ERROR, Asked, Message
from headgate.server.push.standing import STANDING, Standing
from headgate.server.record import Outcome
from headgate.telemetry import logger

CALL = "headgate.call"
"""Where a door leaves the admitted call: in the `scope` of the request that goes along with a message."""

Came: TypeAlias = SessionMessage | Exception
"""What comes over a connection; an exception where it was no message."""

_ANSWERED = Outcome("answered")
_REFUSED = Outcome("refused", InvalidRequest.code)
_OPEN_BEFORE_SWEEP = 256
_log = logger("server.streams")


class Bearer:
    """What goes along with a message to the SDK, as a request of HTTP would: a scope that holds the call."""

    def __init__(self, call: Call, standing: Standing) -> None:
        self.call = call
        self.gap = Gap()
        self.scope: Mapping[str, Any] = {CALL: call, GAP: self.gap, STANDING: standing}


class Greeted:
    """What the client said of itself once, and means for all that follows (the handshake of earlier revisions)."""

    def __init__(self) -> None:
        self._known = Asked(method="")

    def filled(self, asked: Asked, message: Message) -> Asked:
        """What the message asks, with what was said before where it does not say it itself."""
        level = (message.params or {}).get("level") if message.method == "logging/setLevel" else None
        known = msgspec.structs.replace(
            self._known,
            protocol_version=asked.protocol_version or self._known.protocol_version,
            client_name=asked.client_name or self._known.client_name,
            client_version=asked.client_version or self._known.client_version,
            log_level=level if isinstance(level, str) else self._known.log_level,
        )
        self._known = known
        return msgspec.structs.replace(
            asked,
            protocol_version=known.protocol_version,
            client_name=known.client_name,
            client_version=known.client_version,
            log_level=asked.log_level or known.log_level,
        )

    def agreed(self, version: object) -> None:
        """The handshake ended with this revision."""
        if isinstance(version, str):
            self._known = msgspec.structs.replace(self._known, protocol_version=version)


class Entrance(Protocol):
    """How messages of one connection come to be calls."""

    async def admit(self, came: Came) -> Call:
        """The call, open and admitted; what is refused is recorded and raised."""

    @property
    def request_id(self) -> str:
        """The id of the call that was opened last."""

    def answered(self, result: Mapping[str, Any]) -> None:
        """A result goes out."""

    def may_not_hear(self) -> None:
        """The client hears no more of what it has subscribed to: its credential is over."""


async def serve_streams(
    server: Server[Any],
    entrance: Entrance,
    read: ReadStream[Came],
    write: WriteStream[SessionMessage],
    *,
    can_hear: bool,
) -> None:
    """Serves one connection until its client closes it. Calls still under way are then cancelled and recorded so.

    `can_hear`: changes are heard of, so that clients may subscribe to resources.
    """
    options = server.create_initialization_options()
    if can_hear and options.capabilities.resources is not None:
        options.capabilities.resources.subscribe = True
    async with _gated(entrance, read, write) as (messages, answers):
        await server.run(messages, answers, options)


@asynccontextmanager
async def _gated(
    entrance: Entrance, read: ReadStream[Came], write: WriteStream[SessionMessage]
) -> AsyncIterator[tuple[ReadStream[Came], WriteStream[SessionMessage]]]:
    to_sdk, messages = anyio.create_memory_object_stream[Came](0)
    answers, from_sdk = anyio.create_memory_object_stream[SessionMessage](0)
    gate = _Gate(entrance, to_sdk.send, write.send)
    reading = anyio.CancelScope()

    async def inward() -> None:
        with reading:
            async with to_sdk, read:
                with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    async for came in read:
                        await gate.let_in(came)

    async def outward() -> None:
        async with write, from_sdk:
            async for message in from_sdk:
                await gate.let_out(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inward)
        tasks.start_soon(outward)
        try:
            yield messages, answers
        finally:
            reading.cancel()
            answers.close()
            messages.close()
            gate.abandon()


class _Gate:
    def __init__(
        self,
        entrance: Entrance,
        to_sdk: Callable[[Came], Awaitable[None]],
        to_client: Callable[[SessionMessage], Awaitable[None]],
    ) -> None:
        self._entrance = entrance
        self._to_sdk = to_sdk
        self._to_client = to_client
        self._standing = Standing(self._tell_updated, entrance.may_not_hear)
        self._open: dict[types.RequestId, Bearer] = {}

    async def let_in(self, came: Came) -> None:
        """Hands a message to the SDK once its call is admitted. A refusal is answered here."""
        try:
            call = await self._entrance.admit(came)
            message = came.message if isinstance(came, SessionMessage) else None
            self._standing.renew(call)
            bearer = Bearer(call, self._standing)
            if isinstance(message, types.JSONRPCRequest):
                self._remember(message.id, bearer)
            else:
                await call.close(_ANSWERED)
        except HeadgateError as error:
            await self._say_error(came, wire.error_data(error, self._entrance.request_id))
        except Exception:
            _log.exception("a message failed before it was admitted")
            await self._say_error(came, wire.internal_error(self._entrance.request_id))
        else:
            if message is not None:
                await self._to_sdk(SessionMessage(message, ServerMessageMetadata(request_context=bearer)))

    async def let_out(self, item: SessionMessage) -> None:
        """Lets an answer out once the event of its call is durable; in its place the error, when it can't be."""
        message = item.message
        if isinstance(message, types.JSONRPCResponse | types.JSONRPCError) and message.id is not None:
            if isinstance(message, types.JSONRPCResponse):
                self._entrance.answered(message.result)
            bearer = self._open.pop(message.id, None)
            call = bearer.call if bearer is not None else None
            if bearer is not None and bearer.gap.encoded and isinstance(message, types.JSONRPCResponse):
                message.result = bearer.gap.filled(message.result)
            if call is not None and not call.closed:
                try:
                    await call.close(_ANSWERED if isinstance(message, types.JSONRPCResponse) else _REFUSED)
                except HeadgateError as error:
                    item = _error_message(message.id, wire.error_data(error, call.id))
        await self._send(item)

    async def _send(self, item: SessionMessage) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the client has left
            await self._to_client(item)

    async def _tell_updated(self, uri: str) -> None:
        updated = types.JSONRPCNotification(
            jsonrpc="2.0", method="notifications/resources/updated", params={"uri": uri}
        )
        await self._send(SessionMessage(updated))

    def abandon(self) -> None:
        """Closes what is still open: the client has left."""
        self._standing.close()
        for bearer in self._open.values():
            bearer.call.abandon()

    def _remember(self, rpc_id: types.RequestId, bearer: Bearer) -> None:
        if len(self._open) >= _OPEN_BEFORE_SWEEP:  # calls that were taken back are never answered
            self._open = {each: open_ for each, open_ in self._open.items() if not open_.call.closed}
        self._open[rpc_id] = bearer

    async def _say_error(self, came: Came, error: Mapping[str, Any]) -> None:
        message = came.message if isinstance(came, SessionMessage) else None
        if isinstance(message, types.JSONRPCRequest):
            await self._send(_error_message(message.id, error))
        elif message is None:
            await self._send(_error_message(None, error))


def message_of(method: str, params: Mapping[str, Any] | None, rpc_id: types.RequestId | None) -> Message:
    """A message as the SDK holds it, in our words."""
    return Message("2.0", method, msgspec.UNSET if rpc_id is None else rpc_id, dict(params or {}))


def our_message(came: Came) -> Message:
    """What came, in our words. InvalidRequest for what asks nothing."""
    if isinstance(came, Exception):
        raise InvalidRequest("This is no JSON-RPC message.", jsonrpc_code=PARSE_ERROR)
    match came.message:
        case types.JSONRPCRequest(id=rpc_id, method=method, params=params):
            return message_of(method, params, rpc_id)
        case types.JSONRPCNotification(method=method, params=params):
            return message_of(method, params, None)
    raise InvalidRequest("This server asks its clients nothing, and so takes no JSON-RPC responses.")


def _error_message(rpc_id: types.RequestId | None, error: Mapping[str, Any]) -> SessionMessage:
    data = types.ErrorData(code=error["code"], message=error["message"], data=error["data"])
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=rpc_id, error=data))
