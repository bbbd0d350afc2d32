"""What `tasks/get`, `tasks/update` and `tasks/cancel` do with a call that was admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from headgate.errors import ExtensionMissing
from headgate.model.caller import Caller
from headgate.server.call import Call
from headgate.server.tasks.docket import Pulse
from headgate.server.tasks.looking import find, look, takes_tasks
from headgate.server.tasks.shown import Seen
from headgate.server.tasks.task import EXTENSION, Task
from headgate.server.tasks.working import begin

_TAKES = 20
_TAKE_S = 0.05


async def get(call: Call) -> Seen:
    """The task as it is now. GrantChanged where its answer may show more than the caller may see by now."""
    _check_extension(call)
    return await look(call.rooms, call.granted, call.asked.name)


async def update(call: Call) -> None:
    """Takes the answers to questions that are open. With the last of them the task goes on, here."""
    task = await _mine(call)
    given = call.asked.answers
    if task.status != "input_required" or not given:
        return
    pulse = await _right_to(task, call) if task.open_questions().keys() <= given.keys() else None
    last: list[Task | None] = []

    def step(task: Task) -> Task | None:
        last[:] = [_with_answers(task, given, call.granted.caller)]
        return last[0]

    await call.rooms.docket.change(task.owner, task.id, step)
    now = last[0] if last else None
    if now is not None and now.status == "working":
        pulse = pulse or await _right_to(task, call)
        if pulse is not None:
            begin(now, pulse, call.rooms)
    elif pulse is not None:
        await call.rooms.docket.release(pulse)


async def cancel(call: Call) -> None:
    """Cancels a task that reads, or waits for its client. One that is changing something goes on to its end."""
    task = await _mine(call)
    now = await call.rooms.docket.change(task.owner, task.id, _cancelled)
    work = call.rooms.works.get(task.id)
    if now is not None and now.status == "cancelled" and work is not None:
        work.stop()


async def _mine(call: Call) -> Task:
    """The caller's task, if it may still call the tool. Another's is the same as none."""
    _check_extension(call)
    return await find(call.rooms, call.granted, call.asked.name)


def _check_extension(call: Call) -> None:
    if not takes_tasks(call):
        raise ExtensionMissing(EXTENSION)


async def _right_to(task: Task, call: Call) -> Pulse | None:
    """The right to go on, before the task says so: else another process could take it for one that was left."""
    for _ in range(_TAKES):
        if pulse := await call.rooms.docket.take(task.id):
            return pulse
        await asyncio.sleep(_TAKE_S)  # whoever asked the questions is about to give it back
    return None


def _with_answers(task: Task, given: Mapping[str, Any], caller: Caller) -> Task | None:
    wanted = {key: given[key] for key in task.open_questions() if key in given}
    if task.status != "input_required" or not wanted:
        return None
    answers = {**task.answers, **wanted}
    answered = msgspec.structs.replace(task, answers=answers, caller=caller)
    if not task.questions.keys() <= answers.keys():
        return answered
    return msgspec.structs.replace(answered, status="working", attempt=task.attempt + 1, questions={})


def _cancelled(task: Task) -> Task | None:
    if task.is_over or (task.changes and task.status == "working"):
        return None
    return msgspec.structs.replace(task, status="cancelled", questions={}, note="Cancelled by its client.")
