"""The HTTP door on a real socket, in the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from headgate.server.http import Door, HttpSettings
from headgate.server.listen import serve
from tests.unit.server.house import House

DEADLINE_S = 60.0


@dataclass
class Served:
    """A server under way: where it is, and how to end it before its block does."""

    url: str
    door: Door
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def served(house: House, settings: HttpSettings | None = None) -> AsyncIterator[Served]:
    """The house behind a socket; ended, and waited for, when the block ends."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    door = Door(house.rooms, settings or HttpSettings())
    found = Served("", door)
    serving = asyncio.create_task(
        serve(door, "127.0.0.1", 0, ready=ready.set_result, stop=found.stop, has_identity=True)
    )
    try:
        found.url = f"http://127.0.0.1:{await asyncio.wait_for(ready, DEADLINE_S)}"
        yield found
    finally:
        found.stop.set()
        await asyncio.wait_for(serving, DEADLINE_S)
