"""Which calls become tasks, and how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from headgate.errors import ExtensionMissing, TooManyTasks, Unavailable
from headgate.server.acts import answer_of_tool
from headgate.server.approving import require_approval
from headgate.server.call import Call, run
from headgate.server.client import Context, McpClient, client_of
from headgate.server.paying import pay
from headgate.server.record import answered
from headgate.server.rounds import unseal
from headgate.server.tasks.listener import Listener
from headgate.server.tasks.looking import takes_tasks
from headgate.server.tasks.task import EXTENSION, Task
from headgate.server.tasks.working import Work, begin
from headgate.tools._stream import StreamingTool
from headgate.tools.base import Result, task_use

_ID_BYTES = 16


async def run_or_defer(call: Call, act: Callable[[Call], Awaitable[Result]], context: Context) -> Result | Task:
    """The page's second half for a tool's call: its result, or the task that it has become.

    As `call.run`. A client that takes no tasks waits for the result; ExtensionMissing where the tool needs tasks.
    """
    use = task_use(call.tool) if call.tool else "never"
    if use == "required" and not takes_tasks(call):
        async with call.recorded():
            raise ExtensionMissing(EXTENSION)
    if use == "never" or not takes_tasks(call) or _tells(call, context):
        return await run(call, act)
    if use == "required" or call.changes_something:
        return await _defer(call)
    return await _defer_if_long(call, context)


def _tells(call: Call, context: Context) -> bool:
    """Whether rows leave by the request's own stream, which a task does not have."""
    tool = call.tool
    return isinstance(tool, StreamingTool) and tool.would_tell(call.asked.arguments, McpClient(call, context, None))


async def _defer(call: Call) -> Task:
    """A task from the start: the call is paid for here, and done by another one."""
    async with call.recorded():
        await require_approval(call)
        await pay(call)
        task = _task_of(call)
        answers = {task.key_of(name): given for name, given in call.asked.answers.items()}
        task = msgspec.structs.replace(task, answers=answers, kept=await unseal(call))
        pulse = await call.rooms.docket.open(task)
        begin(task, pulse, call.rooms)
        _name_in_record(call, task)
    await call.close(answered(task))
    return task


async def _defer_if_long(call: Call, context: Context) -> Result | Task:
    """The result where it comes soon; a task where it does not, whose work goes on as a call of its own."""
    work = call.twin()
    async with call.recorded():
        listener = Listener.present(await client_of(call, context))
    running = asyncio.create_task(_run(work, listener))
    try:
        await asyncio.wait({running}, timeout=call.rooms.tasks.after_ms / 1000)
        task = None if running.done() else await _made(call, work, listener, running)
        if task is None:
            await asyncio.wait({running})
    except asyncio.CancelledError:
        running.cancel()
        work.abandon()  # recorded before it has stopped: whoever is cancelled may wait for nothing
        call.follow(work)
        raise
    call.follow(work, is_its_event=task is None)
    if task is None:
        return running.result()
    await call.close(answered(task))
    return task


async def _run(work: Call, listener: Listener) -> Result:
    return await run(work, partial(answer_of_tool, client=listener))


async def _made(call: Call, work: Call, listener: Listener, running: asyncio.Task[Result]) -> Task | None:
    """The task that goes on with what runs; None where there can be none, so that its client waits."""
    task = _task_of(call)
    try:
        pulse = await call.rooms.docket.open(task)
    except (TooManyTasks, Unavailable):
        return None
    listener.leave()
    (call if work.is_closing else work).take_new_id()
    work.asked = msgspec.structs.replace(work.asked, task=task.id)
    _name_in_record(call, task)
    Work(task, pulse, work, listener, running)
    return task


def _task_of(call: Call) -> Task:
    settings, now_ms = call.rooms.tasks, call.rooms.clock()
    return Task(
        id=call.rooms.random_bytes(_ID_BYTES).hex(),
        caller=call.granted.caller,
        asked=msgspec.structs.replace(call.asked, answers={}, request_state=""),
        door=call.door,
        peer=call.peer,
        changes=call.changes_something,
        created_ms=now_ms,
        updated_ms=now_ms,
        ttl_ms=settings.ttl_ms,
        poll_ms=settings.poll_ms,
    )


def _name_in_record(call: Call, task: Task) -> None:
    """The event of a task's making names it, if its client has not named a task of its own."""
    call.asked = msgspec.structs.replace(call.asked, task=call.asked.task or task.id)
