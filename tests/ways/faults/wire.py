"""A wire to a server, which can be cut, and led to another server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from types import TracebackType

_LOOPBACK = "127.0.0.1"


class Wire:
    """A port of ours whose connections go on to a port behind it. For the length of a block."""

    def __init__(self, target: int) -> None:
        self.target = target
        """Where new connections go."""
        self._listening = socket.create_server((_LOOPBACK, 0))
        self.port: int = self._listening.getsockname()[1]
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.cuts = 0
        """How many connections were cut."""

    @property
    def carries(self) -> bool:
        """Whether there is a connection that a cut would end."""
        return bool(self._ends)

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, name="wire", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Ends every connection, in the middle of whatever it carries. New ones are taken at once."""
        with self._lock:
            ends, self._ends = self._ends, set()
        self.cuts += len(ends) // 2
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def lead_to(self, target: int) -> None:
        """Cuts, and from now on goes elsewhere."""
        self.target = target
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection((_LOOPBACK, self.target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._ends |= {near, far}
            closing = threading.Barrier(2, action=partial(self._close, near, far))
            for one, other, pieces in ((near, far, _pieces(near)), (far, near, self._answers(far))):
                carried = (one, other, pieces, closing)
                threading.Thread(target=self._carry, args=carried, name="wire", daemon=True).start()

    def _answers(self, far: socket.socket) -> Iterator[bytes]:
        """What the server says, as its client is to hear it."""
        return _pieces(far)

    def _carry(
        self, one: socket.socket, other: socket.socket, pieces: Iterator[bytes], closing: threading.Barrier
    ) -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                other.sendall(piece)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        closing.wait()

    def _close(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._ends -= {near, far}
        near.close()
        far.close()


class BrokerWire(Wire):
    """A wire to a Kafka broker, which stays between the two.

    A broker tells its clients where to connect to; what it says of its own address is led to the wire.
    """

    @property
    def bootstrap_servers(self) -> str:
        """What a Kafka client connects to."""
        return f"{_LOOPBACK}:{self.port}"

    def _answers(self, far: socket.socket) -> Iterator[bytes]:
        # Kafka's protocol: each answer follows its length, and a port of four bytes follows each host.
        its, ours = (_LOOPBACK.encode() + struct.pack(">i", port) for port in (self.target, self.port))
        while len(size := far.recv(4, socket.MSG_WAITALL)) == 4:
            yield size + far.recv(int.from_bytes(size), socket.MSG_WAITALL).replace(its, ours)


def _pieces(end: socket.socket) -> Iterator[bytes]:
    while piece := end.recv(65_536):
        yield piece
