"""Requests as bytes on a socket, sent to two servers that differ in their lane alone, and how their answers compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from headgate.access.view import View
from headgate.audit.event import CallEvent
from headgate.errors import Unavailable, UnknownEntity
from headgate.model.entity import Entity
from headgate.server.request import HttpSettings
from headgate.stores.base import Reader
from headgate.tools._arguments import Arguments
from headgate.tools._offer import Offer
from headgate.tools.base import Result, Tool, TypedTool, discover
from tests.conformance.tools import tools as suite_tools
from tests.unit.server.house import House, open_house
from tests.unit.server.served import DEADLINE_S, Served, served

MODERN = "2026-07-28"
OLDER = "2025-11-25"
META: Mapping[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "1"},
}
TOKEN = "@TOKEN@"
"""Stands for a token of the house that a request is sent to."""
NOT_COMPARED = frozenset({"date", "x-request-id", "content-length", "transfer-encoding"})
"""Headers: the time, the id (which is compared with the body's), and how the body is written.

The lane writes texts beyond ASCII as they are, and an event stream in one piece.
"""
NOT_COMPARED_OF_EVENTS = ("id", "duration_us", "admitted_us")
_ID = "headgate/request_id"

Header = tuple[str, str]


@dataclass(frozen=True)
class Request:
    """A POST to /mcp, as it goes on the wire."""

    headers: tuple[Header, ...]
    body: bytes
    length: str | None = None
    """What Content-Length says; the body's length, unless it is set."""

    def on_wire(self, host: str, tokens: Mapping[str, str], *, stays: bool = False) -> bytes:
        """The bytes; `tokens` by the marks that stand for them. The connection is closed behind it, or `stays`."""
        lines = [f"POST /mcp HTTP/1.1\r\nHost: {host}", *(f"{name}: {value}" for name, value in self.headers)]
        lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        if not stays:
            lines.append("Connection: close")
        text = "\r\n".join(lines)
        for mark, token in tokens.items():
            text = text.replace(mark, token)
        return text.encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """What came back, as far as both lanes must agree."""

    status: int
    headers: Sequence[Header]
    body: Any
    """JSON with its members in order, or the text."""


class Nothing(Arguments):
    """Takes nothing."""


class Endless:
    """A tool that waits until its call is cancelled, and tells that it has begun and ended."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.ended: asyncio.Queue[None] = asyncio.Queue()

    async def answer(self, _: View, __: Nothing) -> Result:
        self.begun.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait(None)
        raise AssertionError("nobody sets it")


def _tool(name: str, answer: Callable[[View, Nothing], Awaitable[Result]]) -> Tool:
    return TypedTool(name=name, title=name, description=name, scopes=frozenset(), arguments=Nothing,
                     output_schema={"type": "object"}, answer=answer)  # fmt: skip


def _failing(name: str, error: Exception) -> Tool:
    async def answer(_: View, __: Nothing) -> Result:
        raise error

    return _tool(name, answer)


def offered(endless: Endless, entities: Mapping[str, Entity]) -> dict[str, Tool]:
    """The tools that there are, those of the conformance suite, some that fail, and one that never ends."""
    made = [
        _failing("fail_inside", RuntimeError("driver says no")),
        _failing("fail_unavailable", Unavailable("The store does not answer: try again.", retry_after_s=3)),
        _failing("fail_unknown", UnknownEntity("näme", ["customer"])),
        _tool("wait_for_ever", endless.answer),
    ]
    return {**suite_tools(entities), **discover(entities), **{tool.name: tool for tool in made}}


class Lanes:
    """Two servers on the same data, one with the express lane and one without."""

    def __init__(self, houses: Sequence[House], servers: Sequence[Served], endless: Endless) -> None:
        self.houses = houses
        self._endless = endless
        self._servers = servers
        self._tokens = [tokens_of(house) for house in houses]

    @property
    def taken(self) -> int:
        """How many calls took the lane."""
        on, off = (server.door for server in self._servers)
        assert (off.express.answered, off.straight) == (0, None), "it is off"
        return on.express.answered + self.straight

    @property
    def known(self) -> int:
        """How many calls were admitted from memory."""
        return self._servers[0].door.returning.admitted + self.straight

    @property
    def straight(self) -> int:
        """How many calls went the straight way."""
        way = self._servers[0].door.straight
        assert way is not None, "it is on"
        return way.answered

    async def ask(self, request: Request, *, stays: bool = False) -> tuple[Answer, Answer]:
        """What each of them answers; on a connection that `stays`, as those of agents do."""
        on, off = [
            await _exchange(server.url, request, tokens, stays=stays)
            for server, tokens in zip(self._servers, self._tokens, strict=True)
        ]
        return on, off

    async def ask_and_leave(self, request: Request) -> None:
        """Sends both what calls the endless tool, leaves once that has begun, and returns when it has ended."""
        writers = []
        async with asyncio.timeout(DEADLINE_S):
            for server, tokens in zip(self._servers, self._tokens, strict=True):
                _, writer = await asyncio.open_connection(*_address(server.url))
                writer.write(request.on_wire("localhost", tokens))
                writers.append(writer)
                await self._endless.begun.get()
            for writer in writers:
                writer.close()
                await self._endless.ended.get()
            for house in self.houses:
                await house.rooms.settle()

    def events(self) -> list[list[dict[str, Any]]]:
        """The call events of each, without what differs from one call to the next."""
        return [[_comparable(event) for event in house.events()] for house in self.houses]


def tokens_of(house: House) -> dict[str, str]:
    """Tokens by the marks that stand for them in requests."""
    return {
        TOKEN: house.token("data:read", "pipelines:read", tenant="acme"),
        "@BIRCH@": house.token("data:read", "pipelines:read", tenant="birch"),
        "@NO TENANT@": house.token("data:read", "pipelines:read"),
        "@POOR@": house.token("pipelines:read", subject="poor"),
        "@OLD@": house.token("data:read", ttl_s=-3_600),
        "@ELSEWHERE@": house.token("data:read", audience="elsewhere"),
    }


@asynccontextmanager
async def both_lanes(
    folder: Path, reader: Reader | None = None, *, policy: str = "", **identity: Any
) -> AsyncIterator[Lanes]:
    """Two servers, under the policy's document if there is one; `identity` is their IdentityConfig."""
    endless = Endless()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_house(folder / lane, reader, **identity)) for lane in ("on", "off")]
        houses = [_offering(house.under(policy) if policy else house, endless) for house in opened]
        async with (
            served(houses[0], HttpSettings(express=True)) as on,
            served(houses[1], HttpSettings(express=False)) as off,
        ):
            yield Lanes(houses, [on, off], endless)


def _offering(house: House, endless: Endless) -> House:
    return replace(house, rooms=replace(house.rooms, offer=Offer(tools=partial(offered, endless))))


async def _exchange(url: str, request: Request, tokens: Mapping[str, str], *, stays: bool) -> Answer:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(*_address(url))
        try:
            writer.write(request.on_wire("localhost", tokens, stays=stays))
            raw = await (_one_of(reader) if stays else _all_of(reader))
        finally:
            writer.close()
    return _answer(raw)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None, "a served house has both"
    return parts.hostname, parts.port


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes, or resets as it did not read all that was sent."""
    raw = b""
    with contextlib.suppress(ConnectionResetError):
        while more := await reader.read(65_536):
            raw += more
    return raw


async def _one_of(reader: asyncio.StreamReader) -> bytes:
    """One whole answer, or what comes until the server closes."""
    raw = b""
    with contextlib.suppress(ConnectionResetError):
        while not is_whole(raw) and (more := await reader.read(65_536)):
            raw += more
    return raw


_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n")


def is_whole(raw: bytes) -> bool:
    """Whether this is an answer with all of its body."""
    head, end, body = raw.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    if not end or length is None:
        return raw.endswith(b"\r\n0\r\n\r\n")
    return len(body) >= int(length[1])


def _answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    named = dict(headers)
    if named.get("transfer-encoding") == "chunked":
        body = _joined(body)
    else:
        assert int(named.get("content-length", len(body))) == len(body), "a body of another length than it says"
    found = _read(body)
    _check_id(found, named.get("x-request-id", ""))
    compared = [header for header in headers if header[0] not in NOT_COMPARED]
    return Answer(int(status.split()[1]), compared, _without_ids(found, named.get("x-request-id", "")))


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]
    return body


def _read(body: bytes) -> Any:
    """JSON as lists of pairs, so that the order of members counts; the frames of an event stream; or the text."""
    text = body.decode()
    if text.startswith("event: "):
        return [[line if not line.startswith("data: ") else _read(line[6:].encode()) for line in frame.split("\r\n")]
                for frame in text.split("\r\n\r\n")]  # fmt: skip
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: [list(pair) for pair in pairs])
    except ValueError:
        return text


def _check_id(found: Any, request_id: str) -> None:
    if isinstance(found, list):
        for each in found:
            if isinstance(each, list) and len(each) == 2 and each[0] in (_ID, "request_id"):
                assert each[1] == request_id, "the header names another call than the body"
            _check_id(each, request_id)


def _without_ids(found: Any, request_id: str) -> Any:
    if isinstance(found, list):
        return [_without_ids(each, request_id) for each in found]
    return found.replace(request_id, "ID") if isinstance(found, str) and request_id else found


def _comparable(event: CallEvent) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    return {name: value for name, value in shown.items() if name not in NOT_COMPARED_OF_EVENTS}
