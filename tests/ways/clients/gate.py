"""A gate before a small shop, in a process of its own: `python -m tests.ways.clients.gate stdio|http|local FOLDER`.

Over HTTP it prints one line of JSON, its address and some tokens, and serves until it is terminated. As `local`
it lets its own user of this machine in without a token.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import msgspec

from headgate.server.http import Door, HttpSettings
from headgate.server.listen import serve
from headgate.server.stdio import serve_stdio
from headgate.stores.base import Write
from headgate.stores.sqlite import open_reader, open_writer
from tests.unit.server.house import CUSTOMER, NOW_MS, ROWS, House, open_house


def main(transport: str, folder: Path) -> None:
    """Serves the shop."""
    fill_store(folder / "store.db")
    reader = open_reader(folder / "store.db")
    with open_house(folder, reader, local=transport == "local") as house:
        asyncio.run(serve_stdio(house.rooms) if transport == "stdio" else _serve_http(house))


def fill_store(file: Path) -> None:
    """Publishes the customers, whole and fresh as of a second ago, as a materializer would."""
    writer = open_writer(file, [CUSTOMER])
    writer.define([CUSTOMER])
    claimed = writer.claim(CUSTOMER.name, [0])[0]
    whole = msgspec.structs.replace(claimed, offset=41, generation=1, complete=True, as_of_ms=NOW_MS - 1_000)
    rows = {str(row["id"]): msgspec.json.encode(row) for row in ROWS}
    writer.apply([Write(entity=CUSTOMER.name, partition=0, expected=claimed, progress=whole, puts=rows)])
    assert writer.switch(CUSTOMER.name, whole.generation)
    writer.close()


async def _serve_http(house: House) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    door = Door(house.rooms, HttpSettings())
    counting = asyncio.create_task(house.rooms.refusals.run())
    try:
        await serve(door, "127.0.0.1", 0, ready=lambda port: _announce(house, port), stop=stop, has_identity=True)
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _announce(house: House, port: int) -> None:
    tokens = {
        "data": house.token("data:read"),
        "pipelines": house.token("pipelines:read"),
        "nothing": house.token(),
        "expired": house.token("data:read", ttl_s=-3_600),
        "elsewhere": house.token("data:read", audience="another"),
    }
    print(json.dumps({"url": f"http://127.0.0.1:{port}/mcp", "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
