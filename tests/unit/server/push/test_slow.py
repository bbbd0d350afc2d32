"""Clients that do not read what they have asked to hear."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

from headgate.server.push.listener import Listener
from tests.unit.server.house import ROWS
from tests.unit.server.push.watched import WITHIN_S, Watched, until, watched, within
from tests.unit.server.served import served
from tests.unit.server.visiting import modern, modern_headers

KEYS = range(1, len(ROWS) + 1)
_SPELLINGS = ["".join(letters) for letters in product(*((each, f"%{ord(each):02x}") for each in "customer"))][:128]
URIS = [f"headgate://entity/{name}/{key}" for name in _SPELLINGS for key in KEYS]
"""Each customer by many spellings of its URI, so that one change makes many notices."""
_STUCK = 100
"""After so many rounds in which nothing more left, nothing more can."""
_BUFFER = 4_096


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client with little room for what it has not read, which asks to hear of all customers."""
    place = urlsplit(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (place.hostname, place.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=_BUFFER)
    asked = {"notifications": {"resourceSubscriptions": URIS}}
    body = json.dumps(modern("subscriptions/listen", asked)).encode()
    headers = {**modern_headers("subscriptions/listen"), "host": f"localhost:{place.port}"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "content-length": str(len(body))}.items())
    writer.write(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
    return reader, writer


async def change_all(place: Watched, number: int) -> None:
    """Every customer is another one, and that was looked at."""
    for key in KEYS:
        place.put(key, f"plan {number}", told=False)
    place.hearer.tell("customer")
    watching = place.house.rooms.watching
    assert watching is not None
    async with asyncio.timeout(WITHIN_S):
        while True:
            await asyncio.sleep(0)
            if watching._looking is None:
                return


async def until_stuck(place: Watched, listener: Listener) -> None:
    """Changes customers until nothing more leaves."""
    rounds, told = 0, -1
    async with asyncio.timeout(60):
        for number in range(1_000_000):
            await change_all(place, number)
            await asyncio.sleep(0.001)
            rounds, told = (rounds + 1, told) if listener.told == told > 0 else (0, listener.told)
            if rounds == _STUCK:
                return


async def test_a_client_that_does_not_read_costs_one_notice_a_row(tmp_path: Path) -> None:
    with watched(tmp_path, local=True) as place:
        async with served(place.house) as server:
            reader, writer = await connect(server.url)
            await until(lambda: place.house.rooms.push.count)
            [listener] = place.house.rooms.push._listeners
            await until_stuck(place, listener)
            told = listener.told
            for number in range(20):
                await change_all(place, number)
            assert listener.told == told
            assert sorted(listener._pending_uris) == sorted(URIS)
            while listener.told == told or listener._pending_uris:  # what it missed comes once it reads
                await within(reader.read(65_536))
            assert listener.told <= told + 2 * len(URIS)  # what was under way, and each row once
            writer.close()
            await until(lambda: not place.house.rooms.push.count)
