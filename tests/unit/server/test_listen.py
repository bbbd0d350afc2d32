"""Where the HTTP door stands: the port, who may bind where, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from headgate.errors import ConfigError
from headgate.server.crowd import Bounds
from headgate.server.http import Door, HttpSettings
from headgate.server.listen import bind, next_free_port, serve
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House, open_house
from tests.unit.server.visiting import call_of, said

DEADLINE_S = 60.0


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def serving(house: House) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Task[None]]]:
    """A server on a free port: its URL, what stops it, and its task."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    door = Door(house.rooms, HttpSettings())
    task = asyncio.create_task(serve(door, "127.0.0.1", 0, ready=port.set_result, stop=stop, has_identity=True))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield f"http://127.0.0.1:{await port}", stop, task
    finally:
        stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


async def test_it_answers_once_it_is_ready_and_leaves_the_port_when_stopped(house: House) -> None:
    async with serving(house) as (url, stop, task), httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"{url}/healthz")).status_code == 200
        stop.set()
        await task
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/healthz")
    bind("127.0.0.1", int(url.rpartition(":")[2])).close()


class Patient(MemoryReader):
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__([CUSTOMER], {CUSTOMER.name: ROWS}, as_of_ms=NOW_MS)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def get(self, entity: str, keys: Any) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await super().get(entity, keys)


async def test_a_call_under_way_is_answered_before_it_ends(house: House) -> None:
    patient = Patient()
    slow = replace(house, rooms=replace(house.rooms, reader=patient))
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    async with serving(slow) as (url, stop, task), httpx.AsyncClient(timeout=DEADLINE_S) as client:
        answer = asyncio.create_task(client.post(f"{url}/mcp", **call))
        await patient.asked.wait()
        stop.set()
        patient.go_on.set()
        assert said(await answer)["result"]["isError"] is False
        await task
    assert [event.status for event in house.events()] == ["answered"]


async def test_a_busy_port_is_named_with_the_next_free_one(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            bind("127.0.0.1", port)
    free = refused.value.details["free_port"]
    assert free > port
    assert refused.value.message == f"port {port} is busy: port {free} is free"


def test_the_last_port_has_no_next_one() -> None:
    assert next_free_port("127.0.0.1", 65_535) is None


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="an address of this machine"):
        bind("192.0.2.1", 0)


async def test_nobody_opens_it_to_others_without_asking_who_they_are(house: House) -> None:
    door = Door(house.rooms, HttpSettings())
    with pytest.raises(ConfigError, match="no identity"):
        await serve(door, "0.0.0.0", 0, ready=print, stop=asyncio.Event(), has_identity=False)


@asynccontextmanager
async def under_way(house: House, **more: Any) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[httpx.Response]]]:
    """A server with a call under way that does not end by itself: what stops the server, and the call's answer."""
    patient = Patient()
    slow = replace(house, rooms=replace(house.rooms, reader=patient))
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    door = Door(slow.rooms, HttpSettings())
    task = asyncio.create_task(
        serve(door, "127.0.0.1", 0, ready=ready.set_result, stop=stop, has_identity=True, **more)
    )
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(timeout=DEADLINE_S) as client:
        call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
        answer = asyncio.create_task(client.post(f"http://127.0.0.1:{await ready}/mcp", **call))
        await patient.asked.wait()
        yield stop, answer
        await task


async def test_a_call_that_does_not_end_in_time_is_told_where_to_go(house: House) -> None:
    async with under_way(house, bounds=Bounds(grace_s=0.1)) as (stop, answer):
        stop.set()
        cut = await answer
    assert (cut.status_code, cut.headers["retry-after"], cut.headers["connection"]) == (503, "1", "close")
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "cancelled")]


async def test_a_hurry_waits_for_nobody(house: House) -> None:
    hurry = asyncio.Event()
    async with under_way(house, bounds=Bounds(grace_s=3_600), hurry=hurry) as (stop, answer):
        stop.set()
        await asyncio.sleep(0)
        assert not answer.done()
        hurry.set()
        with contextlib.suppress(httpx.TransportError):
            assert (await answer).status_code == 503
    assert [(event.status, event.error_code) for event in house.events()] == [("failed", "cancelled")]


async def test_while_it_drains_it_is_not_ready(house: House) -> None:
    door = Door(house.rooms, HttpSettings())
    transport = httpx.ASGITransport(door)
    async with door.running(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/readyz")).status_code == 200
        door.drain()
        draining = await client.get("/readyz")
        assert (await client.get("/healthz")).status_code == 200
    assert (draining.status_code, draining.json()["status"]) == (503, "draining")


async def test_what_is_missing_from_the_store_makes_it_not_ready(house: House) -> None:
    more = msgspec.structs.replace(house.rooms.pipelines[0], entities=("customer", "order"))
    door = Door(replace(house.rooms, pipelines=[more]), HttpSettings(workers=lambda: (2, 3)))
    transport = httpx.ASGITransport(door)
    async with door.running(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        said_ = (await client.get("/readyz")).json()
    assert said_ == {
        "status": "no entities yet",
        "entities": {"ready": 1, "snapshotting": 0, "missing": 1},
        "workers": {"ready": 2, "of": 3},
    }
