"""All open streams of this process: how many there may be, and whether each of their callers may still hear."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from headgate.access.watching import PushConfig
from headgate.errors import HeadgateError, InvalidArguments, TooManyWaiting, Unauthenticated, Unavailable
from headgate.model.caller import Grant
from headgate.model.entity import Entity
from headgate.server.push.listener import ROW_READER, Listener
from headgate.server.push.lists import Lists
from headgate.server.push.tasks import TaskNotices
from headgate.server.push.wanted import Wanted, wanted_of
from headgate.telemetry import logger

if TYPE_CHECKING:
    from headgate.server.call import Call, Rooms

EVERY_S = 1.0
"""How often each caller's credential, grant and lists are looked at; a changed policy at once."""

_log = logger("server.push")


class Push:
    """The streams. For one event loop. What it judges by are the rooms that it was given last."""

    def __init__(self) -> None:
        self._rooms: Rooms | None = None
        self.tasks = TaskNotices()
        """The tasks among what streams hear of."""
        self._listeners: dict[Listener, tuple[str, ...]] = {}
        self._of_each: Counter[tuple[str, ...]] = Counter()
        self._tending: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._entities: Mapping[str, Entity] = {}
        self._must_compare = False
        self._is_draining = False

    @property
    def count(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def adopt(self, rooms: Rooms) -> None:
        """From now on these decide what callers may hear; streams go on, and are looked at anew at once."""
        self._rooms = rooms
        self.tasks.adopt(rooms)
        self.lists_changed()

    def lists_changed(self) -> None:
        """What there is may be another: each caller is told of the lists that changed for it. Returns at once."""
        self._must_compare = True
        self._hurry.set()

    def drain(self) -> None:
        """Every stream ends gracefully, and none opens any more."""
        self._is_draining = True
        for listener in self._listeners:
            listener.end("stopping")

    async def close(self) -> None:
        """Lets go. Never raises."""
        await self.tasks.close()
        tending, self._tending = self._tending, None
        if tending is not None:
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)

    # --- one stream -------------------------------------------------------------------------------

    async def open(self, call: Call, wanted: Wanted | None = None) -> Listener:
        """A stream for an admitted call, of what is wanted or its arguments ask. Whoever gets it must `forget` it.

        InvalidArguments: too many URIs; ExtensionMissing: of tasks, for a client that takes none; TooManyWaiting: too
        many streams; Unavailable: the server is stopping, or nothing can be heard of changes now.
        """
        rooms = self._rooms = self._rooms or call.rooms
        bounds = rooms.watching.config if rooms.watching else PushConfig()
        if wanted is None:
            wanted = wanted_of(call.asked.arguments, bounds.uris_per_listener)
        place = call.granted.caller.who
        self._check_room(place, bounds)
        listener = Listener(call, wanted, rooms.watching)
        self._listeners[listener] = place
        self._of_each[place] += 1
        try:
            await listener.bind(rooms.view_for(listener.grant, ROW_READER))
            await self.tasks.hear(call, listener)
            if wanted.lists:
                listener.known = await Lists(rooms).of(listener.grant)
        except BaseException:
            self.forget(listener)
            raise
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())
        return listener

    async def add(self, listener: Listener, call: Call, uri: str) -> None:
        """An open stream hears of one thing more. InvalidArguments: of too many; Unavailable as in `open`."""
        rooms = self._rooms = self._rooms or call.rooms
        most = (rooms.watching.config if rooms.watching else PushConfig()).uris_per_listener
        if len(listener.wanted.uris) >= most:
            raise InvalidArguments(f"One connection subscribes to at most {most} resources: unsubscribe from one.")
        await listener.add(rooms.view_for(call.granted, ROW_READER), uri)

    def forget(self, listener: Listener) -> None:
        """The stream is over."""
        place = self._listeners.pop(listener, None)
        if place is not None:
            self._of_each[place] -= 1
            if not self._of_each[place]:
                del self._of_each[place]
        self.tasks.forget(listener)
        listener.unbind()

    def may_tell(self, listener: Listener) -> bool:
        """Whether the caller was looked at under the policy that holds now; if not, it is at once."""
        assert self._rooms is not None, "a stream was opened"
        if listener.grant.policy_version == self._rooms.policy.version:
            return not listener.is_held
        self._hurry.set()
        return False

    def _check_room(self, place: tuple[str, ...], bounds: PushConfig) -> None:
        if self._is_draining:
            raise Unavailable("This server is stopping: listen at another one.")
        if self._of_each[place] >= bounds.listeners_per_caller or self.count >= bounds.listeners:
            raise TooManyWaiting(
                f"There are too many open streams (at most {bounds.listeners_per_caller} of one caller): close one."
            )

    # --- tending ----------------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()
            try:
                await self._look()
            except HeadgateError as error:
                _log.warning("what callers may hear can't be looked at now: %s", error.message)
            except Exception:
                _log.exception("tending to open streams failed")

    async def _look(self) -> None:
        rooms = self._rooms
        if rooms is None or not self._listeners:
            return
        must_compare, self._must_compare = self._must_compare, False
        try:
            await rooms.toolbox.tools()
        except HeadgateError:
            self._must_compare = must_compare
            raise
        entities = rooms.toolbox.entities
        must_bind = entities is not self._entities and entities != self._entities
        self._entities = entities
        lists = Lists(rooms)
        for listener in tuple(self._listeners):
            await self._look_at(rooms, listener, lists, must_bind=must_bind, must_compare=must_compare or must_bind)

    async def _look_at(
        self, rooms: Rooms, listener: Listener, lists: Lists, *, must_bind: bool, must_compare: bool
    ) -> None:
        """Whether the caller may still hear, and what is another for it."""
        try:
            grant = rooms.policy.decide(await rooms.identity.identify(listener.credentials))
            is_other = not _is_alike(grant, listener.grant)
            if must_bind or is_other or listener.is_held:
                await listener.bind(rooms.view_for(grant, ROW_READER))
            if listener.wanted.lists and (must_compare or is_other):
                await _compare(listener, lists, grant)
        except Unauthenticated:
            listener.deny("credential ended")
        except HeadgateError as error:
            _log.warning("a stream is held: %s", error.message)
            listener.hold(held=True)
        else:
            if listener.is_held or is_other:
                listener.hold(held=False)


async def _compare(listener: Listener, lists: Lists, grant: Grant) -> None:
    looks = await lists.of(grant)
    for name in sorted(listener.wanted.lists):
        if looks[name] != listener.known.get(name):
            listener.list_changed(name)
    listener.known = looks


def _is_alike(grant: Grant, other: Grant) -> bool:
    return (
        grant.fingerprint == other.fingerprint
        and grant.scopes == other.scopes
        and grant.policy_version == other.policy_version
    )
