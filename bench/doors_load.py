"""The load of doors.py: connections that ask as soon as they are answered, on one thread, at about 10 µs a call.

Requests are encoded before; each answer is checked for its status, for no error in it, and for what only the right
one holds. Linux alone: epoll, and processes that keep to one core.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

ERAS = ("2026-07-28", "2025-11-25")
GIVE_UP_S = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_META = "io.modelcontextprotocol"


class Ask(NamedTuple):
    """A request as it is sent, and what only its right answer holds."""

    request: bytes
    proof: bytes


class Taken(NamedTuple):
    """What came of a load: how long each answer took, how long they all did, and how busy the load's own core was."""

    took: list[float]
    seconds: float
    busy: float


class Wrong(Exception):
    """An answer that is none."""


# --- requests ------------------------------------------------------------------------------------


def call(
    port: int, era: str, tool: str, arguments: dict[str, Any], *, number: int = 1, bearer: str = "", path: str = "/mcp"
) -> bytes:
    """A tools/call as a client of that revision sends it."""
    return post(
        port, era, "tools/call", {"name": tool, "arguments": arguments}, number=number, bearer=bearer, path=path
    )


def post(
    port: int,
    era: str,
    method: str,
    params: dict[str, Any],
    *,
    number: int = 1,
    bearer: str = "",
    path: str = "/mcp",
) -> bytes:
    """A request of MCP: the newer revision says of itself in each body what the older one said in its handshake."""
    mirrored = ""
    if era == ERAS[0]:
        meta = {
            f"{_META}/protocolVersion": era,
            f"{_META}/clientCapabilities": {},
            f"{_META}/clientInfo": {"name": "bench", "version": "1"},
        }
        params = {**params, "_meta": meta}
        mirrored = f"Mcp-Method: {method}\r\n" + (f"Mcp-Name: {params['name']}\r\n" if "name" in params else "")
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}, separators=(",", ":"))
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {era}\r\n{mirrored}{authorization}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


# --- the load ------------------------------------------------------------------------------------


class _Connection:
    """One connection, with one request under way."""

    __slots__ = ("asked", "began", "got", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.asked = Ask(b"", b"")
        self.got = b""
        self.began = 0.0

    def ask(self, asked: Ask, now: float) -> None:
        """Sends the next request."""
        self.asked, self.began, self.got = asked, now, b""
        if self.socket.send(asked.request) != len(asked.request):
            raise Wrong("the server does not read what it is asked")

    def is_answered(self) -> bool:
        """Takes what has come, and whether it is the whole answer. Wrong unless it is the right one."""
        came = self.socket.recv(1 << 17)
        if not came:
            raise Wrong(f"the server closed a connection after {self.got[:500]!r}")
        self.got = came = self.got + came if self.got else came
        if not is_whole(came):
            return False
        if not came.startswith(b"HTTP/1.1 200") or self.asked.proof not in came or b'"isError":true' in came:
            raise Wrong(f"{self.asked.request!r}\nwas answered\n{came[:2_000]!r}")
        return True


def is_whole(answer: bytes) -> bool:
    """Whether an HTTP answer has all of its body."""
    head = answer.find(_HEAD_END)
    if head < 0:
        return False
    length = _LENGTH.search(answer, 0, head)
    return answer.endswith(b"0\r\n\r\n") if length is None else len(answer) >= head + 4 + int(length[1])


def load(port: int, asks: Iterator[Ask], connections: int, seconds: float) -> Taken:
    """Asks over so many connections for that long, and waits for the last answers."""
    poll = select.epoll()
    open_ = [_Connection(port) for _ in range(connections)]
    by_descriptor = {each.socket.fileno(): each for each in open_}
    try:
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        return _run(poll, by_descriptor, asks, seconds)
    finally:
        poll.close()
        for each in open_:
            each.socket.close()


def _run(poll: select.epoll, connections: dict[int, _Connection], asks: Iterator[Ask], seconds: float) -> Taken:
    took: list[float] = []
    clock, used = time.perf_counter, time.process_time()
    began = now = clock()
    until, waiting = began + seconds, len(connections)
    for each in connections.values():
        each.ask(next(asks), now)
    while waiting:
        ready = poll.poll(GIVE_UP_S)
        if not ready:
            raise Wrong(f"{waiting} requests are not answered")
        for descriptor, _ in ready:
            connection = connections[descriptor]
            if connection.is_answered():
                now = clock()
                took.append(now - connection.began)
                if now < until:
                    connection.ask(next(asks), now)
                else:
                    waiting -= 1
    return Taken(took, now - began, (time.process_time() - used) / (now - began))


def ask_once(port: int, asked: Ask) -> bytes:
    """The whole answer to one request, checked."""
    connection = _Connection(port)
    try:
        connection.socket.setblocking(True)
        connection.ask(asked, 0.0)
        while not connection.is_answered():
            pass
        return connection.got
    finally:
        connection.socket.close()


# --- cores ---------------------------------------------------------------------------------------


def cores() -> tuple[int, int]:
    """The core of the server that is measured, and that of all else; one and the same where there is one only."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1]


@contextmanager
def on_core(*numbers: int) -> Iterator[None]:
    """What is started within keeps to these cores, from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start_on(numbers: Sequence[int], command: Sequence[str], **popen: Any) -> subprocess.Popen[str]:
    """Starts a program on these cores alone."""
    with on_core(*numbers):
        return subprocess.Popen(command, text=True, **popen)
