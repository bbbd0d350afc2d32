"""One open connection to Redis: commands leave as they are asked, and replies come in their order.

What is asked within one turn of the loop leaves in one write, or in a few where it is a lot.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
import msgspec
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

Command = tuple[bytes | str | int | float, ...]

LOST: Final = "the connection to Redis was lost: try again"
_SILENT: Final = "Redis does not answer in time: try again"
PARTS: Final = 4
"""Into which a timeout is cut. A loop that is busy for long hears nobody: whatever it misses costs one part."""

_EAGER: Final = 32
"""So many commands leave before the turn ends, so that Redis has work while it lasts."""

_FEW: Final = 2
"""Replies to so many commands, which are one call's, are waited for without going to sleep."""
_MOMENT_S: Final = 0.000_2
"""Longer than Redis takes. To sleep and to be woken takes about as long."""
_DEAF_FOR: Final = 100
"""So many times that is not tried again, after the moment has passed without the replies."""
_AT_ONCE: Final = 64 * 1024

_ERRORS: Final[dict[str, type[RedisError]]] = {
    "NOSCRIPT": NoScriptError,
    "LOADING": BusyLoadingError,
    "READONLY": ReadOnlyError,
    "MASTERDOWN": BusyLoadingError,
    "OOM": OutOfMemoryError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "NOPERM": NoPermissionError,
}

packed_command = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""A command as it is sent."""


class _Question(msgspec.Struct, frozen=True):
    """Replies still owed to one exchange, and who is told of them, or of the failure as the only one."""

    replies: list[Any]
    expected: int
    told: Callable[[list[Any]], None]


class Wire(asyncio.Protocol):
    """The two directions of one open connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._reader = hiredis.Reader(replyError=_error_of, protocolError=RedisConnectionError)
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._owed: deque[_Question | Callable[[Any], None]] = deque()
        """Who is owed one reply alone is called with it, or with the failure."""
        self._room = asyncio.Event()
        self._room.set()
        self.is_full = False
        """Whether nothing more is to be sent just now."""
        self._watch: asyncio.Handle | None = None
        self._silent_parts = 0
        self._descriptor: int | None = None
        """Of the socket, where its bytes are the replies themselves."""
        self._incoming = select.poll()
        self._deaf_for = 0
        self.lost = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, errors among them. Raises the client library's ConnectionError when they can't come."""
        while self.is_full:
            await self._room.wait()
        if self.lost:
            raise RedisConnectionError(LOST)
        answered: asyncio.Future[list[Any]] = self._loop.create_future()

        def told(replies: list[Any]) -> None:
            if answered.done():
                return  # whoever waited was cancelled
            if len(replies) < len(commands):
                answered.set_exception(replies[0])
            else:
                answered.set_result(replies)

        self.post(commands, told)
        return await answered

    def post(self, commands: Sequence[Command], told: Callable[[list[Any]], None]) -> None:
        """Sends them by the end of this turn of the loop; `told` gets the replies, or one error alone when it fails."""
        self._owe(_Question([], len(commands), told))
        self._outgoing += map(packed_command, commands)

    def post_packed(self, packed: bytes, told: Callable[[Any], None]) -> None:
        """As `post`, of one command that is packed; `told` gets its one reply, or the error."""
        self._owe(told)
        self._outgoing.append(packed)
        if len(self._outgoing) >= _EAGER:
            self._flush()

    def _owe(self, question: _Question | Callable[[Any], None]) -> None:
        """What is asked leaves at the end of this turn; from now on Redis is listened to for its replies."""
        if not self._owed:
            self._silent_parts = 0
            self._watch_silence()
        self._owed.append(question)
        if not self._outgoing:
            self._loop.call_soon(self._flush)

    def abort(self, reason: str) -> None:
        """Ends the connection at once; what is in flight fails."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(reason)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's classes
        if transport.get_extra_info("ssl_object") is None:
            self._transport.set_write_buffer_limits(high=0)  # uvloop else writes when the turn ends
            self._descriptor = transport.get_extra_info("socket").fileno()
            self._incoming.register(self._descriptor, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        self._silent_parts = 0
        self._reader.feed(data)
        try:
            self._take_replies()
        except RedisConnectionError:
            self.abort("Redis sent what is not its protocol: look at what listens there")

    def pause_writing(self) -> None:
        self.is_full = True
        self._room.clear()

    def resume_writing(self) -> None:
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(LOST)

    # --- its steps ---

    def _make_room(self) -> None:
        self.is_full = False
        self._room.set()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self.lost:
            self._transport.write(b"".join(outgoing))
            if len(self._owed) <= _FEW:
                self._listen()

    def _listen(self) -> None:
        """Waits for the replies here and now, for a moment at most; whatever comes later comes by the loop."""
        if self._deaf_for or self._descriptor is None:
            self._deaf_for -= self._deaf_for > 0
            return
        until = time.monotonic() + _MOMENT_S
        while self._owed and time.monotonic() < until:
            if not self._incoming.poll(0):
                continue
            try:
                data = os.read(self._descriptor, _AT_ONCE)
            except OSError:
                return  # the loop meets it too, as it does an end
            if not data:
                return
            self.data_received(data)
        if self._owed:
            self._deaf_for = _DEAF_FOR

    def _take_replies(self) -> None:
        gets, owed = self._reader.gets, self._owed
        while owed:
            reply = gets()
            if reply is False:
                return
            question = owed[0]
            if not isinstance(question, _Question):
                owed.popleft()
                question(reply)
                continue
            replies = question.replies
            replies.append(reply)
            if len(replies) == question.expected:
                owed.popleft()
                question.told(replies)

    def _watch_silence(self) -> None:
        if self._watch is None:
            self._look_later()

    def _look_later(self) -> None:
        self._watch = self._loop.call_later(self._timeout_s / PARTS, self._look)

    def _look(self) -> None:
        """A connection that owes replies and has said nothing for so many parts of the time is a broken one."""
        self._watch = None
        if not self._owed or self.lost:
            return
        self._silent_parts += 1
        if self._silent_parts < PARTS:
            self._look_later()
        else:  # timers come before what waits in the socket: a whole turn of the loop lies between two `call_soon`
            self._watch = self._loop.call_soon(self._judge_next)

    def _judge_next(self) -> None:
        self._watch = self._loop.call_soon(self._judge)

    def _judge(self) -> None:
        self._watch = None
        if not self._owed or self.lost:
            return
        if self._silent_parts < PARTS:
            self._look_later()
        else:
            self.abort(_SILENT)

    def _fail(self, reason: str) -> None:
        self.lost = True
        self._make_room()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        owed, self._owed = self._owed, deque()
        for question in owed:
            error = RedisConnectionError(reason)
            if isinstance(question, _Question):
                question.told([error])
            else:
                question(error)


def _error_of(text: str) -> RedisError:
    """An error reply as the exception that the client library would make of it."""
    if text.startswith("ERR AUTH"):  # a password where none is set; no code of its own tells
        return AuthenticationError(text)
    code = text.partition(" ")[0]
    return _ERRORS.get(code, ResponseError)(text)
