"""The straight way: who may go it, what becomes of a call that turns out otherwise, and that nobody gets lost on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import msgspec

from headgate.audit.payloads import PayloadRules
from headgate.errors import Unavailable
from headgate.model.question import Question
from headgate.server.http import Door, HttpSettings
from headgate.server.record import Recording
from headgate.stores.base import Rows
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House
from tests.unit.server.served import DEADLINE_S, Served, served
from tests.unit.server.visiting import call_of


class Held(MemoryReader):
    """Rows that are asked for the straight way come when a test lets them."""

    def __init__(self) -> None:
        super().__init__([CUSTOMER], {CUSTOMER.name: ROWS}, as_of_ms=NOW_MS - 1_000)
        self.is_holding = False
        self.asked: asyncio.Queue[Callable[[str], None]] = asyncio.Queue()
        """One for each question, to be told how it ends: "come", "move" or "fail"."""

    def question(self, entity: str, key: str) -> Question[Rows | None] | None:
        asked = super().question(entity, key)
        if asked is None or not self.is_holding:
            return asked
        come = asked.send

        def send(told: Callable[[Any], None]) -> bool:
            def end(how: str) -> None:
                if how == "come":
                    come(told)
                else:
                    told(None if how == "move" else Unavailable("The store does not answer: try again."))

            self.asked.put_nowait(end)
            return True

        return Question(send, _read)


def _read(reply: Rows | Unavailable | None) -> Rows | None:
    if isinstance(reply, Unavailable):
        raise reply
    return reply


@asynccontextmanager
async def known(house: House, reader: MemoryReader | None = None) -> AsyncIterator[tuple[Served, Line]]:
    """A door, and a client that it knows by now."""
    async with served(house.with_reader(reader) if reader else house) as at, open_line(at, house) as line:
        await line.ask(1)
        assert _straight(at.door) == 0
        yield at, line


class Line:
    """One connection of a client that always says the same of itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self.writer = writer
        self._token = token

    def send(self, *numbers: int, tool: str = "lookup_customer") -> None:
        """Asks for customers, all in one piece."""
        self.writer.write(b"".join(self.request(number, tool) for number in numbers))

    def request(self, number: int, tool: str = "lookup_customer") -> bytes:
        call = call_of(tool, {"customer_id": number}, self._token)
        body = json.dumps(call["json"]).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in call["headers"].items())
        return f"POST /mcp HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def answer(self) -> Any:
        """The next answer's JSON."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return json.loads(await self._reader.readexactly(int(length.split(b":")[1])))

    async def ask(self, number: int) -> Any:
        self.send(number)
        return await self.answer()

    async def closed(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.read() == b""


@asynccontextmanager
async def open_line(at: Served, house: House) -> AsyncIterator[Line]:
    url = httpx.URL(at.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Line(reader, writer, house.token("data:read"))
    finally:
        writer.close()


def _straight(door: Door) -> int:
    assert door.straight is not None
    return door.straight.answered


def _ids(answer: Any) -> list[int]:
    return [row["values"]["id"] for row in answer["result"]["structuredContent"]["rows"]]


async def test_whoever_is_known_goes_straight(house: House) -> None:
    async with known(house) as (at, line):
        assert [_ids(await line.ask(number)) for number in (2, 3, 700)] == [[2], [3], []]
        assert _straight(at.door) == 3
        async with open_line(at, house) as another:  # the same caller on another connection
            assert _ids(await another.ask(3)) == [3]
        assert _straight(at.door) == 4
    assert [event.status for event in house.events()] == ["answered"] * 5


async def test_requests_behind_each_other_are_answered_in_their_order(house: House) -> None:
    reader = Held()
    async with known(house, reader) as (at, line):
        reader.is_holding = True
        line.send(1)
        first = await reader.asked.get()
        line.send(2, 3)
        line.writer.write(line.request(1)[:40])
        await line.writer.drain()
        reader.is_holding = False
        first("come")
        assert [_ids(await line.answer()) for _ in range(3)] == [[1], [2], [3]]
        line.writer.write(line.request(1)[40:])
        assert _ids(await line.answer()) == [1]
        assert _straight(at.door) >= 1


async def test_what_is_known_is_no_request_in_the_midst_of_another_ones_head(house: House) -> None:
    async with known(house) as (at, line):
        begun = b"GET /healthz HTTP/1.1\r\nx-odd: "
        line.writer.write(line.request(2) + begun)
        assert _ids(await line.answer()) == [2]
        line.send(3)
        assert (await line.answer())["status"] == "ok", "of the page, in whose head it stood"
        assert _straight(at.door) == 0
    assert len(house.events()) == 2


async def test_what_turns_out_otherwise_goes_the_common_way_and_is_recorded_once(house: House) -> None:
    reader = Held()
    async with known(house, reader) as (at, line):
        reader.is_holding = True
        for how in ("move", "fail", "come"):
            line.send(2)
            (await reader.asked.get())(how)
            assert _ids(await line.answer()) == [2]
        assert _straight(at.door) == 1
    assert [event.status for event in house.events()] == ["answered"] * 4


async def test_a_client_that_leaves_is_recorded_and_disturbs_nobody(house: House) -> None:
    reader = Held()
    async with known(house, reader) as (at, line):
        reader.is_holding = True
        for how in ("come", "fail"):
            async with open_line(at, house) as leaving:
                leaving.send(2)
                end = await reader.asked.get()
            await leaving.writer.wait_closed()
            end(how)
        await asyncio.wait_for(at.door.settled(), DEADLINE_S)
        reader.is_holding = False
        assert _ids(await line.ask(3)) == [3]
    found = [event.error_code or event.status for event in house.events()]
    assert len(found) == 4 and found.count("answered") >= 3, "the other one may be answered before it is seen to leave"


async def test_a_server_that_stops_answers_the_call_under_way_as_its_last(house: House) -> None:
    reader = Held()
    async with known(house, reader) as (at, line):
        reader.is_holding = True
        line.send(2)
        end = await reader.asked.get()
        at.stop.set()
        for _ in range(20):  # turns of the loop, in which it begins to stop
            await asyncio.sleep(0)
        end("come")
        assert _ids(await line.answer()) == [2]
        assert await line.closed()
    assert len(house.events()) == 2


async def test_other_rooms_hold_for_the_next_call(house: House) -> None:
    async with known(house) as (at, line):
        assert _ids(await line.ask(2)) == [2]
        empty = MemoryReader([CUSTOMER], {CUSTOMER.name: []}, as_of_ms=NOW_MS - 1_000)
        at.door.adopt(replace(house.rooms, reader=empty), HttpSettings())
        assert [_ids(await line.ask(2)) for _ in range(4)] == [[], [], [], []]
        assert _straight(at.door) == 3, "they have to know the caller first"
        at.door.adopt(house.rooms, HttpSettings(express=False))
        assert _ids(await line.ask(2)) == [2]
        assert at.door.straight is None


async def test_a_body_of_another_tool_or_form_does_not_go_straight(house: House) -> None:
    async with known(house) as (at, line):
        good = line.request(2)
        for found, instead in (
            (b'"lookup_customer"', b'"describe_other"'),
            (b'"jsonrpc": "2.0"', b'"jsonrpc": "3.0"'),
            (b'"customer_id": 2', b'"customer_id": []'),
        ):
            body = good.partition(b"\r\n\r\n")[2].replace(found, instead)
            head = good.partition(b"\r\n\r\n")[0].rpartition(b" ")[0]
            line.writer.write(head + b" %d\r\n\r\n" % len(body) + body)
            answer = await line.answer()
            assert "rows" not in json.dumps(answer)
        assert _straight(at.door) == 0
        assert _ids(await line.ask(2)) == [2]
        assert _straight(at.door) == 1


async def test_where_values_are_masked_in_the_record_nobody_goes_straight(house: House) -> None:
    masking = replace(house, rooms=replace(house.rooms, recording=Recording(PayloadRules(results="masked"))))
    async with served(masking) as at, open_line(at, house) as line:
        assert [_ids(await line.ask(2)) for _ in range(4)] == [[2]] * 4
        assert _straight(at.door) == 0


async def test_a_trace_goes_straight_where_any_parser_takes_it(house: House) -> None:
    async with known(house) as (at, line):
        good = "00-" + "4" * 32 + "-00f067aa0ba902b7-01"
        for number in range(2):
            line.writer.write(_traced(line, good))
            assert _ids(await line.answer()) == [2]
            assert _straight(at.door) == number
        line.writer.write(_traced(line, "\x00"))
        assert "error" in await line.answer()
        assert _straight(at.door) == 1
    assert [event.traceparent for event in house.events()] == [None, good, good]


def _traced(line: Line, traceparent: str) -> bytes:
    return line.request(2).replace(b"content-length", f"traceparent: {traceparent}\r\ncontent-length".encode())


async def test_stale_answers_go_the_common_way_and_are_paid_for_once(house: House) -> None:
    reader = Held()
    async with known(house, reader) as (at, line):
        fresh = await line.ask(2)
        assert _straight(at.door) == 1
        progress = (await reader.watermark("customer")).partitions[0]
        for number in range(CUSTOMER.partitions):
            reader.set_progress("customer", number, msgspec.structs.replace(progress, as_of_ms=NOW_MS - 3_600_000))
        budgets = [_left(await line.ask(2)) for _ in range(5)]
        assert _straight(at.door) == 1
        assert budgets == [_left(fresh) - 2 - number for number in range(5)], "the first one was read twice"
        for number in range(CUSTOMER.partitions):
            reader.set_progress("customer", number, progress)
        for _ in range(2):
            await line.ask(2)
        assert _straight(at.door) == 2


def _left(answer: Any) -> int:
    left: int = answer["result"]["_meta"]["headgate/budget"]["remaining"]
    return left
