"""`notifications/tasks` on `subscriptions/listen`: what `tasks/get` would answer, to whom it would answer it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import mcp_types as types
import pytest
from mcp.shared.message import SessionMessage

from headgate.access.view import DATA
from headgate.server.push.push import Push
from headgate.server.tasks.keeping import take_up
from headgate.server.tasks.task import TaskSettings
from headgate.tools._offer import Offer
from tests.unit.server.house import House, open_house
from tests.unit.server.piped import pipe_into
from tests.unit.server.push.watched import until, within
from tests.unit.server.served import served
from tests.unit.server.test_tasks import CAPABILITIES, TASKS, Jobs, Visitor, edition, other_process
from tests.unit.server.visiting import modern, modern_headers, said

LISTEN = "subscriptions/listen"
STREAM = "io.modelcontextprotocol/subscriptionId"
NONE = "0" * 32


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def house(tmp_path: Path, jobs: Jobs) -> Iterator[House]:
    with open_house(tmp_path, local=True) as opened:
        settings = TaskSettings(after_ms=50)
        yield replace(opened, rooms=replace(opened.rooms, offer=Offer(tools=jobs.tools), tasks=settings))


def listening(*ids: str, capabilities: Any = TASKS) -> dict[str, Any]:
    body = modern(LISTEN, {"notifications": {"taskIds": list(ids)}}, rpc_id="mine")
    body["params"]["_meta"][CAPABILITIES] = capabilities
    return body


class Frames:
    """What one stream tells."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next message."""
        while not (line := await within(anext(self._lines))).startswith("data: "):
            pass
        found: dict[str, Any] = json.loads(line.removeprefix("data: "))
        return found

    async def until(self, status: str) -> dict[str, Any]:
        """The next notice of a task that says so, whatever comes before."""
        while True:
            notice = await self.next()
            assert notice["method"] == "notifications/tasks"
            params: dict[str, Any] = notice["params"]
            assert params.pop("_meta") == {STREAM: "mine"}
            if params["status"] == status:
                return params


class Place(Visitor):
    """A client of one process, on a socket."""

    def __init__(self, house: House, client: httpx.AsyncClient) -> None:
        super().__init__(house, client)
        self.house, self.client = house, client

    @asynccontextmanager
    async def listen(self, *ids: str, agreed: tuple[str, ...] | None = None, **who: Any) -> AsyncIterator[Frames]:
        headers = modern_headers(LISTEN, token=self.house.token(DATA, **who))
        async with self.client.stream("POST", "/mcp", json=listening(*ids), headers=headers) as answer:
            frames = Frames(answer)
            first = await frames.next()
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"]["notifications"].get("taskIds", []) == list(ids if agreed is None else agreed)
            yield frames


@asynccontextmanager
async def at(house: House) -> AsyncIterator[Place]:
    async with served(house) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        yield Place(house, client)


def as_told(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `tasks/get` answers, as a notice has it."""
    return {name: value for name, value in found.items() if name not in ("_meta", "resultType")}


async def test_a_task_is_told_as_it_stands_and_whenever_it_is_another(house: House, jobs: Jobs) -> None:
    async with at(house) as place:
        id_ = await place.make("read")
        async with place.listen(id_) as stream:
            assert await stream.until("working") == as_told(await place.get(id_))
            jobs.go_on.set()
            done = await stream.until("completed")
            assert done == as_told(await place.get(id_))
            assert done["result"]["structuredContent"] == {"about": "it"}
        tasks = house.rooms.push.tasks
        await until(lambda: not tasks._heard and tasks._looking is None)
        [event] = await until(lambda: [event for event in house.events() if event.method == LISTEN])
    assert event.notices is not None
    assert event.notices >= 2


async def test_one_that_has_ended_before_is_told_at_once(house: House, jobs: Jobs) -> None:
    jobs.go_on.set()
    async with at(house) as place:
        id_ = await place.make("need")
        found = await place.until(id_, "completed")
        async with place.listen(id_) as stream:
            assert await stream.until("completed") == as_told(found)


async def test_what_it_asks_is_told_too(house: House) -> None:
    async with at(house) as place:
        id_ = await place.make("ask")
        async with place.listen(id_) as stream:
            asked = await stream.until("input_required")
            assert asked["inputRequests"] == (await place.get(id_))["inputRequests"]
            answers = {key: {"action": "accept", "content": {"name": "Ada"}} for key in asked["inputRequests"]}
            await place.ask("update", id_, answers=answers)
            again = await stream.until("input_required")
            assert not again["inputRequests"].keys() & asked["inputRequests"].keys()
            await place.ask("cancel", id_)
            assert "inputRequests" not in await stream.until("cancelled")


async def test_what_another_process_does_is_told(house: House, jobs: Jobs) -> None:
    far = other_process(house, push=Push())
    async with at(house) as place, at(far) as other:
        id_ = await other.make("read")
        async with place.listen(id_) as stream:
            await stream.until("working")
            jobs.go_on.set()
            assert (await stream.until("completed"))["result"]["structuredContent"] == {"about": "it"}


async def test_one_that_is_taken_up_by_this_process_is_told(house: House, jobs: Jobs) -> None:
    async with at(other_process(house, push=Push())) as other:
        id_ = await other.make("read")
    async with at(house) as place, place.listen(id_) as stream:
        await stream.until("working")
        jobs.go_on.set()
        await take_up(house.rooms)
        await stream.until("completed")


# --- who may hear --------------------------------------------------------------------------------


async def test_only_the_callers_own_are_agreed_to(house: House, jobs: Jobs) -> None:
    async with at(house) as place:
        mine, others = await place.make("read"), await place.make("read", subject="eve")
        async with (
            place.listen(others, mine, NONE, agreed=(mine,)) as stream,
            place.listen(mine, agreed=(), subject="eve"),
        ):
            jobs.go_on.set()
            assert (await stream.until("completed"))["taskId"] == mine
            assert {id_ for _, id_ in house.rooms.push.tasks._heard} == {mine}


async def test_a_client_that_takes_no_tasks_is_refused(house: House) -> None:
    async with at(house) as place:
        headers = modern_headers(LISTEN, token=house.token(DATA))
        answer = await place.client.post("/mcp", json=listening(NONE, capabilities={}), headers=headers)
        error = said(answer)["error"]
        assert error["code"] == -32021
        assert error["data"]["requiredCapabilities"] == {"extensions": {"io.modelcontextprotocol/tasks": {}}}
        assert not house.rooms.push.count


async def test_so_many_are_too_many(house: House) -> None:
    async with at(house) as place:
        body, headers = listening(*map(str, range(1_001))), modern_headers(LISTEN, token=house.token(DATA))
        answer = await place.client.post("/mcp", json=body, headers=headers)
    assert said(answer)["error"]["data"]["code"] == "invalid_arguments"


async def test_an_answer_that_may_show_more_than_the_caller_sees_is_not_told(house: House, jobs: Jobs) -> None:
    policy = house.rooms.policy
    policy.adopt(edition())
    async with at(house) as place:
        id_ = await place.make("need")
        async with place.listen(id_) as stream:
            [listener] = house.rooms.push._listeners
            jobs.go_on.set()
            await stream.until("completed")
            policy.adopt(edition(more="fields: {email: mask}"))
            await until(lambda: listener.grant.policy_version == policy.version)
            refused = said(await place.ask("get", id_))["error"]
            assert refused["data"]["code"] == "grant_changed"
            assert await house.rooms.push.tasks.read(listener, [id_]) == []


# --- on a pipe -----------------------------------------------------------------------------------


async def test_on_a_pipe_it_is_the_same(house: House, jobs: Jobs) -> None:
    async with pipe_into(house) as (read, write):

        async def send(body: Mapping[str, Any]) -> None:
            body["params"]["_meta"][CAPABILITIES] = TASKS
            await write.send(SessionMessage(types.jsonrpc_message_adapter.validate_python(body)))

        async def next_() -> Any:
            return (await within(read.receive())).message

        await send(modern("tools/call", {"name": "read", "arguments": {"about": "it"}}, rpc_id=1))
        id_ = (await next_()).result["taskId"]
        await send(listening(id_))
        assert (await next_()).params["notifications"]["taskIds"] == [id_]
        jobs.go_on.set()
        while (notice := await next_()).params["status"] != "completed":
            assert notice.method == "notifications/tasks"
        await send(modern("tasks/get", {"taskId": id_}, rpc_id=2))
        found = (await next_()).result
    assert notice.params == {**as_told(found), "_meta": {STREAM: "mine"}}
