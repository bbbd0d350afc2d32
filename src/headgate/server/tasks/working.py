"""The work on a task: one attempt at it, in this process, which any other process may follow with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from headgate.errors import HeadgateError, InputRequired, OutcomeUnknown
from headgate.server import wire
from headgate.server.acts import answer_of_tool
from headgate.server.call import Call, Rooms, readmit, run_paid
from headgate.server.tasks.docket import Pulse
from headgate.server.tasks.listener import Listener
from headgate.server.tasks.shown import message_of
from headgate.server.tasks.task import Task, sight_of
from headgate.telemetry import logger
from headgate.tools.base import Result

BEAT_S = 1.0
"""How often work looks whether its task was cancelled or taken by another, and says how far it is."""

_BEATS_A_RENEWAL = 3
_WRITES = 30
"""How often what came of it is tried to be put down, a second apart, while the state does not answer."""
_SETTLE_S = 10.0
_log = logger("server.tasks")

Change = Callable[[Task], Task]


class Work:
    """One attempt. `running` is the call, which records itself; `call` is what stands in its event."""

    def __init__(self, task: Task, pulse: Pulse, call: Call, listener: Listener, running: asyncio.Task[Result]) -> None:
        self._rooms = call.rooms
        self._task = task
        self._pulse: Pulse | None = pulse
        self._call = call
        self._listener = listener
        self._running = running
        self._said = ""
        self._carrying = asyncio.create_task(self._carry())
        self._rooms.works[task.id] = self

    def stop(self) -> None:
        """Stops the work at the engine, if it only reads; what changes something goes on to its end."""
        self._running.cancel()

    async def leave(self) -> None:
        """Leaves a read to another process, which may begin at once; waits for a change, for ten seconds at most."""
        if not self._task.changes:
            self.stop()
        await asyncio.wait({self._carrying}, timeout=_SETTLE_S)

    # --- its steps --------------------------------------------------------------------------------

    async def _carry(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({self._running})
            if not self._running.cancelled():
                await self._put_down(await self._ending())
        except HeadgateError as error:
            _log.warning("what came of task %s could not be kept: %s", self._task.id, error.message)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            if self._rooms.works.get(self._task.id) is self:  # the next round may have begun here already
                del self._rooms.works[self._task.id]
            await self._release()

    async def _ending(self) -> Change:
        """What the task becomes by what came of the call."""
        error = self._running.exception()
        if error is None:
            return await self._completed(wire.answer(self._running.result(), self._noted()))
        if isinstance(error, InputRequired):
            return partial(_parked, asked=error)
        if not isinstance(error, HeadgateError):
            _log.error("task %s failed inside, in call %s", self._task.id, self._call.id, exc_info=error)
            return partial(failed, error=wire.internal_error(self._call.id))
        if wire.is_of_the_protocol(error, self._task.asked.protocol_version):
            return partial(failed, error=wire.error_data(error, self._call.id))
        return await self._completed(wire.tool_error(error, self._noted()))

    async def _completed(self, answer: dict[str, Any]) -> Change:
        await self._patiently(lambda: self._rooms.docket.keep_answer(self._task, msgspec.json.encode(answer)))
        sight = sight_of(self._call.granted, self._task.asked.name) if self._call.grant else ""
        return lambda task: msgspec.structs.replace(task, status="completed", note="", sight=sight)

    async def _put_down(self, change: Change) -> None:
        """The fence: a task that has ended meanwhile, or is another's by now, stays as it is."""

        def fenced(task: Task) -> Task | None:
            return change(task) if task.attempt == self._task.attempt and not task.is_over else None

        await self._patiently(lambda: self._rooms.docket.change(self._task.owner, self._task.id, fenced))

    async def _patiently(self, write: Callable[[], Any]) -> None:
        for tries_left in reversed(range(_WRITES)):
            try:
                await write()
                return
            except HeadgateError:
                if not tries_left:
                    raise
                await asyncio.sleep(BEAT_S)

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(BEAT_S)
            count += 1
            try:
                if not await self._is_still_ours(renew=count % _BEATS_A_RENEWAL == 0):
                    self.stop()
                    return
            except HeadgateError as error:
                _log.warning("task %s could not be looked at: %s", self._task.id, error.message)

    async def _is_still_ours(self, *, renew: bool) -> bool:
        docket, mine = self._rooms.docket, self._task
        if renew and self._pulse is not None:
            self._pulse = await docket.renew(self._pulse)
        note = self._listener.note
        if note != self._said:
            self._said = note
            found = await docket.change(mine.owner, mine.id, partial(_noted_by, attempt=mine.attempt, note=note))
        else:
            found = await docket.find(mine.owner, mine.id)
        return self._pulse is not None and found is not None and found.attempt == mine.attempt and not found.is_over

    async def _release(self) -> None:
        if self._pulse is not None:
            try:
                await self._rooms.docket.release(self._pulse)
            except HeadgateError:
                pass  # it ends by itself

    def _noted(self) -> wire.Noted:
        return wire.noted(self._call.id, None, self._call.answer_of)


def begin(task: Task, pulse: Pulse, rooms: Rooms) -> None:
    """Begins to work on a task by a call of its own, which is admitted anew: what was taken away since is not done."""
    call = Call(task.door, task.peer, rooms)
    call.caller, call.asked = task.caller, msgspec.structs.replace(task.asked, task=task.id)
    listener = Listener.away(task)
    Work(task, pulse, call, listener, asyncio.create_task(_whole(call, listener)))


async def _whole(call: Call, listener: Listener) -> Result:
    """The page's way for work whose caller was identified, and has paid, when the task was made."""
    await readmit(call)
    return await run_paid(call, partial(answer_of_tool, client=listener))


# --- what a task becomes -----------------------------------------------------------------------------


def failed(task: Task, error: dict[str, Any]) -> Task:
    """The task, ended by an error of the protocol."""
    return msgspec.structs.replace(task, status="failed", error=error, note=message_of(error))


def unknown(task: Task) -> Task:
    """A task that was to change something, whose process ended in the middle."""
    error = OutcomeUnknown(
        "The process that worked on this task ended in the middle, and nobody knows whether it acted. It is not run "
        "again. Look at what it was to change (get_pipeline_detail tells for a pipeline), and call again if need be.",
        task=task.id,
    )
    return failed(task, wire.error_data(error))


def _parked(task: Task, asked: InputRequired) -> Task:
    parked = msgspec.structs.replace(
        task, status="input_required", round=task.round + 1, answers={}, kept=asked.keep, note=""
    )
    questions = {parked.key_of(name): question for name, question in asked.questions.items()}
    return msgspec.structs.replace(parked, questions=questions)


def _noted_by(task: Task, attempt: int, note: str) -> Task | None:
    if task.attempt != attempt or task.is_over:
        return None
    return msgspec.structs.replace(task, note=note)
