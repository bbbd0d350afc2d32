"""One process that serves MCP: its door, what lives beside it, and how both follow the config."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate.access.connectors import Connectors
from headgate.access.policy import Policy
from headgate.audit.journal import Journal
from headgate.audit.outbox import Outbox
from headgate.audit.refusals import Refusals
from headgate.audit.standing import tell_unrecorded
from headgate.config import Config
from headgate.serving.policies import Policies
from headgate.serving.reload import ConfigFile
from headgate.state.base import State
from headgate.stores.base import Reader
from headgate.telemetry import logger

if TYPE_CHECKING:
    from headgate.server.call import Rooms
    from headgate.server.listen import Entry
    from headgate.serving.seat import Seat

_log = logger("serving")


class House(Protocol):
    """What a process serves from: its rooms, made of its config."""

    @property
    def config(self) -> Config: ...
    @property
    def rooms(self) -> Rooms: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def refusals(self) -> Refusals: ...
    @property
    def state(self) -> State: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def connectors(self) -> Connectors | None: ...
    @property
    def has_identity(self) -> bool: ...
    @property
    def flows(self) -> bool:
        """Whether this process captures or materializes too."""

    def adopt(self, config: Config) -> None:
        """Makes the rooms anew by this config, and lets go of those before. ConfigError: all is as it was."""

    def follow_flow(self) -> None:
        """Has what flows here be as the config says by now. Blocks until what is to end has ended."""

    async def close_rooms(self) -> None:
        """Lets go of what the rooms hold open on this event loop."""


@dataclass
class Orders:
    """What a process is told from outside while it serves."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Look at the files at once (SIGHUP)."""


@asynccontextmanager
async def beside_a_door(house: House) -> AsyncIterator[Policies]:
    """What lives as long as a door is open: the record of refusals, and the policy as its document changes."""
    policies = Policies(house.journal, house.config.data, house.reader.entities)
    try:
        async with running(house.refusals.run(), tell_unrecorded(house.outbox, house.state)):
            await policies.follow(house.policy, house.config.policy)
            yield policies
    finally:
        await policies.close()
        await house.close_rooms()


async def serve_http(
    house: House,
    ready: Callable[[int], None],
    orders: Orders,
    *,
    port: int | None = None,
    entry: Entry | None = None,
    workers: Callable[[], tuple[int, int]] | None = None,
    version: str = "",
    taken: Callable[[str], None] = lambda version: None,
) -> None:
    """Serves MCP over HTTP until it is told to stop; `ready` gets the port. `port` stands in for the config's.

    `entry` hands in sockets that another process accepts; then `port` is that process's. `version` is that of the
    config's text, where it was read before; `taken` gets that of each that is taken later. ConfigError as `listen`.
    """
    # Imported here, so that the stdio server starts without an HTTP server.
    from headgate.server.listen import Ending, Listening, bind, check_open_to
    from headgate.serving.seat import Seat

    check_open_to(house.config.server.host, has_identity=house.has_identity)
    with contextlib.ExitStack() as stack:
        if entry is None:
            listener = bind(house.config.server.host, house.config.server.port if port is None else port)
            stack.enter_context(contextlib.closing(listener))
            entry, port = Listening(listener), listener.getsockname()[1]
        seat = Seat(house, workers)
        async with beside_a_door(house) as policies:
            file = ConfigFile(seat, house.journal.config, flows=house.flows, version=version, taken=taken,
                              afterwards=lambda: _follow(house, policies))  # fmt: skip
            if file.version:
                await house.journal.config("loaded", file.version)
            async with running(file.run(), seat.follow_tls(), _look_when_told(orders, file, policies, seat)):
                await seat.server.run(entry, lambda: ready(port or 0), Ending(orders.stop, orders.hurry))


async def _follow(house: House, policies: Policies) -> None:
    await policies.follow(house.policy, house.config.policy)
    await asyncio.to_thread(house.follow_flow)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs these for the length of a block, and then cancels them."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look_when_told(orders: Orders, file: ConfigFile, policies: Policies, seat: Seat) -> None:
    while True:
        await orders.look.wait()
        orders.look.clear()
        try:
            await file.look()
            await policies.look()
            seat.read_tls()
        except Exception:  # whatever it was, the next look may find the files whole
            _log.exception("the files could not be looked at")
