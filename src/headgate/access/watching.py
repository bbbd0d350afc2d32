"""Rows that someone waits for: looked at once for all who do, when they may have changed, and as each one sees them.

Hints come by the process's one hearer (see `subscriptions`); a row is then read, seen through each lens that somebody
watches it by, and compared with what was seen before. So a hint too many tells nobody anything, and a change of what
a caller does not see (a hidden field, a row of others) looks like none.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from headgate import plugins
from headgate.access.lens import Lens
from headgate.errors import HeadgateError, SnapshotPending, TooManyWaiting, Unavailable, UnknownEntity
from headgate.model.row import Row
from headgate.stores.base import Reader
from headgate.subscriptions.base import Hearer, Touch
from headgate.telemetry import logger

_CHUNK = 500
_HEARD_WITHIN_S = 5.0
_PAUSES_S = (0.05, 0.2, 1.0)
_LOOKS_AT_ONCE = 8
_log = logger("access.watching")

Seen: TypeAlias = bytes
"""Digest of a row as somebody sees it; empty for none."""


class PushConfig(BaseModel):
    """How many may wait for changes, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    wait_max_s: float = Field(30.0, gt=0, le=300)
    """How long one `wait_for_change` waits at most."""
    waits_per_caller: int = Field(20, ge=1)
    waits: int = Field(2_000, ge=1)
    """Of one process."""
    listeners_per_caller: int = Field(100, ge=1)
    listeners: int = Field(2_000, ge=1)
    """Streams of `subscriptions/listen`, of one process."""
    uris_per_listener: int = Field(1_000, ge=1)


class Watcher(Protocol):
    """Whoever is to know of changed rows. Its methods are called on the event loop, and return at once."""

    def changed(self, entity: str, key: str) -> None:
        """The row is another one for this watcher: changed, there now, or gone."""


def seen_as(row: Row | None) -> Seen:
    """What is compared of a row as it is seen."""
    if row is None:
        return b""
    return hashlib.blake2b(row.json, digest_size=12, person=row.flaw.encode()[:16]).digest()


def open_watching(reader: Reader, kind: str, target: Any, config: PushConfig) -> Watching:
    """What is watched by this reader, whose rows' changes are told by that kind. ConfigError for one there is not."""
    hearer: Hearer = plugins.load("subscriptions", kind).open_hearer(target)
    return Watching(reader, hearer, config)


class _Group:
    """All who watch one row by one lens."""

    __slots__ = ("seen", "watchers")

    def __init__(self) -> None:
        self.seen: Seen | None = None
        """None: it was not looked at yet."""
        self.watchers: set[Watcher] = set()


class Watching:
    """All that is watched in this process. For one event loop. Without a hearer nothing can be waited for."""

    def __init__(self, reader: Reader, hearer: Hearer | None, config: PushConfig | None = None) -> None:
        self.config = config or PushConfig()
        self.looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        """What those hold who read more than rows by their keys."""
        self._reader = reader
        self._hearer = hearer
        self._rows: dict[str, dict[str, dict[Lens | None, _Group]]] = {}
        self._entities: dict[str, set[Callable[[], None]]] = {}
        self._waiting: Counter[Hashable] = Counter()
        self._dirty: dict[str, set[str]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._is_heard = asyncio.Event()
        self._has_heard = False

    @property
    def can_hear(self) -> bool:
        """Whether anybody tells of changes."""
        return self._hearer is not None

    # --- those who wait ---------------------------------------------------------------------------

    @contextmanager
    def waiting(self, caller: Hashable) -> Iterator[None]:
        """One place among those who wait, for the length of a block. TooManyWaiting when all are taken."""
        most = self.config.waits_per_caller
        if self._waiting[caller] >= most or self._waiting.total() >= self.config.waits:
            raise TooManyWaiting(f"Too many calls wait for changes already (at most {most} of one caller): end one.")
        self._waiting[caller] += 1
        try:
            yield
        finally:
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]

    def watch(self, watcher: Watcher, entity: str, lens: Lens | None, keys: Collection[str]) -> None:
        """From now on the watcher is told of these rows, seen through this lens (None: as they are stored)."""
        rows = self._rows.setdefault(entity, {})
        for key in keys:
            rows.setdefault(key, {}).setdefault(lens, _Group()).watchers.add(watcher)

    def unwatch(self, watcher: Watcher, entity: str, lens: Lens | None, keys: Collection[str]) -> None:
        """The watcher is told no more of these."""
        rows = self._rows.get(entity, {})
        for key in keys:
            groups = rows.get(key, {})
            group = groups.get(lens)
            if group is None:
                continue
            group.watchers.discard(watcher)
            if not group.watchers:
                del groups[lens]
            if not groups:
                del rows[key]
        if not rows:
            self._rows.pop(entity, None)

    @contextmanager
    def hints(self, entity: str, hinted: Callable[[], None]) -> Iterator[None]:
        """For the length of a block, `hinted` is called whenever some row of the entity may have changed."""
        self._entities.setdefault(entity, set()).add(hinted)
        try:
            yield
        finally:
            mine = self._entities[entity]
            mine.discard(hinted)
            if not mine:
                del self._entities[entity]

    async def heard(self) -> None:
        """Returns once no change is missed any more. Unavailable when nothing can be heard of changes."""
        if self._hearer is None:
            raise Unavailable("This server is not told of changes: ask for the rows themselves, again and again.")
        if self._hearing is None:
            self._hearing = asyncio.create_task(self._hear(self._hearer))
        try:
            async with asyncio.timeout(_HEARD_WITHIN_S):
                await self._is_heard.wait()
        except TimeoutError as error:
            raise Unavailable("Nobody tells of changes now: try again.", retry_after_s=1.0) from error

    async def look(self, entity: str, keys: Sequence[str]) -> None:
        """Looks at rows that were not looked at yet, so that the next change of them is one. As `Reader.get`."""
        rows = self._rows.get(entity, {})
        new = [key for key in keys if any(group.seen is None for group in rows.get(key, {}).values())]
        for start in range(0, len(new), _CHUNK):
            await self._look_at(entity, new[start : start + _CHUNK], is_first=True)

    def seen(self, entity: str, lens: Lens | None, key: str) -> Seen:
        """How a watched row looked by that lens when it was looked at last."""
        group = self._rows.get(entity, {}).get(key, {}).get(lens)
        return (group.seen if group else b"") or b""

    async def close(self) -> None:
        """Hears no more. Never raises."""
        tasks = [task for task in (self._hearing, self._looking) if task is not None]
        self._hearing = self._looking = None
        self._is_heard.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is heard ----------------------------------------------------------------------------

    async def _hear(self, hearer: Hearer) -> None:
        failures = 0
        while True:
            try:
                await hearer.hear(self._told, self._listening)
            except HeadgateError as error:
                failures = 0 if self._is_heard.is_set() else failures + 1
                _log.warning("changes can't be heard of now: %s", error.message)
            except Exception:
                failures += 1
                _log.exception("hearing of changes failed")
            self._is_heard.clear()
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])

    def _listening(self) -> None:
        if self._has_heard:
            self._told([Touch()])
        self._has_heard = True
        self._is_heard.set()

    def _told(self, touches: Sequence[Touch]) -> None:
        for touch in touches:
            for entity in [touch.entity] if touch.entity else [*{*self._rows, *self._entities}]:
                self._mark(entity, touch.keys)
        if self._dirty and self._looking is None:
            self._looking = asyncio.create_task(self._look_until_clean())

    def _mark(self, entity: str, keys: Sequence[str] | None) -> None:
        for hinted in tuple(self._entities.get(entity, ())):
            hinted()
        rows = self._rows.get(entity)
        if rows:
            watched = rows.keys() if keys is None else [key for key in keys if key in rows]
            if watched:
                self._dirty.setdefault(entity, set()).update(watched)

    # --- looking ----------------------------------------------------------------------------------

    async def _look_until_clean(self) -> None:
        """One look after the other: what is marked meanwhile is looked at once, in the next one."""
        failures = 0
        try:
            while self._dirty:
                dirty, self._dirty = self._dirty, {}
                for entity, keys in dirty.items():
                    if not await self._is_looked_at(entity, sorted(keys)):
                        self._dirty.setdefault(entity, set()).update(keys)
                        failures += 1
                        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1])
        finally:
            self._looking = None

    async def _is_looked_at(self, entity: str, keys: Sequence[str]) -> bool:
        try:
            for start in range(0, len(keys), _CHUNK):
                await self._look_at(entity, keys[start : start + _CHUNK])
        except HeadgateError as error:
            _log.warning("watched rows can't be read now: %s", error.message)
            return False
        except Exception:
            _log.exception("watched rows could not be compared")
        return True

    async def _look_at(self, entity: str, keys: Sequence[str], *, is_first: bool = False) -> None:
        """Compares rows with what was seen before. With `is_first`, only those that were not seen yet."""
        try:
            found = {row.key: row for row in (await self._reader.get(entity, keys)).rows}
        except UnknownEntity:
            found = {}
        except SnapshotPending:  # once it is whole, all of it has changed
            return
        rows = self._rows.get(entity, {})
        for key in keys:
            for lens, group in rows.get(key, {}).items():
                if is_first and group.seen is not None:
                    continue
                row = found.get(key)
                seen = seen_as(row if lens is None or row is None else lens.see(row))
                before, group.seen = group.seen, seen
                if before is not None and before != seen:
                    for watcher in tuple(group.watchers):
                        watcher.changed(entity, key)
