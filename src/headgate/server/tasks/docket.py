"""Where tasks stand: in `state`, so that any process may answer for them, and finish them.

Per task there is its record (`task/<owner>/<id>`), written by compare-and-set alone; its pulse (`task-pulse/<id>`),
which whoever works on it renews and which ends by itself ten seconds after its process did; an entry among the open
ones (`task-open/<id>`); and once it is completed its answer (`task-answer/<id>`). Per caller a roll counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from headgate.errors import StateConflict, TooManyTasks
from headgate.server.tasks.task import Task, TaskSettings
from headgate.state.base import State
from headgate.telemetry import Clock

PULSE_MS = 10_000
"""How long a task whose process died is thought to be worked on."""

_RECORD = "task/"
_OPEN = "task-open/"
_PULSE = "task-pulse/"
_ANSWER = "task-answer/"
_ROLL = "task-roll/"
_MARGIN_MS = 60_000
"""Kept longer than promised, for clocks that differ."""

Step = Callable[[Task], Task | None]
"""What a task becomes; None leaves it as it is."""


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    id: str
    ends_ms: int
    is_open: bool


_decode_task = msgspec.msgpack.Decoder(Task).decode
_decode_roll = msgspec.msgpack.Decoder(list[_Entry]).decode
_encode = msgspec.msgpack.Encoder().encode


class Pulse(NamedTuple):
    """The right to work on a task, as long as it is renewed."""

    id: str
    version: int


class Docket:
    """The tasks of one `state`. For any number of event loops. Unavailable when the state does not answer.

    `told` is called on the loop of whoever has changed a task, with what it is then.
    """

    def __init__(
        self, state: State, clock: Clock, settings: TaskSettings, told: Callable[[Task], None] = lambda _: None
    ) -> None:
        self._state = state
        self._clock = clock
        self._settings = settings
        self._told = told

    # --- one task ---------------------------------------------------------------------------------

    async def open(self, task: Task) -> Pulse:
        """Puts a task down for good, and answers the right to work on it. TooManyTasks: nothing was put down."""
        return await asyncio.to_thread(self._open, task)

    def _open(self, task: Task) -> Pulse:
        self._enrol(task)
        # The pulse comes first, so that nobody takes an open task for one that was left.
        pulse = Pulse(task.id, self._state.put(_PULSE + task.id, b"", expect=0, ttl_ms=PULSE_MS))
        self._state.put(_OPEN + task.id, task.owner.encode(), ttl_ms=self._left_ms(task))
        self._state.put(_record_of(task.owner, task.id), _encode(task), expect=0, ttl_ms=self._left_ms(task))
        return pulse

    async def find(self, owner: str, id_: str) -> Task | None:
        """The caller's task of that id."""
        found = await asyncio.to_thread(self._find, owner, id_)
        return found[0] if found else None

    def _find(self, owner: str, id_: str) -> tuple[Task, int] | None:
        entry = self._state.get(_record_of(owner, id_))
        task = _decode_task(entry.value) if entry else None
        if entry is None or task is None or task.ends_ms <= self._clock():
            return None
        return task, entry.version

    async def change(self, owner: str, id_: str, step: Step) -> Task | None:
        """Changes a task, and answers what it is then; None where there is no such.

        `step` is asked again when another process was faster. What it raises leaves the task as it is.
        """
        task = await asyncio.to_thread(self._change, owner, id_, step)
        if task is not None:
            self._told(task)
        return task

    def _change(self, owner: str, id_: str, step: Step) -> Task | None:
        while (found := self._find(owner, id_)) is not None:
            task, version = found
            changed = step(task)
            if changed is None:
                return task
            changed = msgspec.structs.replace(changed, updated_ms=max(task.updated_ms, self._clock()))
            try:
                self._state.put(_record_of(owner, id_), _encode(changed), expect=version, ttl_ms=self._left_ms(changed))
            except StateConflict:
                continue
            if changed.is_over:
                self._discharge(changed)
            return changed
        return None

    async def keep_answer(self, task: Task, answer: bytes) -> None:
        """Keeps the answer of the task's attempt. It is shown once the task says that it is completed."""
        await asyncio.to_thread(self._state.put, _answer_of(task), answer, ttl_ms=self._left_ms(task))

    async def answer(self, task: Task) -> bytes | None:
        """The answer that was kept."""
        entry = await asyncio.to_thread(self._state.get, _answer_of(task))
        return entry.value if entry else None

    # --- who works on it --------------------------------------------------------------------------

    async def take(self, id_: str) -> Pulse | None:
        """The right to work on a task; None while another one has it."""
        return await asyncio.to_thread(self._take, id_)

    def _take(self, id_: str) -> Pulse | None:
        try:
            return Pulse(id_, self._state.put(_PULSE + id_, b"", expect=0, ttl_ms=PULSE_MS))
        except StateConflict:
            return None

    async def renew(self, pulse: Pulse) -> Pulse | None:
        """Ten more seconds; None when the right was lost meanwhile."""
        return await asyncio.to_thread(self._renew, pulse)

    def _renew(self, pulse: Pulse) -> Pulse | None:
        try:
            return Pulse(pulse.id, self._state.put(_PULSE + pulse.id, b"", expect=pulse.version, ttl_ms=PULSE_MS))
        except StateConflict:
            return None

    async def release(self, pulse: Pulse) -> None:
        """Gives the right back, if it is still ours."""
        await asyncio.to_thread(self._release, pulse)

    def _release(self, pulse: Pulse) -> None:
        try:
            self._state.delete(_PULSE + pulse.id, expect=pulse.version)
        except StateConflict:
            pass  # another one has it

    async def left(self) -> Mapping[str, str]:
        """Open tasks that nobody works on, those that wait for their clients among them: id → owner."""
        return await asyncio.to_thread(self._left)

    def _left(self) -> Mapping[str, str]:
        open_ = self._state.scan(_OPEN)
        alive = self._state.scan(_PULSE) if open_ else {}
        named = {name.removeprefix(_OPEN): entry.value.decode() for name, entry in open_.items()}
        return {id_: owner for id_, owner in named.items() if _PULSE + id_ not in alive}

    async def forget(self, owner: str, id_: str) -> None:
        """Takes a task that has ended, or was never put down, from the open ones."""
        await asyncio.to_thread(self._forget, owner, id_)

    def _forget(self, owner: str, id_: str) -> None:
        is_kept = self._find(owner, id_) is not None
        self._in_roll(owner, lambda roll: [_closed(each) if is_kept else None for each in roll if each.id == id_], id_)
        self._state.delete(_OPEN + id_)

    # --- a caller's roll --------------------------------------------------------------------------

    def _enrol(self, task: Task) -> None:
        self._in_roll(task.owner, lambda roll: [self._admitted(task, roll)], task.id)

    def _admitted(self, task: Task, roll: list[_Entry]) -> _Entry:
        settings = self._settings
        open_ = sum(each.is_open for each in roll)
        if open_ >= settings.most_open or len(roll) >= settings.most_kept:
            first_ms = min(each.ends_ms for each in roll) - self._clock()
            raise TooManyTasks(
                f"You have {open_} tasks under way and {len(roll)} in all, of {settings.most_open} and "
                f"{settings.most_kept} at most: wait until one ends, cancel one (tasks/cancel), or ask for less.",
                retry_after_s=settings.poll_ms / 1000 if open_ >= settings.most_open else max(1.0, first_ms / 1000),
                most_open=settings.most_open, most_kept=settings.most_kept,
            )  # fmt: skip
        return _Entry(task.id, task.ends_ms, True)

    def _discharge(self, task: Task) -> None:
        self._in_roll(task.owner, lambda roll: [_closed(each) for each in roll if each.id == task.id], task.id)
        self._state.delete(_OPEN + task.id)

    def _in_roll(self, owner: str, entry_of: Callable[[list[_Entry]], list[_Entry | None]], id_: str) -> None:
        """Puts what `entry_of` makes of the roll in place of the entry of that id; None removes it."""
        while True:
            now = self._clock()
            found = self._state.get(_ROLL + owner)
            roll = [each for each in _decode_roll(found.value) if each.ends_ms > now] if found else []
            new = [each for each in roll if each.id != id_] + [each for each in entry_of(roll) if each is not None]
            ttl_ms = max((each.ends_ms for each in new), default=now) - now + _MARGIN_MS
            try:
                self._state.put(_ROLL + owner, _encode(new), expect=found.version if found else 0, ttl_ms=ttl_ms)
                return
            except StateConflict:
                continue

    def _left_ms(self, task: Task) -> int:
        return max(1, task.ends_ms - self._clock()) + _MARGIN_MS


def _closed(entry: _Entry) -> _Entry:
    return msgspec.structs.replace(entry, is_open=False)


def _record_of(owner: str, id_: str) -> str:
    return f"{_RECORD}{owner}/{id_}"


def _answer_of(task: Task) -> str:
    """Each attempt has an answer of its own: one that is late can't replace another's."""
    return f"{_ANSWER}{task.id}/{task.attempt}"
