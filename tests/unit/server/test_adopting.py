"""New rooms under a door that is open: new calls by the new ones, those under way by the old."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx

from headgate.access.identity import Identity, IdentityConfig
from headgate.server.headers import Reach
from headgate.server.http import Door, HttpSettings
from tests.unit.server.house import NOW_MS, House
from tests.unit.server.test_listen import Patient
from tests.unit.server.visiting import call_of, said

DEADLINE_S = 60.0


async def test_calls_under_way_end_by_what_they_began_with(house: House, tmp_path: Path) -> None:
    patient = Patient()
    rooms = replace(house.rooms, reader=patient)
    deaf = Identity(IdentityConfig(dev_tokens=False), house.keys, lambda: NOW_MS)
    door = Door(rooms, HttpSettings())
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    transport = httpx.ASGITransport(door)
    async with (
        asyncio.timeout(DEADLINE_S),
        door.running(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        before = asyncio.create_task(client.post("/mcp", **call))
        await patient.asked.wait()
        door.adopt(replace(rooms, identity=deaf), HttpSettings())
        after = await client.post("/mcp", **call)
        patient.go_on.set()
        assert said(await before)["result"]["isError"] is False
        assert after.status_code == 401
        door.adopt(rooms, HttpSettings(reach=Reach(hosts=("gate.example",))))
        assert (await client.post("/mcp", **call)).status_code == 421
        assert (await client.get("/healthz")).status_code == 421
        door.adopt(rooms, HttpSettings(body_limit=64))
        assert (await client.post("/mcp", **call)).status_code == 413
    assert [event.status for event in house.events()] == ["answered", "refused"]
