"""The stdio door: one client, which started this process as its own user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from headgate.access.identity import Credentials
from headgate.server.call import Call, Rooms, admit
from headgate.server.mcp import build_server
from headgate.server.message import Asked, asked_of
from headgate.server.streams import Came, Greeted, our_message, serve_streams
from headgate.server.tasks.keeping import keeping


async def serve_stdio(rooms: Rooms) -> None:
    """Serves MCP on standard input and output until the client closes them.

    While it serves, whatever else writes to standard output lands on standard error (the SDK moves the
    descriptor away), so that nothing but the protocol is on the wire. Both protocol eras are spoken: the
    client's first request decides.
    """
    try:
        async with keeping(lambda: rooms), stdio_server() as (requests, answers):
            await serve_pipe(rooms, requests, answers)
    finally:
        await rooms.settle()


async def serve_pipe(rooms: Rooms, requests: ReadStream[Came], answers: WriteStream[SessionMessage]) -> None:
    """Serves whoever holds the other end of these streams as the local user, until it closes them."""
    await serve_streams(build_server(rooms), _Pipe(rooms), requests, answers, can_hear=rooms.can_hear)


class _Pipe:
    """Every message is the local user's."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._greeted = Greeted()
        self.request_id = ""

    async def admit(self, came: Came) -> Call:
        self.request_id = ""
        return await admit(_OnStdio(came, self), self._rooms)

    def read(self, came: Came) -> Asked:
        message = our_message(came)
        return self._greeted.filled(asked_of(message), message)

    def answered(self, result: Mapping[str, Any]) -> None:
        self._greeted.agreed(result.get("protocolVersion"))

    def may_not_hear(self) -> None:
        """The pipe stays; each message on it is refused from now on."""


class _OnStdio:
    """A message on stdio: its rules are the pipe's, its caller is the user that started this process."""

    door: Literal["stdio"] = "stdio"
    peer = ""

    def __init__(self, came: Came, pipe: _Pipe) -> None:
        self._came = came
        self._pipe = pipe

    def opened(self, request_id: str) -> None:
        """Answers get it from the call, refusals from here."""
        self._pipe.request_id = request_id

    def check(self) -> None:
        """Whoever holds the pipe is let in."""

    def credentials(self) -> Credentials:
        return Credentials(bearer=None, door="stdio")

    async def read(self) -> Asked:
        return self._pipe.read(self._came)
