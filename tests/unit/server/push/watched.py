"""A house whose rows can be changed, and are told of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from headgate.access.policy import Edition, Policy
from headgate.access.watching import PushConfig, Watching
from headgate.testing import MemoryHearer, MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House, open_house
from tests.unit.server.served import served

WITHIN_S = 60.0


@dataclass
class Watched:
    """The house, and what a test does to its rows."""

    house: House
    reader: MemoryReader
    hearer: MemoryHearer

    def put(self, number: int, plan: str, *, told: bool = True) -> None:
        """A customer is another one, and hearers are told so."""
        self.reader.put("customer", {"id": number, "email": f"c{number}@shop.example", "plan": plan})
        if told:
            self.hearer.tell("customer", [str(number)])

    def remove(self, number: int) -> None:
        """A customer is gone."""
        self.reader.remove("customer", str(number))
        self.hearer.tell("customer", [str(number)])


@contextmanager
def watched(
    folder: Path, push: PushConfig | None = None, policy: Policy | None = None, **identity: Any
) -> Iterator[Watched]:
    """A house over customers in memory."""
    reader, hearer = MemoryReader([CUSTOMER], {"customer": ROWS}, as_of_ms=NOW_MS - 1_000), MemoryHearer()
    with open_house(folder, reader, **identity) as house:
        watching = Watching(reader, hearer, push or PushConfig())
        rooms = replace(house.rooms, watching=watching, policy=policy or Policy())
        yield Watched(replace(house, rooms=rooms), reader, hearer)


@asynccontextmanager
async def visitor(of: Watched, token: str = "") -> AsyncIterator[Client]:
    """The official client over HTTP; without a token as the local user."""
    async with served(of.house) as server, client_at(server.url, token) as client:
        yield client


@asynccontextmanager
async def client_at(url: str, token: str = "") -> AsyncIterator[Client]:
    """One more client of a server."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=WITHIN_S) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


async def until(ask: Callable[[], Any]) -> Any:
    """Asks until the answer is true, with a deadline."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if answer := ask():
                return answer
            await asyncio.sleep(0.01)


async def within(waited: Awaitable[Any]) -> Any:
    """What it answers, with a deadline."""
    return await asyncio.wait_for(waited, WITHIN_S)


def policy_of(**customer: Any) -> Edition:
    """A policy that gives everyone every tool, and of customers what is said here; nothing where nothing is."""
    rule = {"name": "all", "to": "everyone", "tools": "*", "entities": {"customer": customer} if customer else {}}
    return Edition.of(json.dumps({"rules": [rule]}))
