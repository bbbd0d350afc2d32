"""The fixture server of the conformance suite: `python -m tests.conformance.fixture FOLDER [on|off]`.

It is Headgate's own stack, the page with identity, policy, budget and record included; only its offer is another. It
lets this machine in without a token, prints its address as a line of JSON, and serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from pathlib import Path

from headgate.access.watching import Watching
from headgate.server.http import Door, HttpSettings
from headgate.server.listen import serve
from headgate.stores.sqlite import open_reader
from headgate.subscriptions.sqlite import open_hearer
from tests.conformance.changing import Changing
from tests.unit.server.house import House, open_house
from tests.ways.clients.gate import fill_store

_PLENTY = {"read": "1000000 per minute", "write": "1000000 per minute"}


def main(folder: Path, express: str = "on") -> None:
    """Serves the offer, with the express lane on or off."""
    fill_store(folder / "store.db")
    reader = open_reader(folder / "store.db")
    with open_house(folder, reader, local=True) as house:
        changing = Changing()
        watching = Watching(reader, open_hearer(folder / "notices.db"))
        rooms = dataclasses.replace(house.rooms, offer=changing.offer, watching=watching)
        settings = HttpSettings(express=express == "on")
        asyncio.run(_serve(dataclasses.replace(house, rooms=rooms), changing, settings))


async def _serve(house: House, changing: Changing, settings: HttpSettings) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def announce(port: int) -> None:
        print(json.dumps({"url": f"http://localhost:{port}/mcp", "tokens": {}}), flush=True)

    door = Door(house.rooms, settings)
    changing.adopt = lambda offer: door.adopt(dataclasses.replace(house.rooms, offer=offer), settings)
    await serve(door, "127.0.0.1", 0, ready=announce, stop=stop, has_identity=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
