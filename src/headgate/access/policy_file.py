"""The policy's document on the disk: read at the start, looked at each second, archived by its version."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from headgate.access.document import MAX_BYTES, version_of
from headgate.access.findings import mistakes_in
from headgate.access.policy import Edition, Policy
from headgate.errors import ConfigError
from headgate.model.entity import Entity
from headgate.telemetry import logger

ARCHIVE = "policies"
"""The folder, in the data folder, that keeps every version that has held: `<hex of its digest>.yaml`."""
CHECK_S = 1.0

_log = logger("access.policy")


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a document that was found on the disk."""

    kind: Literal["adopted", "refused"]
    version: str
    """Of the document that was found."""
    previous: str
    """Of the one that held before, which goes on to hold if this one is refused."""
    reason: str = ""


OnChange = Callable[[PolicyChange], Awaitable[None]]
Entities = Callable[[], Awaitable[Mapping[str, Entity]]]


async def nobody(change: PolicyChange) -> None:
    """Tells nobody of a change, which is in the process's log anyway."""


def open_policy(file: Path, key: bytes, folder: Path, changing: Collection[str] | None = None) -> Policy:
    """The policy of a document, archived. ConfigError when it does not hold: a server must not start without it.

    `changing` are the tools that may need an approval.
    """
    text = read_text(file)
    edition = Edition.of(text, file.name, changing)
    archive(folder, edition.version, text)
    return Policy(edition, key)


class PolicyFile:
    """Keeps a policy as its document says. For one event loop; files are read beside it."""

    def __init__(
        self,
        policy: Policy,
        file: Path,
        archive: Path,
        entities: Entities,
        told: OnChange = nobody,
        changing: Collection[str] | None = None,
    ) -> None:
        """`changing` are the tools that may need an approval."""
        self._policy = policy
        self._file = file
        self._archive = archive
        self._entities = entities
        self._told = told
        self._changing = changing
        self._refused = ""
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Looks each second, until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                await self.look()
            except Exception:  # whatever it was, the next look may find the document whole
                _log.exception("the policy's document could not be looked at")

    async def look(self) -> bool:
        """Adopts the document if it has changed and holds; answers whether it was adopted.

        A document that can't be read, or does not hold, is refused: once for each version, in the log and to
        whoever is told. The one before goes on to hold. Of several looks at once one adopts a version.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        try:
            text = await asyncio.to_thread(read_text, self._file)
        except ConfigError as error:
            await self._refuse("", error.message)
            return False
        version = version_of(text)
        if version in (self._policy.version, self._refused):
            if version == self._policy.version:
                self._refused = ""
            return False
        try:
            edition = await asyncio.to_thread(Edition.of, text, self._file.name, self._changing)
            await self._check(edition)
            await asyncio.to_thread(archive, self._archive, version, text)
        except ConfigError as error:
            await self._refuse(version, error.message)
            return False
        await self._adopt(edition)
        return True

    async def _check(self, edition: Edition) -> None:
        """A rule that can't be enforced on the entities there are is a mistake of the document."""
        assert edition.rules is not None, "it was made of a document"
        found = mistakes_in(edition.rules.document, await self._entities())
        if found:
            raise ConfigError("\n".join(found))

    async def _adopt(self, edition: Edition) -> None:
        previous, self._refused = self._policy.version, ""
        self._policy.adopt(edition)
        _log.warning("the policy is now %s (before: %s)", edition.version, previous)
        await self._told(PolicyChange(kind="adopted", version=edition.version, previous=previous))

    async def _refuse(self, version: str, reason: str) -> None:
        if self._refused == (version or reason):
            return
        self._refused = version or reason
        _log.error("a changed policy is refused, and the one before goes on to hold: %s", reason)
        change = PolicyChange(kind="refused", version=version, previous=self._policy.version, reason=reason)
        await self._told(change)


def read_text(file: Path) -> str:
    """The document's text. ConfigError when it can't be read."""
    try:
        data = file.read_bytes() if file.stat().st_size <= MAX_BYTES else None
        if data is not None:
            return data.decode()
    except OSError as error:
        raise ConfigError(f"{file.name}: the policy can't be read: mend access.policy or the file's rights") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.name}: the policy is not UTF-8 text") from error
    raise ConfigError(f"{file.name}: the policy is larger than {MAX_BYTES} bytes")


def check_policy(file: Path, changing: Collection[str]) -> None:
    """Returns if the document holds by itself. ConfigError names every mistake."""
    Edition.of(read_text(file), file.name, changing)


def archive(folder: Path, version: str, text: str) -> None:
    """Keeps a version's text. It is written whole beside its place first; what is there already stays."""
    place = archived(folder, version)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.exists():
            return
        draft = place.with_suffix(f".{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(place)
    except OSError as error:
        raise ConfigError("the policy can't be archived in the data folder: see to its space and rights") from error


def archived(folder: Path, version: str) -> Path:
    """Where a version's text is kept."""
    return folder / f"{version.removeprefix('sha256:')}.yaml"
