"""Where the HTTP door stands: the port, and the sockets that come through it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from headgate.errors import ConfigError
from headgate.server.answers import send_json
from headgate.server.crowd import Bounds, Crowd, raise_files
from headgate.server.guard import GuardedHttp
from headgate.server.headers import is_loopback
from headgate.server.http import Door

_PORTS_TRIED = 100
_SWEEP_S = 0.5
_FLUSH_S = 1.0
_LISTEN = 2_048


@dataclass(frozen=True)
class Ending:
    """How a server is told to end. `hurry` lets it wait for nobody any more."""

    stop: asyncio.Event
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Entry(Protocol):
    """Where a server's sockets come from."""

    async def open(self, server: Server) -> Callable[[], None]:
        """Hands each socket to the server from now on; what is answered ends that."""


async def serve(
    door: Door,
    host: str,
    port: int,
    *,
    ready: Callable[[int], None],
    stop: asyncio.Event,
    has_identity: bool,
    hurry: asyncio.Event | None = None,
    bounds: Bounds | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves until `stop` is set, then lets calls under way end within the bounds' `grace_s` and returns.

    `ready` is called with the port once requests are answered; port 0 takes a free one. It minds no signals:
    its owner does. ConfigError when the port is busy (naming the next free one), or when the address is open
    to others while nobody has to say who they are.
    """
    check_open_to(host, has_identity=has_identity)
    listener = bind(host, port)
    with contextlib.closing(listener):
        server = Server(door, bounds or Bounds(), tls)
        ending = Ending(stop, hurry or asyncio.Event())
        await server.run(Listening(listener), lambda: ready(listener.getsockname()[1]), ending)


def check_open_to(host: str, *, has_identity: bool) -> None:
    """ConfigError when the address is open to others while nobody has to say who they are."""
    if not has_identity and not is_loopback(host):
        raise ConfigError(
            f"{host} is open to other machines, and no identity is configured: name issuers under access:, "
            "make an API key (headgate key make), or bind to 127.0.0.1"
        )


class Server:
    """HTTP on whatever sockets come. For one event loop; serves once."""

    def __init__(self, door: Door, bounds: Bounds, tls: ssl.SSLContext | None = None) -> None:
        raise_files()
        self.tls = tls
        self.crowd = Crowd(bounds, door.count_refusal, time.monotonic, self._someone_left)
        self._empty = asyncio.Event()
        self._door = door
        self._state = ServerState()
        self._config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            ws="none",
            lifespan="off",
            proxy_headers=False,  # who asks from where is not for a header to say
            server_header=False,
            access_log=False,
            log_config=None,
        )
        self._config.load()

    def protocol(self) -> GuardedHttp:
        """What speaks with one more client."""
        return GuardedHttp(self.crowd, self._config, self._state, self._door)

    async def run(self, entry: Entry, ready: Callable[[], None], ending: Ending) -> None:
        """Serves until it is told to end, and then ends what is under way."""
        async with self._door.running():
            beside = asyncio.ensure_future(self._tick())
            try:
                close = await entry.open(self)
                try:
                    ready()
                    await ending.stop.wait()
                finally:
                    close()
                    await self._drain(ending.hurry)
            finally:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            self.crowd.sweep()
            await asyncio.sleep(_SWEEP_S)

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Streams end, calls under way get the grace, and those that do not end by then are cancelled."""
        self._door.drain()
        for each in list(self._state.connections):
            each.shutdown()
        await _either(self._door.settled(), hurry, self.crowd.bounds.grace_s)
        await self._wait_for_tasks(self.crowd.bounds.grace_s, hurry)
        for task in list(self._state.tasks):
            task.cancel()
        await self._wait_for_tasks(_FLUSH_S, hurry)
        if self.crowd.count:
            await _either(self._empty.wait(), hurry, _FLUSH_S)  # what was said last is on its way
        for each in list(self._state.connections):
            each.transport.abort()
        await asyncio.sleep(0)

    async def _wait_for_tasks(self, seconds: float, hurry: asyncio.Event) -> None:
        if self._state.tasks:
            await _either(asyncio.wait(list(self._state.tasks)), hurry, seconds)

    def _someone_left(self) -> None:
        if self.crowd.count == 0:
            self._empty.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The door's answer; that it was cut off, where there is no time for it any more."""
        try:
            await self._door(scope, receive, send)
        except asyncio.CancelledError:
            error = {"error": "unavailable", "message": "This server is stopping: try again at another one."}
            with contextlib.suppress(RuntimeError):  # its answer has begun
                await send_json(send, 503, error, [(b"retry-after", b"1"), (b"connection", b"close")])


class Listening:
    """An `Entry`: everyone who connects to a listening socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    async def open(self, server: Server) -> Callable[[], None]:
        """Accepts from now on."""
        tls: dict[str, Any] = handshake(server)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server.protocol, sock=self._listener, backlog=_LISTEN, **tls)
        return listening.close


def handshake(server: Server) -> dict[str, Any]:
    """What a loop is told of the server's TLS."""
    return {"ssl": server.tls, "ssl_handshake_timeout": server.crowd.bounds.header_s} if server.tls else {}


async def _either(done: Coroutine[Any, Any, object], hurry: asyncio.Event, seconds: float) -> None:
    """Waits for that, or until there is a hurry, or for so long."""
    waiting = [asyncio.ensure_future(each) for each in (done, hurry.wait())]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. ConfigError when the port is busy or the address is not this machine's."""
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = next_free_port(host, port)
            advice = f": port {free} is free" if free else ""
            raise ConfigError(f"port {port} is busy{advice}", free_port=free) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ConfigError(f"this user may not open port {port}: choose one from 1024 on") from error
        raise ConfigError(f"can't listen at {host}: choose an address of this machine") from error


def next_free_port(host: str, port: int) -> int | None:
    """The next port after `port` that nothing listens on now, if there is one near."""
    for candidate in range(port + 1, min(port + _PORTS_TRIED, 65_536)):
        try:
            _bound(host, candidate).close()
        except OSError:
            continue
        return candidate
    return None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_LISTEN)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
