"""One open stream: what its caller hears of, and what it has not been told yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from headgate.access.lens import Lens
from headgate.access.view import View
from headgate.access.watching import Watching
from headgate.errors import UnknownEntity
from headgate.server.push.wanted import List, Place, Wanted

if TYPE_CHECKING:
    from headgate.server.call import Call

ROW_READER = "lookup"
"""A row as a resource is what this tool answers, and so policy's rules for it say who sees it."""


class Notices(NamedTuple):
    """What a listener is told at once: each list and each resource once, however often it has changed."""

    lists: Sequence[List]
    uris: Sequence[str]
    tasks: Sequence[str]
    """Ids; what is told is how each stands when it is read."""


class _Bound(NamedTuple):
    """The rows of one entity that are watched, and how they are seen."""

    lens: Lens | None
    keys: tuple[str, ...]


class Listener:
    """A `Watcher`. It holds no more than one notice for each thing it wants, however slowly its client reads."""

    def __init__(self, call: Call, wanted: Wanted, watching: Watching | None) -> None:
        assert call.credentials is not None, "a door's call has been identified"
        self.wanted = wanted
        self.credentials = call.credentials
        self.grant = call.granted
        self.told = 0
        """How many notices have been sent."""
        self.ended = ""
        """Why it is to end; empty while it goes on."""
        self.is_held = False
        """Whether nothing may be told now: it is not known whether the caller may still hear."""
        self.known: dict[List, bytes] = {}
        """How the lists looked to the caller when they were last compared."""
        self._watching = watching
        self._uris = wanted.places()
        self._keys = _by_entity(self._uris)
        self._new = set(self._uris)
        self._binding = asyncio.Lock()
        self._is_over = False
        self._bound: dict[str, _Bound] = {}
        self._pending_uris: dict[str, None] = {}
        self._pending_lists: dict[List, None] = {}
        self._pending_tasks: dict[str, None] = {}
        self._woken = asyncio.Event()

    # --- what it hears ----------------------------------------------------------------------------

    def changed(self, entity: str, key: str) -> None:
        """See `Watcher.changed`."""
        for uri in self._uris.get(Place(entity, key), ()):
            self.tell_again(uri)

    def tell_again(self, uri: str) -> None:
        """A resource is another one, or was not told of when it was."""
        self._pending_uris[uri] = None
        self._woken.set()

    def list_changed(self, name: List) -> None:
        """A list is another one for this caller."""
        self._pending_lists[name] = None
        self._woken.set()

    def task_changed(self, id_: str) -> None:
        """A task is another one, or was not told of yet."""
        self._pending_tasks[id_] = None
        self._woken.set()

    def end(self, why: str) -> None:
        """The stream is to end gracefully, after what is pending."""
        self.ended = self.ended or why
        self._woken.set()

    def deny(self, why: str) -> None:
        """The stream is to end gracefully, and its caller is told nothing more."""
        self.is_held = True
        self.end(why)

    def hold(self, *, held: bool) -> None:
        """Tells nothing until it is released."""
        self.is_held = held
        if not held:
            self._woken.set()

    # --- what it tells ----------------------------------------------------------------------------

    async def woken(self) -> None:
        """Returns once there may be something to tell, or it has ended."""
        await self._woken.wait()
        self._woken.clear()

    def take(self) -> Notices | None:
        """What is to be told now, which is pending no more; None for nothing."""
        if self.is_held or not (self._pending_uris or self._pending_lists or self._pending_tasks):
            return None
        notices = Notices(tuple(self._pending_lists), tuple(self._pending_uris), tuple(self._pending_tasks))
        self._pending_lists.clear()
        self._pending_uris.clear()
        self._pending_tasks.clear()
        return notices

    # --- as whom it hears -------------------------------------------------------------------------

    async def bind(self, view: View) -> None:
        """Watches the wanted rows as the view's grant sees them; what was watched and now looks otherwise has changed.

        What there is not for the grant is not watched, and so never changes. Unavailable when the store does not
        answer, or nothing can be heard of.
        """
        async with self._binding:
            await self._bind(view)

    async def add(self, view: View, uri: str) -> None:
        """Hears of one thing more. As `bind`; what fails leaves all as it was."""
        async with self._binding:
            self._want((*self.wanted.uris, uri))
            try:
                await self._bind(view)
            except BaseException:
                self._stop_wanting(uri)
                raise

    async def drop(self, uri: str) -> None:
        """Hears of it no more."""
        async with self._binding:
            self._stop_wanting(uri)

    def _want(self, uris: Iterable[str]) -> None:
        before = self._uris
        self.wanted = Wanted(self.wanted.lists, tuple(uris))
        self._uris = self.wanted.places()
        self._keys = _by_entity(self._uris)
        self._new = (self._new | (self._uris.keys() - before.keys())) & self._uris.keys()

    def _stop_wanting(self, uri: str) -> None:
        self._want(each for each in self.wanted.uris if each != uri)
        self._pending_uris.pop(uri, None)
        for entity, bound in tuple(self._bound.items()):
            keys = self._keys.get(entity, ())
            if self._watching is not None:
                self._watching.unwatch(self, entity, bound.lens, set(bound.keys).difference(keys))
            if keys:
                self._bound[entity] = _Bound(bound.lens, tuple(key for key in keys if key in bound.keys))
            else:
                del self._bound[entity]

    async def _bind(self, view: View) -> None:
        self.grant = view.grant
        if self._watching is None or not self._uris:
            return
        if self._new:
            await self._watching.heard()
        for entity, keys in self._keys.items():
            await self._bind_entity(self._watching, view, entity, keys)
        self._new.clear()

    async def _bind_entity(self, watching: Watching, view: View, entity: str, keys: tuple[str, ...]) -> None:
        bound = self._bound.get(entity)
        try:
            lens = await view.lens(entity)
        except UnknownEntity:
            now = None
        else:
            now = _Bound(lens, keys)
        if bound == now or self._is_over:
            return
        before = {key: watching.seen(entity, bound.lens, key) if bound else b"" for key in keys}
        if now is not None:
            watching.watch(self, entity, now.lens, keys)
            self._bound[entity] = now
            await watching.look(entity, keys)
        else:
            del self._bound[entity]
        if bound is not None and (now is None or now.lens is not bound.lens):
            watching.unwatch(self, entity, bound.lens, keys)
        for key in keys:
            if Place(entity, key) not in self._new and before[key] != (
                watching.seen(entity, now.lens, key) if now else b""
            ):
                self.changed(entity, key)

    def unbind(self) -> None:
        """Watches nothing any more, now or later."""
        self._is_over = True
        bound, self._bound = self._bound, {}
        for entity, each in bound.items():
            if self._watching is not None:
                self._watching.unwatch(self, entity, each.lens, each.keys)


def _by_entity(places: Iterable[Place]) -> Mapping[str, tuple[str, ...]]:
    keys: dict[str, list[str]] = {}
    for place in places:
        keys.setdefault(place.entity, []).append(place.key)
    return {entity: tuple(found) for entity, found in keys.items()}
