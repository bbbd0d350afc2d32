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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from redis.connection import SSLConnection, parse_url
from redis.exceptions import (
    NoScriptError,
    RedisError,
)

from headgate.connections._wire import LOST, PARTS, Command, Wire
from headgate.connections.redis import Config, guard
from headgate.errors import Unavailable

T = TypeVar("T")


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
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
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
            wire.abort(LOST)

    async def _opened(self) -> Wire:
        """The open wire. All who come while it is being opened wait for the one attempt."""
        if self._closed:
            raise Unavailable("this process is stopping: try again at another one")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened_or_not)
        return await asyncio.shield(self._opening)

    def _opened_or_not(self, opening: asyncio.Task[Wire]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._wire = opening.result()

    async def _open(self) -> Wire:
        address: dict[str, Any] = dict(_parse_url(self._config.url.get_secret_value()))
        loop = asyncio.get_running_loop()

        async def connected() -> Wire:
            _, wire = await loop.create_connection(
                lambda: Wire(loop, self._config.timeout_s),
                address.get("host", "localhost"),
                address.get("port", 6379),
                ssl=_tls(self._config, address) if address.get("connection_class") is SSLConnection else None,
            )
            try:
                for reply in await wire.exchange(_greeting(self._config, address)):
                    if isinstance(reply, RedisError):
                        raise reply
            except BaseException:
                wire.abort(LOST)
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
        for _ in range(PARTS):
            done, _ = await asyncio.wait({task}, timeout=seconds / PARTS)
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
