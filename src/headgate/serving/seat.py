"""The door and the server of one process, by the config that holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headgate.config import Config
from headgate.errors import HeadgateError
from headgate.server.http import Door
from headgate.server.listen import Server, check_open_to
from headgate.serving.certificate import TlsFiles
from headgate.serving.reload import CHECK_S
from headgate.serving.serve import House
from headgate.serving.settings import bounds_of, settings_of
from headgate.telemetry import logger

_log = logger("serving")


class Seat:
    """A `reload.Taker`: what it takes holds for new calls, and those under way end by what they began with."""

    def __init__(self, house: House, workers: Callable[[], tuple[int, int]] | None) -> None:
        self._house = house
        self._workers = workers
        self._tls = TlsFiles(house.config)
        self._door = Door(house.rooms, settings_of(house.config, workers))
        self.server = Server(self._door, bounds_of(house.config), self._tls.context)

    @property
    def config(self) -> Config:
        """What holds now."""
        return self._house.config

    def take(self, config: Config) -> None:
        """From now on this holds. ConfigError or Unavailable: all is as it was."""
        before = self._house.config
        self._house.adopt(config)
        try:
            check_open_to(config.server.host, has_identity=self._house.has_identity)
            self._tls.adopt(config)
        except HeadgateError:
            self._house.adopt(before)
            raise
        self._door.adopt(self._house.rooms, settings_of(config, self._workers))
        self.server.crowd.adopt(bounds_of(config))

    async def follow_tls(self) -> None:
        """Reads a renewed certificate, until it is cancelled."""
        while self._tls.context is not None:
            await asyncio.sleep(CHECK_S)
            self.read_tls()

    def read_tls(self) -> None:
        """Reads the certificate again if its files have changed."""
        try:
            self._tls.read_if_changed()
        except HeadgateError as error:
            _log.error("a changed certificate is refused, and the one before goes on to hold: %s", error.message)
