"""Who may see a task, and what of it: for those who ask, and for streams that hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from headgate.access.policy import require
from headgate.errors import GrantChanged, UnknownTask
from headgate.model.caller import Grant
from headgate.server.tasks.shown import Seen
from headgate.server.tasks.task import EXTENSION, Task, owner_of, sight_of

if TYPE_CHECKING:
    from headgate.server.call import Call, Rooms


def takes_tasks(call: Call) -> bool:
    """Whether the client said with this request that it takes part in the extension."""
    extensions = call.asked.capabilities.get("extensions")
    is_modern = call.asked.protocol_version in MODERN_PROTOCOL_VERSIONS
    return is_modern and isinstance(extensions, dict) and isinstance(extensions.get(EXTENSION), dict)


async def find(rooms: Rooms, grant: Grant, id_: str) -> Task:
    """The caller's task, if it may still call the tool. Another's is the same as none: UnknownTask. Forbidden."""
    task = await rooms.docket.find(owner_of(grant.caller), id_)
    tool = await rooms.toolbox.tool(task.asked.name, grant) if task else None
    if task is None or tool is None:
        raise _unknown()
    require(grant, tool.scopes)
    return task


async def look(rooms: Rooms, grant: Grant, id_: str) -> Seen:
    """As `find`, with its answer. GrantChanged where that may show more than the caller may see by now."""
    task = await find(rooms, grant, id_)
    if task.status != "completed":
        return Seen(task)
    if task.sight != sight_of(grant, task.asked.name):
        raise GrantChanged(
            "What you may see has changed since this task read its answer, so it is not shown: call the tool again."
        )
    answer = await rooms.docket.answer(task)
    if answer is None:
        raise _unknown()
    return Seen(task, answer)


def _unknown() -> UnknownTask:
    return UnknownTask("There is no such task of yours, or its time is over: call the tool again.")
