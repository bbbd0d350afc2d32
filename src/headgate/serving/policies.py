"""The policy's document as it changes, and as the config names another one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.access.policy import Policy
from headgate.audit.journal import Journal
from headgate.tools.base import approvable

if TYPE_CHECKING:
    from headgate.access.policy_file import Entities, PolicyChange, PolicyFile
    from headgate.config import Config


def policy_of(config: Config) -> Policy:
    """What decides: the policy's document, or the scopes alone. ConfigError when the document does not hold."""
    file, key = config.policy, config.access.policy_key
    if file is None or key is None:
        return Policy()
    # Imported here, so that a server without a document starts without its form.
    from headgate.access.policy_file import ARCHIVE, open_policy

    return open_policy(file, key.get_secret_value().encode(), config.data / ARCHIVE, approvable())


class Policies:
    """Follows the document that holds now. For one event loop."""

    def __init__(self, journal: Journal, data: Path, entities: Entities) -> None:
        self._journal = journal
        self._data = data
        self._entities = entities
        self._followed: tuple[Policy, Path] | None = None
        self._file: PolicyFile | None = None
        self._task: asyncio.Task[None] | None = None

    async def follow(self, policy: Policy, file: Path | None) -> None:
        """From now on adopts this document as it changes; none where there is none. Recorded as loaded."""
        wanted = (policy, file) if file is not None else None
        if wanted == self._followed:
            return
        await self.close()
        self._followed = wanted
        if file is not None:
            from headgate.access.policy_file import ARCHIVE, PolicyFile

            await self._journal.policy("loaded", policy.version)
            self._file = PolicyFile(policy, file, self._data / ARCHIVE, self._entities, self._told, approvable())
            self._task = asyncio.ensure_future(self._file.run())

    async def look(self) -> None:
        """Looks at once."""
        if self._file is not None:
            await self._file.look()

    async def close(self) -> None:
        """Follows nothing any more."""
        task, self._task, self._file = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _told(self, change: PolicyChange) -> None:
        await self._journal.policy(change.kind, change.version, change.previous, change.reason)
