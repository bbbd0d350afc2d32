"""The tasks that streams hear of (Tasks extension at 2026-07-28, "Task Status Notifications").

Each is looked at once a second for all who hear of it, as any process may work on it; what changes in this process is
heard of at once. A stream tells a task as it stands then, read and checked as `tasks/get` reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from headgate.errors import CallError, ExtensionMissing, HeadgateError, Unavailable
from headgate.server.push.wanted import Wanted
from headgate.server.tasks.looking import find, look, takes_tasks
from headgate.server.tasks.shown import detailed
from headgate.server.tasks.task import EXTENSION, Task, owner_of
from headgate.telemetry import logger

if TYPE_CHECKING:
    from headgate.server.call import Call, Rooms
    from headgate.server.push.listener import Listener

LOOK_S = 1.0
_log = logger("server.push")

_Mark: TypeAlias = tuple[object, ...]


@dataclass
class _Heard:
    """One task, and all who hear of it."""

    listeners: set[Listener] = field(default_factory=set)
    mark: _Mark = ()
    is_over: bool = False


class TaskNotices:
    """For one event loop. `find` and `look` are asked in the rooms that `adopt` was given last."""

    def __init__(self) -> None:
        self._rooms: Rooms | None = None
        self._heard: dict[tuple[str, str], _Heard] = {}
        self._looking: asyncio.Task[None] | None = None

    def adopt(self, rooms: Rooms) -> None:
        """From now on these hold the tasks."""
        self._rooms = rooms

    async def hear(self, call: Call, listener: Listener) -> None:
        """The stream hears of those of the wanted tasks that are its caller's, and at once how they stand.

        ExtensionMissing where the client takes no tasks; Unavailable when the state does not answer.
        """
        if not listener.wanted.tasks:
            return
        if not takes_tasks(call):
            raise ExtensionMissing(EXTENSION)
        self._rooms = self._rooms or call.rooms
        mine = [id_ for id_ in listener.wanted.tasks if await _is_there(call, id_)]
        listener.wanted = Wanted(listener.wanted.lists, listener.wanted.uris, tuple(mine))
        for id_ in mine:
            self._heard.setdefault((owner_of(call.granted.caller), id_), _Heard()).listeners.add(listener)
            listener.task_changed(id_)
        if mine and self._looking is None:
            self._looking = asyncio.create_task(self._look_until_over())

    def forget(self, listener: Listener) -> None:
        """The stream is over."""
        owner = owner_of(listener.grant.caller)
        for id_ in listener.wanted.tasks:
            heard = self._heard.get((owner, id_))
            if heard is not None:
                heard.listeners.discard(listener)
                if not heard.listeners:
                    del self._heard[owner, id_]

    def changed(self, task: Task) -> None:
        """This process has written a task, or read it."""
        heard = self._heard.get((task.owner, task.id))
        mark = _mark_of(task)
        if heard is not None and heard.mark != mark:
            heard.mark, heard.is_over = mark, task.is_over
            for listener in heard.listeners:
                listener.task_changed(task.id)

    async def read(self, listener: Listener, ids: Sequence[str]) -> list[dict[str, Any]]:
        """These tasks as the stream's caller sees them now. What it may not see is left out."""
        assert self._rooms is not None, "it hears of tasks"
        found = []
        for id_ in ids:
            try:
                found.append(detailed(await look(self._rooms, listener.grant, id_)))
            except Unavailable:
                self.again(listener, (id_,))
            except CallError:
                pass  # `tasks/get` says why
        return found

    def again(self, listener: Listener, ids: Sequence[str]) -> None:
        """These could not be told: the next look finds them changed."""
        for id_ in ids:
            heard = self._heard.get((owner_of(listener.grant.caller), id_))
            if heard is not None:
                heard.mark, heard.is_over = (), False

    async def close(self) -> None:
        """Looks no more. Never raises."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look_until_over(self) -> None:
        while self._heard:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except HeadgateError as error:
                _log.warning("tasks that streams hear of can't be looked at now: %s", error.message)
            except Exception:
                _log.exception("looking at tasks that streams hear of failed")
        self._looking = None

    async def _look(self) -> None:
        assert self._rooms is not None, "a stream was opened"
        for (owner, id_), heard in tuple(self._heard.items()):
            if heard.is_over:
                continue
            task = await self._rooms.docket.find(owner, id_)
            if task is None:
                heard.is_over = True
            else:
                self.changed(task)


async def _is_there(call: Call, id_: str) -> bool:
    try:
        await find(call.rooms, call.granted, id_)
    except Unavailable:
        raise
    except CallError:
        return False
    return True


def _mark_of(task: Task) -> _Mark:
    return task.status, task.attempt, task.round, task.note, task.updated_ms, len(task.answers)
