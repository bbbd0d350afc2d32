"""The config's file as it changes: looked at each second and when asked, taken whole or refused."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol

from headgate.config import Config, load
from headgate.errors import ConfigError, HeadgateError, Unavailable
from headgate.serving.live import Merged, merged
from headgate.telemetry import logger

CHECK_S = 1.0
_log = logger("serving")


class Taker(Protocol):
    """Who runs by the config."""

    @property
    def config(self) -> Config:
        """What holds now."""

    def take(self, config: Config) -> None:
        """From now on this holds for what begins. ConfigError: all is as it was."""


class Teller(Protocol):
    """Keeps the record of what became of a config."""

    async def __call__(
        self, kind: Literal["adopted", "refused"], version: str, previous: str = "", reason: str = ""
    ) -> None: ...


class ConfigFile:
    """Keeps a process as its config says. For one event loop; the file is read beside it."""

    def __init__(
        self,
        taker: Taker,
        told: Teller,
        *,
        flows: bool,
        version: str = "",
        taken: Callable[[str], None] = lambda version: None,
        afterwards: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`taken` gets the version of what was taken; `afterwards` is awaited then."""
        self._taker = taker
        self._told = told
        self._flows = flows
        self._taken = taken
        self._afterwards = afterwards
        self._file = taker.config.path
        self.version = version or _version_on_disk(self._file)
        """Of the file's text when it was last taken; empty where there is no file."""
        self._refused = ""
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Looks each second, until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self.look()
            except Exception:  # whatever it was, the next look may find the file whole
                _log.exception("the config could not be looked at")

    async def look(self) -> bool:
        """Takes the file if it has changed and holds; answers whether it was taken.

        One that can't be read, or does not hold, is refused: once for each version, in the log and in the record.
        The one before goes on to hold. Of several looks at once one takes a version.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        if self._file is None:
            return False
        version = await asyncio.to_thread(_version_on_disk, self._file)
        if version in (self.version, self._refused):
            if version == self.version:
                self._refused = ""
            return False
        try:
            found = await asyncio.to_thread(load, self._file)
            change = merged(self._taker.config, found, flows=self._flows)
            if not change.config.pipelines:
                raise ConfigError(f"{self._file}:1: pipelines: there are none any more: leave one")
            self._taker.take(change.config)
        except Unavailable as error:  # who may come in could not be told: the next look may tell
            _log.warning("a changed config is not taken yet: %s", error.message)
            return False
        except HeadgateError as error:
            await self._refuse(version, error.message)
            return False
        await self._settle(version, change)
        return True

    async def _settle(self, version: str, change: Merged) -> None:
        previous, self.version, self._refused = self.version, version, ""
        self._taken(version)
        _log.warning("the config is now %s: taken: %s", version, ", ".join(change.taken) or "nothing")
        if change.waiting:
            _log.warning("changed, and waiting until this process starts anew: %s", ", ".join(change.waiting))
        reason = f"waiting: {', '.join(change.waiting)}" if change.waiting else ""
        await self._told("adopted", version, previous, reason)
        if self._afterwards is not None:
            await self._afterwards()

    async def _refuse(self, version: str, reason: str) -> None:
        self._refused = version
        _log.error("a changed config is refused, and the one before goes on to hold: %s", reason)
        assert self._file is not None, "it was looked at"
        await self._told("refused", version, self.version, reason.replace(str(self._file), self._file.name))


def _version_on_disk(file: Path | None) -> str:
    """The digest of the text; a word for a file that can't be read."""
    if file is None:
        return ""
    try:
        return version_of(file.read_bytes())
    except OSError:
        return "unreadable"


def version_of(text: bytes) -> str:
    """The version of a config's text: another text has another one."""
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
