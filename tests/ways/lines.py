"""A client's connection by the byte: it sends whatever it is given, and reads the answers one by one."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_OPENED = (b"event: endpoint", b'"notifications/subscriptions/acknowledged"')
"""How a stream begins that has no end."""
_SIZE = re.compile(rb"[0-9a-fA-F]+")


class Answered(NamedTuple):
    """One answer as HTTP has it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """One connection to a port of this machine. Of a stream without an end it hears that it has begun, and leaves."""

    def __init__(self, port: int) -> None:
        self.is_open = True
        """Whether another request may follow."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._came = bytearray()

    def send(self, *pieces: bytes) -> None:
        """Sends them one by one. A server that has said its last word already need not take them."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                self._socket.sendall(piece)

    def answer(self, verb: bytes) -> Answered:
        """The next answer, to a request of that method. EOFError when the server has closed before its end."""
        while True:
            head = self._until(_HEAD_END).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            if status >= 200:
                break
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = b"" if verb == b"HEAD" or status in (204, 304) else self._body(headers)
        if headers.get("connection") == "close":
            self.close()
        return Answered(status, headers, body)

    def close(self) -> None:
        """Leaves."""
        self.is_open = False
        self._socket.close()

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._exactly(int(headers["content-length"]))
        body = b""
        for chunk in self._chunks():
            body += chunk
            if any(mark in body for mark in _OPENED):
                self.close()
                break
        return body

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = self._until(b"\r\n")
            assert _SIZE.fullmatch(size), size
            chunk = self._exactly(int(size, 16) + 2)[:-2]
            if not chunk:
                return
            yield chunk

    def _until(self, mark: bytes) -> bytes:
        while (end := self._came.find(mark)) < 0:
            self._more()
        found = bytes(self._came[:end])
        del self._came[: end + len(mark)]
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._came) < count:
            self._more()
        found = bytes(self._came[:count])
        del self._came[:count]
        return found

    def _more(self) -> None:
        try:
            data = self._socket.recv(65_536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            raise EOFError("the server has closed the connection")
        self._came += data
