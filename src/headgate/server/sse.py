"""The deprecated HTTP+SSE transport of revision 2024-11-05: answers on one stream, each message a POST of its own.

A client opens the stream, and is told where to post. Each message goes by the page with a credential of its own,
which must be the one that opened the stream. Sessions are this process's own: several processes on one port refuse the
transport, as a message comes by whichever connection its client likes, and so to any of them; before several servers
a client must always reach the same one. Whoever can speaks Streamable HTTP instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel.server import Server
from mcp.server.sse import SseServerTransport
from mcp.shared.message import ServerMessageMetadata
from starlette.types import Message, Receive, Scope, Send

from headgate.errors import HeadgateError, InvalidRequest, Unavailable
from headgate.model.caller import Caller
from headgate.server import headers as rules
from headgate.server import wire
from headgate.server.answers import Refusals
from headgate.server.call import Call, Rooms, admit
from headgate.server.record import Outcome
from headgate.server.request import MOST_BODY, HttpRequest, HttpSettings, MessageRequest
from headgate.server.streams import CALL, Came, Greeted, our_message, serve_streams

SSE_PATH = "/sse"
MESSAGES_PATH = "/messages"

MOST_SESSIONS = 256
"""Of one process."""
MOST_OF_ONE = 16
"""Of one caller."""
IDLE_S = 3_600.0
"""How long a session is kept over which no message comes."""

_ACCEPTED = 202
_ANSWERED = Outcome("answered")
_REFUSED = Outcome("refused", InvalidRequest.code)
_NOT_IMPLEMENTED = 501


class SseDoor:
    """The two paths of the transport."""

    def __init__(self, rooms: Rooms, settings: HttpSettings, server: Server[Any], refusals: Refusals) -> None:
        self._rooms = rooms
        self._settings = settings
        self._server = server
        self._refusals = refusals
        self._transport = SseServerTransport(MESSAGES_PATH, max_request_body_size=MOST_BODY)
        self._sessions: dict[_Session, tuple[str, ...]] = {}
        self._is_draining = False

    def adopt(self, rooms: Rooms, settings: HttpSettings, refusals: Refusals) -> None:
        """From now on messages are answered by these; sessions go on."""
        self._rooms, self._settings, self._refusals = rooms, settings, refusals

    async def open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A stream for one caller. Its event is durable before the first byte leaves."""
        request = HttpRequest(scope, self._settings)
        try:
            call = await admit(request, self._rooms)
            async with call.recorded():
                self._check_alone()
                self._check_room(call.granted.caller)
            await call.close(_ANSWERED)
        except HeadgateError as error:
            await self._refusals.say(request, error, scope, send)
            return
        except Exception:
            await self._refusals.say_failure(request, send)
            return
        await self._serve(call.granted.caller, scope, receive, send)

    async def take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One message: admitted here, answered on its session's stream."""
        request = _Posted(scope, receive, self._settings)
        try:
            call = await admit(request, self._rooms)
            async with call.recorded():
                self._check_alone()
        except HeadgateError as error:
            await self._refusals.say(request, error, scope, send)
            return
        except Exception:
            await self._refusals.say_failure(request, send)
            return
        marked = {**scope, CALL: call, "user": _user(call.granted.caller)}
        try:
            await self._transport.handle_post_message(marked, request.replay, _Receipt(call, send).send)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            call.abandon()  # the stream was closed before its session took the message
        except HeadgateError as error:
            await self._refusals.say(request, error, scope, send)

    def drain(self) -> None:
        """Ends every session, and opens no more."""
        self._is_draining = True
        for session in self._sessions:
            session.scope.cancel()

    async def _serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        marked = {**scope, "user": _user(caller)}
        async with self._transport.connect_sse(marked, receive, send) as (read, write):
            with self._session(caller) as session:
                await serve_streams(self._server, session, read, write, can_hear=self._rooms.can_hear)

    @contextmanager
    def _session(self, caller: Caller) -> Iterator[_Session]:
        session = _Session()
        self._sessions[session] = caller.who
        try:
            with session.scope:
                yield session
        finally:
            del self._sessions[session]

    def _check_alone(self) -> None:
        """InvalidRequest where other processes serve this port too."""
        if self._settings.workers is not None:
            raise InvalidRequest(
                "Several processes serve this port, and HTTP+SSE needs one alone: use Streamable HTTP at /mcp, or have "
                "the operator serve without --workers.",
                http_status=_NOT_IMPLEMENTED,
            )

    def _check_room(self, caller: Caller) -> None:
        """Unavailable when one more stream is one too many."""
        of_each = Counter(self._sessions.values())
        if self._is_draining or len(self._sessions) >= MOST_SESSIONS or of_each[caller.who] >= MOST_OF_ONE:
            raise Unavailable(
                "There are too many open streams: close one, or use Streamable HTTP at /mcp, which needs none.",
                retry_after_s=5.0,
            )


class _Session:
    """One stream, and what its client said of itself. An `Entrance`: its messages were admitted as they came in."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + IDLE_S)
        self.request_id = ""
        self._greeted = Greeted()

    async def admit(self, came: Came) -> Call:
        """The call that its POST has admitted, now with what the handshake said."""
        self.scope.deadline = anyio.current_time() + IDLE_S
        if isinstance(came, Exception) or not isinstance(came.metadata, ServerMessageMetadata):
            raise InvalidRequest("This is no JSON-RPC message.")
        call: Call = came.metadata.request_context.scope[CALL]
        self.request_id = call.id
        call.asked = self._greeted.filled(call.asked, our_message(came))
        return call

    def answered(self, result: Mapping[str, Any]) -> None:
        self._greeted.agreed(result.get("protocolVersion"))

    def may_not_hear(self) -> None:
        """Ends the stream, so that the client does not wait for what can't come."""
        self.scope.cancel()


class _Posted(MessageRequest):
    """A message of this transport, whose answer does not come with the POST: clients need accept nothing."""

    def check_types(self) -> None:
        rules.check_body_type(self.headers)


class _Receipt:
    """What a POST is told: that its message was taken, or why not, which is recorded first."""

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] != _ACCEPTED:
                await self._call.close(_REFUSED)
            headers = [*message.get("headers", ()), wire.request_id_header(self._call.id)]
            message = {**message, "headers": headers}
        await self._send(message)


def _user(caller: Caller) -> AuthenticatedUser:
    """The caller in the SDK's words: it holds each session for the one that opened it, and for no other."""
    return AuthenticatedUser(AccessToken(token="", client_id="\n".join(caller.who), scopes=[]))
