"""One connection to Redis that any number of concurrent reads of an event loop share.

What is asked within one turn of the loop leaves in one write, and so shares a round trip; replies come in the
order of the questions (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/#request-response).
Packing and parsing are hiredis'. For commands that change nothing of the connection: no SELECT, WATCH,
SUBSCRIBE or blocking command.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar, cast
from weakref import WeakValueDictionary

import hiredis
import msgspec
from redis.connection import SSLConnection, parse_url
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

from headgate.connections.redis import Config, guard
from headgate.errors import Unavailable

Command = tuple[bytes | str | int | float, ...]

T = TypeVar("T")

_LOST: Final = "the connection to Redis was lost: try again"
_SILENT: Final = "Redis does not answer in time: try again"
_PARTS: Final = 4
"""Into which a timeout is cut. A loop that is busy for long hears nobody: whatever it misses costs one part."""

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


class Script:
    """A Lua script, and the digest by which a server that has seen it knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Multiplexed:
    """Connects on first use, on the event loop of that use, and must be used on that loop alone.

    A lost connection fails what is in flight with Unavailable; the next question opens a new one. A cancelled
    question leaves nothing behind: its reply is read and dropped.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None
        self._closed = False
        self._holders = 1

    @property
    def can_be_shared(self) -> bool:
        """Whether it is open to one more holder."""
        return not self._closed

    def share(self) -> Multiplexed:
        """The same connection for one more holder, who closes it too."""
        self._holders += 1
        return self

    async def ask(self, *command: bytes | str | int | float) -> Any:
        """The reply to one command. Unavailable or StoreError when there is none."""
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._opened()
        with guard():
            (reply,) = await wire.exchange([command])
            if isinstance(reply, RedisError):
                raise reply
        return reply

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands that are sent one behind the other; nothing of others' comes between.

        The first reply that is an error is raised.
        """
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._opened()
        with guard():
            replies = await wire.exchange(commands)
            for reply in replies:
                if isinstance(reply, RedisError):
                    raise reply
        return replies

    async def run(self, script: Script, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]) -> Any:
        """The reply of a script, which is loaded where the server has not seen it yet."""
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._opened()
        with guard():
            (reply,) = await wire.exchange([("EVALSHA", script.sha, len(keys), *keys, *arguments)])
            if isinstance(reply, NoScriptError):
                (reply,) = await wire.exchange([("EVAL", script.source, len(keys), *keys, *arguments)])
            if isinstance(reply, RedisError):
                raise reply
        return reply

    def begin(
        self,
        script: Script,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str | int],
        read: Callable[[Any], T],
    ) -> asyncio.Future[T]:
        """As `run`, but sent at once, as soon as there is a connection; ends as what `read` makes of the reply."""
        wire = self._wire
        if wire is None or wire.lost or wire.is_full:
            return asyncio.ensure_future(self._run_and_read(script, keys, arguments, read))
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def replied(replies: list[Any]) -> None:
            if isinstance(replies[0], NoScriptError) and not ended.done():
                _pass_on(asyncio.ensure_future(self._run_and_read(script, keys, arguments, read)), ended)
            else:
                _end(ended, replies[0], read)

        wire.post((("EVALSHA", script.sha, len(keys), *keys, *arguments),), replied)
        return ended

    def post(self, packed: bytes, told: Callable[[Any], None]) -> bool:
        """Sends one command, as `packed_command` makes it, by the end of this turn of the loop; see `Question.send`.

        What `told` gets is for `replied` to read.
        """
        wire = self._wire
        if wire is None or wire.lost or wire.is_full:
            return False
        wire.post_packed(packed, told)
        return True

    async def _run_and_read(
        self,
        script: Script,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str | int],
        read: Callable[[Any], T],
    ) -> T:
        return read(await self.run(script, keys, arguments))

    async def close(self) -> None:
        """Lets go. The last holder ends it: what is in flight then fails. Never raises."""
        self._holders -= 1
        if self._holders > 0:
            return
        self._closed = True
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort(_LOST)

    async def _opened(self) -> _Wire:
        """The open wire. All who come while it is being opened wait for the one attempt."""
        if self._closed:
            raise Unavailable("this process is stopping: try again at another one")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened_or_not)
        return await asyncio.shield(self._opening)

    def _opened_or_not(self, opening: asyncio.Task[_Wire]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._wire = opening.result()

    async def _open(self) -> _Wire:
        address: dict[str, Any] = dict(_parse_url(self._config.url.get_secret_value()))
        loop = asyncio.get_running_loop()

        async def connected() -> _Wire:
            _, wire = await loop.create_connection(
                lambda: _Wire(loop, self._config.timeout_s),
                address.get("host", "localhost"),
                address.get("port", 6379),
                ssl=_tls(self._config, address) if address.get("connection_class") is SSLConnection else None,
            )
            try:
                for reply in await wire.exchange(_greeting(self._config, address)):
                    if isinstance(reply, RedisError):
                        raise reply
            except BaseException:
                wire.abort(_LOST)
                raise
            return wire

        with guard():
            return await _within(self._config.timeout_s, connected())


def shared(config: Config) -> Multiplexed:
    """The one connection of whoever is given this very `config`, all on one event loop: each of them closes it."""
    known = _shared.get(id(config))
    if known is not None and known.can_be_shared:
        return known.share()
    made = _shared[id(config)] = Multiplexed(config)
    return made


_shared: WeakValueDictionary[int, Multiplexed] = WeakValueDictionary()


def replied(reply: Any) -> Any:
    """The reply to one command. Unavailable or StoreError where it is none."""
    if isinstance(reply, RedisError):
        with guard():
            raise reply
    return reply


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work. TimeoutError, and it is cancelled, when it takes longer than that."""
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_PARTS):
            done, _ = await asyncio.wait({task}, timeout=seconds / _PARTS)
            if done:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _end(ended: asyncio.Future[T], reply: Any, read: Callable[[Any], T]) -> None:
    """Ends the future as what `read` makes of the reply, unless whoever waited was cancelled."""
    if ended.done():
        return
    try:
        ended.set_result(read(replied(reply)))
    except Exception as error:
        ended.set_exception(error)


def _pass_on(task: asyncio.Task[T], ended: asyncio.Future[T]) -> None:
    """Ends the future as the task ends."""

    def passed(_: object) -> None:
        if ended.done() or task.cancelled():
            ended.cancel()
        elif (error := task.exception()) is not None:
            ended.set_exception(error)
        else:
            ended.set_result(task.result())

    task.add_done_callback(passed)


_parse_url = cast("Callable[[str], Mapping[str, Any]]", parse_url)  # untyped
packed_command = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""A command as it is sent."""


class _Question(msgspec.Struct, frozen=True):
    """Replies still owed to one exchange, and who is told of them, or of the failure as the only one."""

    replies: list[Any]
    expected: int
    told: Callable[[list[Any]], None]


class _Wire(asyncio.Protocol):
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
        self.lost = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, errors among them. Raises the client library's ConnectionError when they can't come."""
        while self.is_full:
            await self._room.wait()
        if self.lost:
            raise RedisConnectionError(_LOST)
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
        self._fail(_LOST)

    # --- its steps ---

    def _make_room(self) -> None:
        self.is_full = False
        self._room.set()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(outgoing))

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
        self._watch = self._loop.call_later(self._timeout_s / _PARTS, self._look)

    def _look(self) -> None:
        """A connection that owes replies and has said nothing for so many parts of the time is a broken one."""
        self._watch = None
        if not self._owed or self.lost:
            return
        self._silent_parts += 1
        if self._silent_parts < _PARTS:
            self._look_later()
        else:  # timers come before what waits in the socket: a whole turn of the loop lies between two `call_soon`
            self._watch = self._loop.call_soon(self._judge_next)

    def _judge_next(self) -> None:
        self._watch = self._loop.call_soon(self._judge)

    def _judge(self) -> None:
        self._watch = None
        if not self._owed or self.lost:
            return
        if self._silent_parts < _PARTS:
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


def _greeting(config: Config, address: Mapping[str, Any]) -> list[Command]:
    """What a connection begins with: who we are, and which database."""
    user = config.username or address.get("username")
    secret = config.password.get_secret_value() if config.password else address.get("password")
    commands: list[Command] = []
    if secret:
        commands.append(("AUTH", user, secret) if user else ("AUTH", secret))
    if address.get("db"):
        commands.append(("SELECT", address["db"]))
    commands.append(("PING",))
    return commands


def _tls(config: Config, address: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.tls_ca) if config.tls_ca else None)
    if config.tls_cert is not None:
        context.load_cert_chain(str(config.tls_cert), str(config.tls_key) if config.tls_key else None)
    if address.get("ssl_cert_reqs") == "none":  # said in the URL, as redis-py takes it
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _error_of(text: str) -> RedisError:
    """An error reply as the exception that the client library would make of it."""
    if text.startswith("ERR AUTH"):  # a password where none is set; no code of its own tells
        return AuthenticationError(text)
    code = text.partition(" ")[0]
    return _ERRORS.get(code, ResponseError)(text)
