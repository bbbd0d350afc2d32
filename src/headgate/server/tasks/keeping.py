"""Takes up tasks whose process has died: reads are done again, and of changes nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from headgate.errors import HeadgateError
from headgate.server.call import Rooms
from headgate.server.tasks.docket import Pulse
from headgate.server.tasks.task import Task
from headgate.server.tasks.working import begin, unknown
from headgate.telemetry import logger

LOOK_S = 2.0
"""How often a process looks for tasks that nobody works on."""
MOST_TAKEN = 8
"""So many taken tasks it works on at once; others are left to other processes, or for later."""

_log = logger("server.tasks")


@asynccontextmanager
async def keeping(rooms: Callable[[], Rooms]) -> AsyncIterator[None]:
    """Looks after tasks that were left, for the length of a block, by the rooms that there are at the time."""
    looking = asyncio.create_task(_keep_looking(rooms))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _keep_looking(rooms: Callable[[], Rooms]) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            await take_up(rooms())
        except HeadgateError as error:
            _log.warning("tasks that were left could not be looked for: %s", error.message)
        except Exception:
            _log.exception("looking for tasks that were left failed")


async def take_up(rooms: Rooms) -> None:
    """Takes up what was left, once. Unavailable when the state does not answer."""
    for id_, owner in (await rooms.docket.left()).items():
        if len(rooms.works) >= MOST_TAKEN:
            return
        task = await rooms.docket.find(owner, id_)
        if task is not None and task.status == "input_required":
            continue  # its client's turn
        pulse = await rooms.docket.take(id_)
        if pulse is not None:
            await _take(rooms, owner, pulse)


async def _take(rooms: Rooms, owner: str, pulse: Pulse) -> None:
    """With the right to work on it: what is the next attempt, where there is one to make."""
    task = await rooms.docket.change(owner, pulse.id, _next)
    if task is not None and task.status == "working":
        _log.info("task %s was left by its process and is taken up", task.id)
        begin(task, pulse, rooms)
        return
    if task is None or task.is_over:
        await rooms.docket.forget(owner, pulse.id)
    await rooms.docket.release(pulse)


def _next(task: Task) -> Task | None:
    if task.status != "working":
        return None
    following = msgspec.structs.replace(task, attempt=task.attempt + 1)
    return unknown(following) if task.changes else following
