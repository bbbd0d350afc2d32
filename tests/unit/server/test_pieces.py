"""Requests that come in pieces, of callers who are known: piece by piece, over a transport in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headgate.server.crowd import Bounds
from headgate.server.guard import GuardedHttp
from headgate.server.http import Door, HttpSettings
from headgate.server.listen import Server
from tests.unit.server.house import House
from tests.unit.server.visiting import call_of

DEADLINE_S = 60.0


class Memory(asyncio.Transport):
    """The client's end: what the server has sent, and whether it has closed."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._sent = b""
        self._came = asyncio.Event()
        self._closed = False

    def is_closing(self) -> bool:
        return self._closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += bytes(data)
        self._came.set()

    def close(self) -> None:
        self._closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    async def answer(self) -> Any:
        """The next whole answer's JSON."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := re.match(rb"(?s).*?\r\ncontent-length: (\d+).*?\r\n\r\n", self._sent)) or (
                len(self._sent) < found.end() + int(found[1])
            ):
                self._came.clear()
                await self._came.wait()
            end = found.end() + int(found[1])
            body, self._sent = self._sent[found.end() : end], self._sent[end:]
            return json.loads(body)


class Site:
    """A door and its server, without a socket."""

    def __init__(self, house: House) -> None:
        self.door = Door(house.rooms, HttpSettings())
        self._server = Server(self.door, Bounds())
        call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
        body = json.dumps(call["json"]).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in call["headers"].items())
        self.head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
        self.body = body

    def connect(self) -> tuple[GuardedHttp, Memory]:
        """A client."""
        protocol, transport = self._server.protocol(), Memory()
        protocol.connection_made(transport)
        return protocol, transport

    @property
    def straight(self) -> int:
        """How many went the straight way."""
        assert self.door.straight is not None
        return self.door.straight.answered


@asynccontextmanager
async def known(house: House) -> AsyncIterator[Site]:
    """A site that knows its caller."""
    site = Site(house)
    async with site.door.running():
        protocol, transport = site.connect()
        protocol.data_received(site.head + site.body)
        assert _row(await transport.answer()) == 2
        assert site.straight == 0
        yield site
        await asyncio.wait_for(site.door.settled(), DEADLINE_S)


def _row(answer: Any) -> int:
    (row,) = answer["result"]["structuredContent"]["rows"]
    number: int = row["values"]["id"]
    return number


@pytest.mark.parametrize("cuts", [(0,), (9,), (0, 9), (-9, 0), (-9,)], ids=str)
async def test_a_request_in_pieces_is_answered_and_goes_straight_where_its_head_comes_whole(
    house: House, cuts: tuple[int, ...]
) -> None:
    async with known(house) as site:
        protocol, transport = site.connect()
        for number in range(3):
            whole = site.head + site.body
            places = [0, *(len(site.head) + cut for cut in cuts), len(whole)]
            for start, stop in itertools.pairwise(places):
                protocol.data_received(whole[start:stop])
            assert _row(await transport.answer()) == 2
            assert site.straight == (number + 1 if len(cuts) == 1 and cuts[0] >= 0 else 0)
    assert [event.status for event in house.events()] == ["answered"] * 4


async def test_the_next_request_may_begin_in_the_same_piece_as_the_last_ones_body(house: House) -> None:
    async with known(house) as site:
        protocol, transport = site.connect()
        protocol.data_received(site.head)
        protocol.data_received(site.body + site.head)
        protocol.data_received(site.body)
        assert [_row(await transport.answer()) for _ in range(2)] == [2, 2]
    assert [event.status for event in house.events()] == ["answered"] * 3


@pytest.mark.parametrize("how", ["time_out", "shutdown"])
async def test_a_body_that_does_not_come_at_once_is_the_parsers_to_wait_for(house: House, how: str) -> None:
    async with known(house) as site:
        protocol, transport = site.connect()
        protocol.data_received(site.head)
        getattr(protocol, how)()
        assert not transport.is_closing()
        protocol.data_received(site.body)
        assert _row(await transport.answer()) == 2
        assert site.straight == 0
    assert [event.status for event in house.events()] == ["answered"] * 2


async def test_a_client_that_leaves_before_its_body_has_asked_nothing(house: House) -> None:
    async with known(house) as site:
        protocol, _ = site.connect()
        protocol.data_received(site.head)
        protocol.connection_lost(None)
        protocol, transport = site.connect()
        protocol.data_received(site.head + site.body)
        assert _row(await transport.answer()) == 2
        assert site.straight == 1
    assert [event.status for event in house.events()] == ["answered"] * 2


async def test_the_head_of_a_stranger_is_not_waited_on(house: House) -> None:
    site = Site(house)
    async with site.door.running():
        protocol, transport = site.connect()
        protocol.data_received(site.head.replace(b"Bearer ", b"Bearer x"))
        assert "error" in await transport.answer(), "of whom nobody knows no body is read"
