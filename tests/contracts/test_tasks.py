"""What tasks need of a state, on every kind of it: each is put down once, worked on by one, and ended once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

from headgate.errors import TooManyTasks
from headgate.model.caller import Caller
from headgate.server.message import Asked
from headgate.server.tasks import docket as dockets
from headgate.server.tasks.docket import Docket, Pulse
from headgate.server.tasks.task import Task, TaskSettings
from headgate.state.base import State
from tests.contracts.test_state import KINDS, Kind, open_as

WITHIN_S = 60.0
SETTINGS = TaskSettings(most_open=3, most_kept=5)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param](request)


@pytest.fixture
def state(kind: Kind) -> Iterator[State]:
    with closing(open_as(kind.name, kind.target, kind.clock)) as opened:
        yield opened


@pytest.fixture
def docket(kind: Kind, state: State) -> Docket:
    return Docket(state, kind.clock, SETTINGS)


def task_of(kind: Kind, id_: str, subject: str = "ada", **more: Any) -> Task:
    """A task that has just begun."""
    now_ms = kind.clock()
    caller = Caller(subject=subject, method="jwt", scopes=frozenset({"data:read"}), claims={"team": ["a"]})
    given: dict[str, Any] = {"ttl_ms": 600_000, "poll_ms": 1_000, "created_ms": now_ms, "updated_ms": now_ms, **more}
    asked = Asked(method="tools/call", name="scan", arguments={"entity": "order"}, capabilities={"extensions": {}})
    return Task(id=id_, caller=caller, asked=asked, door="http", peer="192.0.2.7", changes=False, **given)


def ended(task: Task) -> Task:
    return msgspec.structs.replace(task, status="completed")


async def test_a_task_is_read_back_as_it_was_put_down_by_its_owner_alone(kind: Kind, docket: Docket) -> None:
    task = task_of(kind, "t1", kept={"round": 2}, questions={"q.1": {"method": "roots/list"}})
    await docket.open(task)
    assert await docket.find(task.owner, "t1") == task
    assert await docket.find(task_of(kind, "t1", "eve").owner, "t1") is None
    assert await docket.find(task.owner, "t2") is None


async def test_every_change_is_made_though_many_come_at_once(kind: Kind, docket: Docket) -> None:
    task = task_of(kind, "t1")
    await docket.open(task)

    def one_more(found: Task) -> Task:
        return msgspec.structs.replace(found, attempt=found.attempt + 1)

    await asyncio.gather(*(docket.change(task.owner, "t1", one_more) for _ in range(12)))
    found = await docket.find(task.owner, "t1")
    assert found is not None and found.attempt == 13


async def test_a_step_that_leaves_it_changes_nothing(kind: Kind, docket: Docket) -> None:
    task = task_of(kind, "t1")
    await docket.open(task)
    assert await docket.change(task.owner, "t1", lambda _: None) == task
    assert await docket.change(task.owner, "none", ended) is None


async def test_one_alone_works_on_a_task(kind: Kind, docket: Docket) -> None:
    task = task_of(kind, "t1")
    pulse = await docket.open(task)
    assert await docket.take("t1") is None
    renewed = await docket.renew(pulse)
    assert renewed is not None
    assert await docket.renew(pulse) is None, "a right that was renewed since is another"
    await docket.release(pulse)
    assert await docket.take("t1") is None, "a right that is not ours any more takes nobody's away"
    await docket.release(renewed)
    taken = await asyncio.gather(*(docket.take("t1") for _ in range(8)))
    assert sum(each is not None for each in taken) == 1


async def test_what_nobody_works_on_is_found_and_what_has_ended_is_not(kind: Kind, docket: Docket) -> None:
    tasks = [task_of(kind, f"t{number}") for number in range(3)]
    pulses = [await docket.open(task) for task in tasks]
    assert await docket.left() == {}
    for pulse in pulses[:2]:
        await docket.release(pulse)
    assert await docket.left() == {"t0": tasks[0].owner, "t1": tasks[1].owner}
    await docket.change(tasks[0].owner, "t0", ended)
    assert await docket.left() == {"t1": tasks[1].owner}


async def test_a_right_that_is_not_renewed_ends(
    kind: Kind,
    docket: Docket,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dockets, "PULSE_MS", 50)
    pulse = await docket.open(task_of(kind, "t1"))
    kind.await_end(state, "task-pulse/t1")
    assert list(await docket.left()) == ["t1"]
    taken: Pulse | None = await docket.take("t1")
    assert taken is not None
    assert await docket.renew(pulse) is None, "who was away for too long has lost it"


async def test_a_caller_has_so_many_tasks_and_no_more(kind: Kind, docket: Docket) -> None:
    tasks = [task_of(kind, f"t{number}") for number in range(9)]
    opened = await asyncio.gather(*(docket.open(task) for task in tasks), return_exceptions=True)
    refused = [each for each in opened if isinstance(each, TooManyTasks)]
    assert len(opened) - len(refused) == SETTINGS.most_open
    assert all(each.retry_after_s > 0 for each in refused)
    await docket.open(task_of(kind, "other", "eve"))
    there = [task for task in tasks if await docket.find(task.owner, task.id)]
    assert len(there) == SETTINGS.most_open, "nothing is put down of a task that was refused"
    for task in there:
        await docket.change(task.owner, task.id, ended)
    for number in range(SETTINGS.most_kept - SETTINGS.most_open):
        more = task_of(kind, f"more{number}")
        await docket.open(more)
        await docket.change(more.owner, more.id, ended)
    with pytest.raises(TooManyTasks, match="5 in all"):
        await docket.open(task_of(kind, "last"))


async def test_tasks_end_with_their_time_and_make_room(kind: Kind, docket: Docket) -> None:
    short = task_of(kind, "short", ttl_ms=50)
    await docket.open(short)
    deadline = time.monotonic() + WITHIN_S
    while await docket.find(short.owner, "short") is not None:
        assert time.monotonic() < deadline, "a task outlives its time"
        _pass_time(kind)
    for number in range(SETTINGS.most_open):
        await docket.open(task_of(kind, f"t{number}"))


def _pass_time(kind: Kind) -> None:
    if hasattr(kind, "now_ms"):
        kind.now_ms += 50


async def test_each_attempt_has_an_answer_of_its_own(kind: Kind, docket: Docket) -> None:
    first = task_of(kind, "t1")
    await docket.open(first)
    second = await docket.change(first.owner, "t1", lambda task: msgspec.structs.replace(task, attempt=2))
    assert second is not None
    await docket.keep_answer(second, b"second")
    await docket.keep_answer(first, b"late")
    assert await docket.answer(second) == b"second"


async def test_a_task_that_was_never_put_down_whole_is_forgotten(kind: Kind, docket: Docket, state: State) -> None:
    task = task_of(kind, "t1")
    pulse = await docket.open(task)
    state.delete(f"task/{task.owner}/t1")  # as by a process that died in the middle
    await docket.release(pulse)
    assert list(await docket.left()) == ["t1"]
    await docket.forget(task.owner, "t1")
    assert await docket.left() == {}
    for number in range(SETTINGS.most_open):
        await docket.open(task_of(kind, f"next{number}"))
