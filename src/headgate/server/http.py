"""The HTTP door: MCP over Streamable HTTP, the deprecated HTTP+SSE beside it, and the few plain pages.

Who asks and what they may is settled here, before the SDK sees a request, so that every method is answered
401 or 403 as the specification says (2026-07-28, basic/authorization). The SDK then speaks the protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.types import Receive, Scope, Send

from headgate.collecting import collecting_rarely
from headgate.errors import HeadgateError, InvalidRequest
from headgate.server import headers as rules
from headgate.server.answers import Refusals
from headgate.server.call import Call, Rooms, admit
from headgate.server.express import Express, HotRequest
from headgate.server.gate import Gate
from headgate.server.listing import GAP, LIST_TOOLS, Spliced
from headgate.server.mcp import build_server
from headgate.server.pages import Pages
from headgate.server.push.listening import LISTEN
from headgate.server.push.out import STREAM, Frames
from headgate.server.request import MOST_BODY, REQUEST, HttpRequest, HttpSettings, MessageRequest
from headgate.server.returning import Returning
from headgate.server.sse import MESSAGES_PATH, SSE_PATH, SseDoor
from headgate.server.straight import Straight, UnderWay
from headgate.server.streams import CALL
from headgate.server.tasks.keeping import keeping

__all__ = ["PATH", "Door", "HttpSettings"]

PATH = "/mcp"


class Door:
    """The ASGI application. Serves only within `running`; once."""

    def __init__(self, rooms: Rooms, settings: HttpSettings) -> None:
        self._rooms = rooms
        self._settings = settings
        server = build_server(rooms)
        # SSE where a call takes long (json_response would drop progress and not notice who left); Host and
        # Origin are checked by us, before anything else.
        # Bodies are bounded by us too, before the SDK sees them.
        self._sdk = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=MOST_BODY)
        self._former: list[Rooms] = []
        self.returning = Returning(rooms)
        """Whom the express lane knows."""
        self._refusals = Refusals(rooms, settings, PATH)
        self._pages = Pages(rooms, settings, PATH)
        self._sse = SseDoor(rooms, settings, server, self._refusals)
        self.express = Express(self._by_the_sdk, server.server_info_stamp)
        """The express lane, which is passed by where it is off."""
        self._under_way = UnderWay()
        self.straight = self._straight()
        """The straight way, where the express lane is on."""

    def _straight(self) -> Straight | None:
        settings = self._settings
        if not settings.express:
            return None
        return Straight(self.returning, self.express, settings.body_limit, self._under_way)

    async def settled(self) -> None:
        """Returns once no call is under way on the straight way."""
        await self._under_way.settled()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the SDK's tasks; on leaving, calls still under way are cancelled and recorded as such."""
        try:
            async with self._sdk.run(), keeping(lambda: self._rooms):
                with collecting_rarely():
                    yield
        finally:
            for rooms in (*self._former, self._rooms):
                await rooms.settle()

    def adopt(self, rooms: Rooms, settings: HttpSettings) -> None:
        """From now on requests are answered by these rooms; those under way end by the ones they began with."""
        self._former = [each for each in (*self._former, self._rooms) if each.is_busy]
        self._rooms, self._settings = rooms, settings
        self.returning = Returning(rooms)
        self.straight = self._straight()
        self._refusals = Refusals(rooms, settings, PATH)
        self._pages = Pages(rooms, settings, PATH)
        self._sse.adopt(rooms, settings, self._refusals)
        rooms.push.adopt(rooms)

    def count_refusal(self, reason: str, door: str, network: str) -> None:
        """Counts a refusal of someone who did not come as far as the page."""
        self._rooms.refusals.count(reason, door, network)

    def drain(self) -> None:
        """No stream stays open for its own sake: a stop was asked for. Calls under way go on."""
        self._pages.drain()
        self._sse.drain()
        self._rooms.push.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("this application serves HTTP only: run it with lifespan off")
        scope = {**scope, "headers": rules.stripped(scope["headers"])}
        match scope["path"], scope["method"]:
            case str(path), "POST" if path == PATH:
                await self._mcp(scope, receive, send)
            case str(path), _ if path == PATH:
                await self._not_a_post(scope, send)
            case str(path), "GET" if path == SSE_PATH:
                await self._sse.open(scope, receive, send)
            case str(path), "POST" if path == MESSAGES_PATH:
                await self._sse.take(scope, receive, send)
            case _:
                await self._pages.answer(scope, send)

    async def _mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call: admitted by the page, then answered by the express lane or the SDK."""
        request = (HotRequest if self._settings.express else MessageRequest)(scope, receive, self._settings)
        try:
            call = await self._admitted(request, scope)
        except HeadgateError as error:
            await self._refusals.say(request, error, scope, send)
            return
        except Exception:
            await self._refusals.say_failure(request, send)
            return
        scope[CALL], scope[REQUEST] = call, request  # `__call__` has made it ours
        try:
            await (self.express if isinstance(request, HotRequest) else self._by_the_sdk)(scope, request.replay, send)
        except HeadgateError as error:  # the event could not be kept: no answer has left
            await self._refusals.say(request, error, scope, send)
        finally:
            call.abandon()

    async def _admitted(self, request: MessageRequest, scope: Scope) -> Call:
        """From memory, where the same caller was here a moment ago with the same headers."""
        if not isinstance(request, HotRequest):
            call = await admit(request, self._rooms)
            await _check_mirrored(call, scope)
            return call
        returning = self.returning
        known = returning.admit(request)
        if known is not None:
            return known
        call = await admit(request, self._rooms)
        await _check_mirrored(call, scope)
        returning.note(request, call)
        return call

    async def _by_the_sdk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Spoken by the SDK, the call's event closed before its answer leaves."""
        method = scope[CALL].asked.method
        if method == LISTEN:
            frames = Frames(send)
            scope, send = {**scope, STREAM: frames}, frames.send
        elif method == LIST_TOOLS:
            spliced = Spliced(send)
            scope, send = {**scope, GAP: spliced.gap}, spliced.send
        gate = Gate(scope[CALL], send)
        await self._sdk.handle_request(scope, receive, gate.send)
        if gate.failure is not None and not gate.begun:
            raise gate.failure

    async def _not_a_post(self, scope: Scope, send: Send) -> None:
        """A call is a POST; there are no sessions to stream to (GET) or to end (DELETE). Recorded as refused."""
        request = HttpRequest(scope, self._settings)
        try:
            call = await admit(request, self._rooms)
            async with call.recorded():
                raise InvalidRequest("MCP is a POST here: there are no sessions.", http_status=405)
        except HeadgateError as error:
            await self._refusals.say(request, error, scope, send)
        except Exception:
            await self._refusals.say_failure(request, send)


async def _check_mirrored(call: Call, scope: Scope) -> None:
    """The last of the door's rules: it needs the tool's schema. Earlier revisions mirror nothing in headers."""
    is_modern = call.asked.protocol_version in MODERN_PROTOCOL_VERSIONS
    if is_modern and call.asked.method in rules.NAMED_BY_TASK:
        async with call.recorded():
            rules.check_name(call.asked.name, scope["headers"])
    if is_modern and call.tool is not None and call.rooms.toolbox.mirrors(call.tool):
        async with call.recorded():
            rules.check_mirrored(call.tool.input_schema, call.asked.arguments, scope["headers"])
