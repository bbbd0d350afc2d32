"""Clients that send slowly, too much, or no HTTP at all, on real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headgate.server.crowd import Bounds
from headgate.server.http import Door, HttpSettings
from headgate.server.listen import serve
from tests.unit.server.house import House
from tests.unit.server.visiting import call_of

DEADLINE_S = 60.0
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Line:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """One whole answer: its status and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length, head
        return int(head.split()[1]), await self.reader.readexactly(int(length[1]))

    async def ended(self) -> bytes:
        """What came until the server closed."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


class Gate:
    """A server on a free port, with its door."""

    def __init__(self, house: House, port: int) -> None:
        self.house = house
        self._port = port

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()

    async def counted(self) -> dict[str, int]:
        """The refusals so far, by reason."""
        await self.house.rooms.refusals.record()
        bodies = [json.loads(body) for body in self.house.bodies() if b"dev.headgate.refusals.v1" in body]
        return {each["reason"]: each["count"] for body in bodies for each in body["data"]["counts"]}


@asynccontextmanager
async def gate(house: House, settings: HttpSettings | None = None, **bounds: Any) -> AsyncIterator[Gate]:
    """The house behind a socket, with these bounds."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    door = Door(house.rooms, settings or HttpSettings())
    task = asyncio.create_task(
        serve(door, "127.0.0.1", 0, ready=ready.set_result, stop=stop, has_identity=True, bounds=Bounds(**bounds))
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Gate(house, await ready)
    finally:
        stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


def raw(call: dict[str, Any], **headers: str) -> bytes:
    """A call as bytes."""
    body = json.dumps(call["json"]).encode()
    fields = {"host": "localhost", "content-length": str(len(body)), "content-type": "application/json",
              **call["headers"], **headers}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"POST /mcp HTTP/1.1\r\n" + head.encode() + b"\r\n" + body


async def test_a_header_that_never_ends_is_told_so_and_closed(house: House) -> None:
    async with gate(house, header_s=1.0) as site, site.line() as slow, site.line() as silent, site.line() as other:
        await slow.say(HEALTH[:20])
        await other.say(HEALTH)
        assert (await other.answer())[0] == 200
        assert (await slow.answer())[0] == 408
        assert await slow.ended() == b""
        assert await silent.ended() == b""
        assert await site.counted() == {"header_timeout": 1}


async def test_a_connection_goes_on_after_an_answer_and_is_closed_when_it_rests_too_long(house: House) -> None:
    async with gate(house, idle_s=1.0) as site, site.line() as line:
        for _ in range(3):
            await line.say(HEALTH)
            assert (await line.answer())[0] == 200
        assert await line.ended() == b""
        assert await site.counted() == {}


@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_header_that_is_too_large_is_refused_however_it_comes(house: House, pieces: int) -> None:
    async with gate(house, header_bytes=4_096) as site, site.line() as line:
        data = HEALTH[:-2] + b"x-long: " + b"a" * 4_100 + b"\r\n\r\n"
        size = len(data) // pieces + 1
        for start in range(0, len(data), size):
            await line.say(data[start : start + size])
            await asyncio.sleep(0.001)  # a packet of its own
        assert (await line.answer())[0] == 431
        assert await site.counted() == {"header_too_large": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_counted_and_not_logged(
    house: House, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with gate(house) as site, site.line() as line:
        await line.say(data)
        assert (await line.answer())[0] in (400, 404)
        counted = await site.counted()
    assert counted in ({"malformed_http": 1}, {})
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_wish_for_another_protocol_is_passed_over(house: House) -> None:
    async with gate(house) as site, site.line() as line:
        await line.say(HEALTH[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await line.answer())[0] == 200


async def test_the_rest_of_a_refused_body_is_read_past_but_not_for_ever(house: House) -> None:
    stranger = call_of("lookup_customer", {"customer_id": 2, "pad": "x" * 3_000}, None)
    async with gate(house, header_bytes=1_024, body_bytes=100_000) as site:
        async with site.line() as line:
            data = raw(stranger)
            await line.say(data[:-1_500])
            assert (await line.answer())[0] == 401
            await line.say(data[-1_500:] + HEALTH)
            assert (await line.answer())[0] == 200
        async with site.line() as line:
            await line.say(raw(stranger, **{"content-length": "10000000"}))
            assert (await line.answer())[0] == 401
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                while True:
                    await line.say(b"x" * 10_000)
                    await asyncio.sleep(0)


async def test_a_body_that_dribbles_behind_its_refusal_wins_no_time(house: House) -> None:
    stranger = call_of("lookup_customer", {"customer_id": 2}, None)
    async with gate(house, header_s=1.0) as site, site.line() as line:
        await line.say(raw(stranger)[:-5])
        assert (await line.answer())[0] == 401
        assert await line.ended() == b""


async def test_a_callers_body_has_its_time_and_size_and_a_record(house: House) -> None:
    data = raw(call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")))
    settings = HttpSettings(body_timeout_s=1.0, body_limit=1_000)
    async with gate(house, settings) as site, site.line() as slow, site.line() as large:
        await slow.say(data[:-5])
        assert (await slow.answer())[0] == 408
        await large.say(data[: data.index(b"content-length")] + b"content-length: 1001\r\n" + data.split(b"\r\n", 3)[3])
        assert (await large.answer())[0] == 413
    assert [(event.status, event.error_code) for event in house.events()] == [("refused", "invalid_request")] * 2


async def test_requests_that_come_at_once_are_answered_in_order(house: House) -> None:
    async with gate(house) as site, site.line() as line:
        await line.say(HEALTH + HEALTH.replace(b"healthz", b"readyz") + HEALTH)
        assert [json.loads((await line.answer())[1])["status"] for _ in range(3)] == ["ok", "ready", "ok"]


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("broken", [b"\x16\x03\x01 no HTTP\r\n\r\n", "body"], ids=["a head", "a body"])
async def test_what_is_broken_behind_good_requests_costs_none_of_them_its_answer(
    house: House, broken: bytes | str, many: int
) -> None:
    good = raw(call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")))
    if isinstance(broken, str):
        broken = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n"
    async with gate(house) as site, site.line() as line:
        await line.say(good * many + broken)
        answers = [await line.answer() for _ in range(many + 1)]
        assert [status for status, _ in answers] == [*[200] * many, 400]
        assert await line.ended() == b""
        assert await site.counted() == {"malformed_http": 1}
    assert [event.status for event in house.events()] == ["answered"] * many


async def test_more_than_there_is_room_for_cost_those_who_are_waited_for(house: House) -> None:
    async with gate(house, connections=3) as site:
        lines = [await asyncio.open_connection("127.0.0.1", site._port) for _ in range(20)]
        async with site.line() as line:
            await line.say(HEALTH)
            assert (await line.answer())[0] == 200
        for _, writer in lines:
            writer.close()
