"""A worker's end of the line to its parent: sockets come in, and what has become of them goes back.

Each message is one packet of a Unix socket (SOCK_SEQPACKET); a client's socket comes beside its packet (SCM_RIGHTS,
unix(7)). The parent's end closes with the parent, and so its workers end when it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from headgate.serving.serve import Orders

if TYPE_CHECKING:
    from headgate.server.listen import Server

CLIENT = b"c"
"""To the worker: a client's socket comes beside this."""
DRAIN = b"d"
"""To the worker: end. (That there is a hurry, and that files have changed, are signals.)"""
READY = b"R"
"""To the parent: sockets can come."""
ENDING = b"E"
"""To the parent: no more sockets."""
LEFT = b"-"
"""To the parent, with how many: so many clients have left."""
TAKEN = b"T"
"""To the parent, with a version: that config holds now."""
PACKET = 512
"""Bytes that no message exceeds."""
_AT_ONCE = 32


class Handed:
    """Every socket that the parent hands over. A `listen.Entry`."""

    def __init__(self, line: socket.socket, orders: Orders) -> None:
        self._line = line
        self._orders = orders
        self._left = 0
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, server: Server) -> Callable[[], None]:
        """Takes sockets from now on; the orders that come between them are followed from the start."""
        loop = asyncio.get_running_loop()
        self._line.setblocking(False)
        loop.add_reader(self._line.fileno(), self._read, server)
        server.crowd.left = self._also(server.crowd.left)
        return lambda: self._say(ENDING)

    def ready(self) -> None:
        """Tells the parent that sockets can come."""
        self._say(READY)

    def taken(self, version: str) -> None:
        """Tells the parent which config holds now."""
        self._say(TAKEN + version.encode())

    # --- in ---

    def _read(self, server: Server) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet, files, _, _ = socket.recv_fds(self._line, PACKET, 1)
            except BlockingIOError:
                return
            except OSError:
                packet, files = b"", []
            for file in files:
                self._open(server, socket.socket(fileno=file))
            if packet[:1] != CLIENT and not self._follow(packet):
                return

    def _follow(self, packet: bytes) -> bool:
        """Answers whether more may come."""
        if packet == DRAIN:
            self._orders.stop.set()
        elif not packet:  # the parent is gone
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._orders.stop.set()
        return bool(packet)

    def _open(self, server: Server, client: socket.socket) -> None:
        if self._orders.stop.is_set():  # it was on its way when this one was told to end
            client.close()
            self._tell_left()
            return
        client.setblocking(False)
        task = asyncio.ensure_future(self._connect(server, client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, server: Server, client: socket.socket) -> None:
        from headgate.server.listen import handshake

        loop = asyncio.get_running_loop()
        entered = False

        def protocol() -> asyncio.Protocol:
            nonlocal entered
            made = server.protocol()
            entered = True
            return made

        try:
            await loop.connect_accepted_socket(protocol, client, **handshake(server))
        except (OSError, asyncio.CancelledError):
            client.close()  # it left in the middle of its greeting
            if not entered or server.tls is not None:
                self._tell_left()

    # --- out ---

    def _also(self, left: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            left()
            self._tell_left()

        return both

    def _tell_left(self) -> None:
        """Many that leave at once are told of at once."""
        self._left += 1
        if self._left == 1:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        left, self._left = self._left, 0
        self._say(LEFT + str(left).encode())

    def _say(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which the other direction tells
            self._line.send(packet)
