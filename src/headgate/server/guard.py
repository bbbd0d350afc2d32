"""uvicorn's HTTP on a socket, within the bounds of its crowd.

uvicorn bounds neither the header nor its time, and answers what is no HTTP in its own words. What is held of its
protocol, whose inner parts are provisional, is held here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from http import HTTPStatus
from typing import Protocol, cast

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from headgate.server.crowd import Crowd
from headgate.server.express import Trace
from headgate.server.returning import HEAD
from headgate.server.straight import Straight

_ADVICE = {
    HTTPStatus.BAD_REQUEST: ("malformed_http", "This is no HTTP/1.1 request."),
    HTTPStatus.REQUEST_TIMEOUT: ("header_timeout", "The request did not come in time."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ("header_too_large", "The header is too large."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("too_many_connections", "There are too many connections: try again."),
}


_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE)

_TRACE = re.compile(rb"\r\n(traceparent|tracestate):([\t -~]*)(?=\r\n)", re.IGNORECASE)
"""With values that any parser takes: others are for the parser to judge."""
_UNTRACED: Trace = {}


class Opening(Protocol):
    """Where the straight way is open, if it is."""

    @property
    def straight(self) -> Straight | None:
        """It, as it is now."""


class GuardedHttp(HttpToolsProtocol):
    """One client's socket. A `crowd.Member` and a `straight.Socket`."""

    def __init__(self, crowd: Crowd, config: uvicorn.Config, state: ServerState, opening: Opening) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._crowd = crowd
        self._opening = opening
        self._came: bytes | None = None
        """The request that goes the straight way now."""
        self._held = b""
        """The beginning of a request whose head is known, and whose body comes a moment later: many clients send both
        apart."""
        self._behind = bytearray()
        """What has come behind it."""
        self._head = b""
        """The digest of the next request's head, where it has come whole and at once."""
        self._whose = b""
        self._must_close = False
        self._is_working = False
        self._is_in = False
        self._waited_for = 0
        """Bytes since the last request's end: of a header, as long as that is not whole."""
        self._has_begun = False
        """Whether a request has begun to come and is not whole."""
        self._refusal = HTTPStatus.BAD_REQUEST
        self._is_last = False
        """Whether what came behind the requests under way is to be refused, once they are answered."""

    # --- crowd.Member ---

    @property
    def peer(self) -> str:
        return self.client[0] if self.client else ""

    def time_out(self) -> None:
        if self._held:
            self._stop_holding()
        elif self._waited_for and not self._is_reading_on:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.abort()

    def abort(self) -> None:
        self.transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._whose = self.peer.encode()
        self._is_in = self._crowd.enter(self)
        if not self._is_in:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_in:
            self._is_in = False
            self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing() or self._is_last:
            return
        if self._came is not None:
            self._behind += data
            self.flow.pause_reading()
            return
        held, self._held = self._held, b""
        if held:
            data = held + data
        elif not self._is_between:
            self._feed(data)
            return
        if not self._goes_straight(data, may_wait=not held):
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._waited_for += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if nothing had been asked for
        except httptools.HttpParserError:
            self._refuse(self._refusal)
            return
        if self._waited_for or (self._is_working and self.cycle.more_body):
            self._wait_on()

    def pause_writing(self) -> None:
        self._crowd.stalls(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._crowd.reads(self)
        super().resume_writing()

    def shutdown(self) -> None:
        """As uvicorn's: the call under way is the last one."""
        self._stop_holding()
        self._must_close = True
        if self._came is None:
            super().shutdown()

    # --- straight.Socket ---

    def answer(self, rest: bytes) -> None:
        self._came = None
        if self.transport.is_closing():
            return
        self.server_state.total_requests += 1
        self.transport.write(_opening(self.server_state.default_headers, is_last=self._must_close) + rest)
        if self._must_close:
            self.transport.close()
            return
        self._crowd.rests(self)
        self._go_on()

    def go_the_common_way(self) -> bool:
        came, self._came = self._came, None
        if self.parser is None or self.transport.is_closing() or came is None:
            return False
        self._feed(came)
        if self._must_close:
            super().shutdown()
        self._go_on()
        return True

    # --- the parser's ---

    def on_message_begin(self) -> None:
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._waited_for > self._crowd.bounds.header_bytes and self._header_size() > self._crowd.bounds.header_bytes:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too large")
        self._waited_for = 0
        if not self._is_working:
            self._is_working = True
            self._crowd.works(self)
        if self._head:
            self.scope[HEAD], self._head = self._head, b""  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_begun = False
        self._waited_for = 0
        self._crowd.works(self)
        if self.cycle.response_complete:  # it went out before the body had come
            self.cycle.more_body = False
            self._crowd.rests(self)

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the crowd minds how long it rests."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._is_working = False
        self._waited_for = 0
        if self._is_last:
            self._refuse_now(self._refusal)
        elif self.cycle.more_body or self._has_begun:
            self._crowd.comes(self)
        else:
            self._crowd.rests(self)

    # --- its steps ---

    @property
    def _is_between(self) -> bool:
        """Whether what comes next begins a request, and nothing is under way."""
        is_busy = self._is_working or self._waited_for or self._has_begun or self.flow.write_paused
        return not is_busy and (self.cycle is None or not self.cycle.more_body)

    def _goes_straight(self, data: bytes, *, may_wait: bool) -> bool:
        """Whether this is one whole request that is answered by the straight way. If not, its head is noted.

        Also where it is the beginning of one that may be, if it `may_wait`.
        """
        straight = self._opening.straight
        end = data.find(_HEAD_END) + len(_HEAD_END)
        length = _LENGTH.search(data, 0, end)
        if straight is None or length is None:
            return False
        missing = int(length[1]) - (len(data) - end)
        if missing < 0 or (missing and not may_wait):
            return False
        start, stop = length.span(1)
        head, trace = b"%b\n%b\n%b" % (self._whose, data[:start], data[stop:end]), _UNTRACED
        if b"race" in head:
            trace = {
                name.lower().decode(): value.strip(b" \t").decode("latin-1") for name, value in _TRACE.findall(head)
            }
            head = _TRACE.sub(rb"\r\n\1:", head)
        self._head = hashlib.sha256(head).digest()
        if missing:
            return straight.knows(self._head) and self._hold(data)
        self._came = data
        if not straight.take(self, self._head, data[end:], trace):
            self._came = None
            return False
        self._head = b""
        self._crowd.works(self)
        return True

    def _hold(self, data: bytes) -> bool:
        self._held = data
        self._crowd.comes(self)
        return True

    def _stop_holding(self) -> None:
        """The rest takes long: the parser, and whoever reads a body, mind its time."""
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self._feed(held)

    def _go_on(self) -> None:
        """With what has come behind the request that is answered."""
        if not self.transport.is_closing():
            self.flow.resume_reading()
        if self._behind:
            behind, self._behind = bytes(self._behind), bytearray()
            self.data_received(behind)

    @property
    def _is_reading_on(self) -> bool:
        """Whether the rest of a body comes whose request is answered, as its beginning was enough."""
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _wait_on(self) -> None:
        if self._is_reading_on:
            if self._waited_for > self._crowd.bounds.body_bytes:
                self.abort()
        elif self._is_working and self.cycle.more_body:
            self._waited_for = 0  # of a body, which whoever reads it bounds
            self._crowd.sends(self)
        elif self._waited_for > self._crowd.bounds.header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif not self._is_working:
            self._crowd.comes(self)

    def _header_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, status: HTTPStatus) -> None:
        """Says why and closes; after the answers that are under way, if any are."""
        if self.cycle is None or self.cycle.response_complete:
            self._refuse_now(status)
        elif self.pipeline or not self.cycle.more_body:
            self._refuse_as_last(status)
        elif self.cycle.response_started:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        else:  # a broken body: its call is told that the client has left, and recorded
            self._say(status)

    def _refuse_now(self, status: HTTPStatus) -> None:
        self._crowd.refuse(_ADVICE[status][0], self)
        self._say(status)

    def _refuse_as_last(self, status: HTTPStatus) -> None:
        """What is broken stands behind whole requests, which are answered first."""
        self._refusal, self._is_last = status, True
        if self.cycle.more_body:  # it waits in the line itself
            self.pipeline.popleft()

    def _say(self, status: HTTPStatus, more: str = "") -> None:
        error, message = _ADVICE[status]
        body = msgspec.json.encode({"error": error, "message": message})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n{more}\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _opening(headers: list[tuple[bytes, bytes]], *, is_last: bool) -> bytes:
    """What every good answer begins with, as uvicorn's cycle writes it."""
    pieces = [STATUS_LINE[HTTPStatus.OK]]
    for header in headers:
        pieces.append(b"%b: %b\r\n" % header)
    if is_last:
        pieces.append(b"connection: close\r\n")
    return b"".join(pieces)
