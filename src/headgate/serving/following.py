"""A process that captures or materializes and serves nobody, as its config changes."""

from __future__ import annotations

import asyncio
from typing import Protocol

from headgate.audit.journal import Journal
from headgate.config import Config
from headgate.serving.reload import ConfigFile
from headgate.serving.serve import Orders, running
from headgate.telemetry import logger

_log = logger("serving")


class Flow(Protocol):
    """What flows in a process."""

    config: Config

    @property
    def journal(self) -> Journal: ...

    def follow_flow(self) -> None:
        """Has what flows be as the config says by now. Blocks until what is to end has ended."""


async def follow_config(flow: Flow, orders: Orders, version: str) -> None:
    """Until it is told to stop: takes each config that holds, and has the flow follow it. Recorded as `serve` does."""
    file = ConfigFile(_Taker(flow), flow.journal.config, flows=True, version=version,
                      afterwards=lambda: asyncio.to_thread(flow.follow_flow))  # fmt: skip
    if file.version:
        await flow.journal.config("loaded", file.version)
    async with running(file.run(), _look_when_told(orders, file)):
        await orders.stop.wait()


class _Taker:
    """Nothing here is made of the config but the flow, which follows afterwards."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    @property
    def config(self) -> Config:
        return self._flow.config

    def take(self, config: Config) -> None:
        self._flow.config = config


async def _look_when_told(orders: Orders, file: ConfigFile) -> None:
    while True:
        await orders.look.wait()
        orders.look.clear()
        try:
            await file.look()
        except Exception:  # whatever it was, the next look may find the file whole
            _log.exception("the config could not be looked at")
