"""One connection that speaks in pipelines: WATCH and what depends on it must never part ways."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis
import redis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError

from headgate.connections.redis import guard
from headgate.errors import Unavailable
from headgate.stores.redis.packing import Packed

Command: TypeAlias = Sequence[Any] | Packed
"""A command's words, or commands that are packed already."""
_NOT_YET = object()
_RECEIVE = 1 << 16
_SEND = 1 << 20
_MULTI, _EXEC = hiredis.pack_command(("MULTI",)), hiredis.pack_command(("EXEC",))
_OK, _QUEUED = b"+OK\r\n", b"+QUEUED\r\n"


class Posted:
    """Commands that were sent, and their replies once they were collected.

    Of a transaction's, the last one alone: that its commands are queued says nothing, unless one was refused.
    """

    __slots__ = ("error", "packed", "replies")

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self.replies: list[Any] | None = None
        self.error: Exception | None = None
        """The first one among the replies, or within them."""


class Link:
    """A connection of a writer's own. A failure closes it, and with it every WATCH; the next question opens it anew.

    Replies come in the order of what was sent. What was posted before may be collected later, but for a failure.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._wire: _Wire | None = None
        self._posted: deque[Posted] = deque()
        self.turns = 0
        """Grows whenever something is sent, and when the connection is closed: as long as it stays the same, what was
        watched last is watched still."""

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands together and answers their replies. Unavailable or StoreError when any fails."""
        return self.collect(self.post(commands))

    def post(self, commands: Sequence[Command]) -> Posted:
        """Sends commands together, and does not wait for their replies."""
        self.turns += 1
        with guard():
            packed = pack(commands)
            posted = Posted(packed)
            try:
                self._open().send(packed.data)
            except BaseException:
                self.drop()
                raise
            self._posted.append(posted)
            return posted

    def collect(self, posted: Posted) -> list[Any]:
        """The replies to what was posted. Unavailable or StoreError when any failed; the connection is then closed."""
        with guard():
            try:
                replies = self._received(posted)
                if posted.error is not None:  # the first says more than EXEC's own
                    raise posted.error
            except BaseException:
                self.drop()
                raise
        return replies

    def write(self, commands: Sequence[Command]) -> list[Any]:
        """A transaction that depends on nothing that was read. Answers its replies."""
        replies: list[Any] = self.ask([("UNWATCH",), transaction(commands)])[-1] or []
        return replies

    def transact(self, commands: Sequence[Command]) -> bool:
        """A transaction on the connection that the last `ask` watched on.

        False when a watched key has changed: nothing was done. On an error it may have been done or not.
        """
        if self._wire is None:
            raise Unavailable("Redis does not answer: try again")
        return self.is_done(self.post([transaction(commands)]))

    def is_done(self, posted: Posted) -> bool:
        """Whether the transaction that was posted was done, or else nothing of it."""
        return self.collect(posted)[-1] is not None

    def close(self) -> None:
        """Closes the connection and its client. Never raises."""
        self.drop()
        try:
            self._client.close()
        except (RedisError, OSError):
            pass  # it is gone either way

    def drop(self) -> None:
        """Closes the connection; what was posted and not collected may have been done or not. Never raises."""
        self.turns += 1
        wire, self._wire = self._wire, None
        self._posted.clear()
        if wire is not None:
            wire.close(self._client)

    def _open(self) -> _Wire:
        if self._wire is None:
            self._wire = _Wire(self._client)
        return self._wire

    def _received(self, posted: Posted) -> list[Any]:
        while posted.replies is None:
            if self._wire is None or not self._posted:
                raise RedisConnectionError("the connection was lost before the reply came")
            first = self._posted.popleft()
            first.replies, first.error = self._wire.receive(first.packed)
        return posted.replies


def pack(commands: Sequence[Command]) -> Packed:
    """Commands as they are sent together."""
    if len(commands) == 1 and isinstance(commands[0], Packed):
        return commands[0]
    packed = [one if isinstance(one, Packed) else Packed(hiredis.pack_command(tuple(one)), 1) for one in commands]
    return Packed(b"".join([one.data for one in packed]), sum([one.replies for one in packed]))


def transaction(commands: Sequence[Command]) -> Packed:
    """The commands as one transaction. Its last reply is None if a watched key has changed."""
    packed = pack(commands)
    return Packed(b"%b%b%b" % (_MULTI, packed.data, _EXEC), packed.replies + 2, packed.replies)


class _Wire:
    """The socket that the client's library has opened and greeted, read by hiredis at once.

    The library reads reply by reply, which takes longer than all else; a step with many index entries has hundreds.
    Nor may its health check come between a WATCH and what depends on it.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._connection: Any = client.connection_pool.get_connection()
        self._socket = cast(Any, self._connection._sock)
        # A step fits in, so that sending it does not wait until the server has read most of it.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND)
        self._buffer = memoryview(bytearray(_RECEIVE))
        self._errors: list[Exception] = []
        self._reader: Any = hiredis.Reader(  # its types know no memoryview
            protocolError=InvalidResponse, replyError=_noting(self._errors), notEnoughData=_NOT_YET
        )

    def send(self, packed: bytes) -> None:
        """Sends all of it."""
        try:
            self._socket.sendall(packed)
        except OSError as error:
            raise RedisConnectionError("the connection was lost") from error

    def receive(self, packed: Packed) -> tuple[list[Any], Exception | None]:
        """The replies to the next commands that were sent, and the first error among or within them.

        Those that only say that a transaction's commands are queued are left out, where all say that.
        """
        self._errors.clear()
        count = packed.replies
        if packed.queued and self._passed_over(_OK + _QUEUED * packed.queued):
            count = 1
        replies: list[Any] = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is _NOT_YET:
                self._reader.feed(self._read())
            else:
                replies.append(reply)
        return replies, self._errors[0] if self._errors else None

    def close(self, client: redis.Redis) -> None:
        """Gives the connection back, closed. Never raises."""
        try:
            self._connection.disconnect()
            client.connection_pool.release(self._connection)
        except (RedisError, OSError):
            pass  # a broken connection has nothing to say

    def _passed_over(self, usual: bytes) -> bool:
        """Reads so many bytes. Answers whether they are these; what else there is, the reader has got."""
        if self._reader.has_data():
            return False  # a reply that came sooner than it was asked for: never, by the order of questions
        found = b""
        while len(found) < len(usual) and usual.startswith(found):
            found += self._read()
        is_usual = found.startswith(usual)
        self._reader.feed(found[len(usual) :] if is_usual else found)
        return is_usual

    def _read(self) -> memoryview:
        """What the socket brings next. Good until the next time."""
        try:
            size = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise RedisConnectionError("the connection was lost") from error
        if not size:
            raise RedisConnectionError("the server has closed the connection")
        return self._buffer[:size]


def _noting(errors: list[Exception]) -> Callable[[str], Exception]:
    """Makes errors of their texts, and notes each: looking for them among thousands of replies costs more."""

    def made(text: str) -> Exception:
        error: Exception = cast(Any, DefaultParser).parse_error(text)  # it has no types
        errors.append(error)
        return error

    return made
