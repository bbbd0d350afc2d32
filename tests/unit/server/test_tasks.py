"""Calls that become tasks: who gets one, who may ask for it, and what becomes of it when its process ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headgate.access.policy import Edition
from headgate.access.view import DATA, View
from headgate.errors import InvalidArguments, Unavailable
from headgate.model.caller import Caller
from headgate.model.entity import Entity
from headgate.server.call import Rooms
from headgate.server.tasks.keeping import take_up
from headgate.server.tasks.task import TaskSettings
from headgate.state.base import State
from headgate.tools._arguments import Arguments
from headgate.tools._client import Client, elicitation
from headgate.tools._offer import Offer
from headgate.tools.base import Annotations, Result, TalkingTool, TaskUse, Tool
from tests.unit.server.house import House, open_house
from tests.unit.server.visiting import call_of, modern, modern_headers, said, visit

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
TASKS: dict[str, Any] = {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
WITHIN_S = 60.0
NAME = {"type": "object", "properties": {"name": {"type": "string"}}}


class Given(Arguments):
    """Whatever is asked with."""

    about: str = ""


@dataclass
class Jobs:
    """Tools that take as long as a test wants, and what they have gone through."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def tools(self, _: Mapping[str, Entity]) -> dict[str, Tool]:
        every = [
            _tool("ask", self._ask, "required"),
            _tool("break", self._break, "required"),
            _tool("change", self._work("change"), "optional", read_only=False),
            _tool("fail", self._fail, "required"),
            _tool("need", self._work("need"), "required"),
            _tool("quick", self._quick, "optional"),
            _tool("read", self._work("read"), "optional"),
        ]
        return {tool.name: tool for tool in every}

    def _work(self, name: str) -> Any:
        async def work(_: View, given: Given, client: Client) -> Result:
            self.begun.append(name)
            await client.progress(1, 2, "half")
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return Result(structured={"about": given.about}, text="done")

        return work

    async def _quick(self, _: View, __: Given, ___: Client) -> Result:
        return Result(structured={}, text="quick")

    async def _ask(self, _: View, __: Given, client: Client) -> Result:
        name = await self._name(client, 1)
        if client.kept != "second":
            await client.ask({"who": elicitation("Who else?", NAME)}, keep="second")
        return Result(structured={}, text=f"and {name}")

    async def _name(self, client: Client, _: int) -> str:
        if "who" not in client.answers:
            await client.ask({"who": elicitation("Who?", NAME), "what": elicitation("What?", NAME)}, keep="first")
        return str(client.answers["who"]["content"]["name"])

    async def _fail(self, _: View, __: Given, ___: Client) -> Result:
        raise InvalidArguments("Mend it.")

    async def _break(self, _: View, __: Given, ___: Client) -> Result:
        raise RuntimeError("secret")


def _tool(name: str, answer: Any, task: TaskUse, *, read_only: bool = True) -> Tool:
    return TalkingTool(
        name=name, title=name, description=name, scopes=frozenset({DATA}), arguments=Given, task=task,
        output_schema={"type": "object"}, answer=answer,
        annotations=Annotations(read_only=read_only, idempotent=read_only),
    )  # fmt: skip


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def house(tmp_path: Path, jobs: Jobs) -> Iterator[House]:
    with open_house(tmp_path) as opened:
        settings = TaskSettings(after_ms=50, most_open=2)
        yield replace(opened, rooms=replace(opened.rooms, offer=Offer(tools=jobs.tools), tasks=settings))


def other_process(house: House, **more: Any) -> House:
    """Another process on the same state."""
    return replace(house, rooms=replace(house.rooms, **more))


class Visitor:
    """A client of one process."""

    def __init__(self, house: House, client: httpx.AsyncClient) -> None:
        self._house = house
        self._client = client

    async def call(self, tool: str, *, capabilities: Any = TASKS, key: str = "", **who: Any) -> httpx.Response:
        """A call of the tool."""
        request = call_of(tool, {"about": "it"}, self._house.token(DATA, **who))
        meta = request["json"]["params"]["_meta"]
        meta[CAPABILITIES] = capabilities
        if key:
            meta["headgate/idempotency-key"] = key
        return await self._client.post("/mcp", **request)

    async def make(self, tool: str, **more: Any) -> str:
        """The id of the task that a call becomes."""
        made = said(await self.call(tool, **more))["result"]
        assert (made["resultType"], made["status"]) == ("task", "working")
        return str(made["taskId"])

    async def ask(
        self, method: str, id_: str, *, capabilities: Any = TASKS, scopes: tuple[str, ...] = (DATA,),
        answers: Any = None, name: str | None = None, **who: Any,
    ) -> httpx.Response:  # fmt: skip
        """One of the methods of tasks."""
        body = modern(f"tasks/{method}", {"taskId": id_, **({"inputResponses": answers} if answers else {})})
        body["params"]["_meta"][CAPABILITIES] = capabilities
        headers = modern_headers(f"tasks/{method}", id_ if name is None else name, self._house.token(*scopes, **who))
        return await self._client.post("/mcp", json=body, headers=headers)

    async def get(self, id_: str) -> dict[str, Any]:
        """The task now."""
        found: dict[str, Any] = said(await self.ask("get", id_))["result"]
        assert (found["taskId"], found["resultType"]) == (id_, "complete")
        return found

    async def until(self, id_: str, *statuses: str) -> dict[str, Any]:
        """The task once it has one of these statuses."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = await self.get(id_)
                if found["status"] in statuses:
                    return found
                await asyncio.sleep(0.01)


@asynccontextmanager
async def visiting(house: House) -> AsyncIterator[Visitor]:
    async with visit(house) as client:
        yield Visitor(house, client)


async def until(true: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


# --- who gets one ------------------------------------------------------------------------------------


async def test_a_long_read_becomes_a_task_whose_answer_is_that_of_the_call(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("read")
        assert (await visitor.get(id_))["status"] == "working"
        jobs.go_on.set()
        found = await visitor.until(id_, "completed")
    assert found["result"]["structuredContent"] == {"about": "it"}
    assert (found["ttlMs"], found["pollIntervalMs"]) == (3_600_000, 1_000)
    assert found["createdAt"] == found["lastUpdatedAt"] == "2027-01-15T08:00:00.000Z"
    made, *_, last = house.events()
    work = next(event for event in house.events() if event.result is not None)
    assert (made.method, made.task, made.status) == ("tools/call", id_, "answered")
    assert (work.method, work.name, work.task, work.status) == ("tools/call", "read", id_, "answered")
    assert work.id != made.id and work.id == found["result"]["_meta"]["headgate/request_id"]
    assert (last.method, last.name) == ("tasks/get", id_)
    assert jobs.begun == ["read"], "the work that had begun went on"


async def test_what_is_quick_is_answered_at_once_and_recorded_once(house: House) -> None:
    patient = other_process(house, tasks=TaskSettings(after_ms=60_000))  # quick is what takes less
    async with visiting(patient) as visitor:
        answer = said(await visitor.call("quick"))["result"]
    assert (answer["resultType"], answer["content"][0]["text"]) == ("complete", "quick")
    (event,) = house.events()
    assert event.id == answer["_meta"]["headgate/request_id"]
    assert answer["_meta"]["headgate/budget"]["remaining"] == 99


@pytest.mark.parametrize("capabilities", [{}, {"extensions": {}}, {"extensions": {"other": {}}}])
async def test_a_client_that_takes_no_tasks_never_gets_one(house: House, jobs: Jobs, capabilities: Any) -> None:
    async with visiting(house) as visitor:
        waiting = asyncio.create_task(visitor.call("read", capabilities=capabilities))
        await until(lambda: jobs.begun)
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        jobs.go_on.set()
        assert said(await waiting)["result"]["content"][0]["text"] == "done"
        refused = await visitor.call("need", capabilities=capabilities)
        asked = await visitor.ask("get", "any", capabilities=capabilities)
    for answer in (refused, asked):
        assert said(answer)["error"]["code"] == -32021
        required = said(answer)["error"]["data"]["requiredCapabilities"]
        assert required == {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    assert [event.error_code for event in house.events()] == ["", *["client_capability_missing"] * 2]


async def test_a_client_that_leaves_before_there_is_a_task_stops_the_read(house: House, jobs: Jobs) -> None:
    patient = other_process(house, tasks=TaskSettings(after_ms=60_000))
    async with visiting(patient) as visitor:
        waiting = asyncio.create_task(visitor.call("read"))
        await until(lambda: jobs.begun)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: jobs.stopped)
    (event,) = house.events()
    assert (event.status, event.error_code) == ("failed", "cancelled")


async def test_beyond_the_bound_a_read_is_waited_for_and_what_needs_a_task_is_refused(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        first, second = await visitor.make("read"), await visitor.make("need")
        waiting = asyncio.create_task(visitor.call("read"))
        refused = said(await visitor.call("need"))["result"]
        other = await visitor.make("need", subject="eve")
        assert refused["_meta"]["headgate/error"]["code"] == "too_many_tasks"
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        jobs.go_on.set()
        assert said(await waiting)["result"]["resultType"] == "complete"
        for id_ in (first, second):
            await visitor.until(id_, "completed")
        assert await visitor.make("need") != other, "those that have ended made room"


# --- who may ask for it ------------------------------------------------------------------------------


async def test_a_task_of_another_is_the_same_as_none(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("read")
        for method in ("get", "update", "cancel"):
            theirs = said(await visitor.ask(method, id_, subject="eve"))["error"]
            none = said(await visitor.ask(method, "0" * 32, subject="eve"))["error"]
            for error in (theirs, none):
                error["data"].pop("request_id")
            assert theirs == none
            assert (theirs["code"], theirs["data"]["code"]) == (-32602, "unknown_task")
        jobs.go_on.set()
        await visitor.until(id_, "completed")


async def test_the_header_must_name_the_task(house: House, jobs: Jobs) -> None:
    jobs.go_on.set()
    async with visiting(house) as visitor:
        id_ = await visitor.make("need")
        for name in ("", "0" * 32):
            answer = await visitor.ask("get", id_, name=name)
            assert (answer.status_code, said(answer)["error"]["code"]) == (400, -32020)


def edition(tools: str = "*", more: str = "", comment: str = "") -> Edition:
    """A policy that gives some tools, over customers as far as `more` says."""
    return Edition.of(f"""\
# {comment}
rules:
  - {{name: all, to: everyone, tools: "{tools}", entities: {{customer: {{{more}}}}}}}
""")


async def test_who_may_see_less_by_now_gets_nothing(house: House, jobs: Jobs) -> None:
    jobs.go_on.set()
    policy = house.rooms.policy
    policy.adopt(edition())
    async with visiting(house) as visitor:
        id_ = await visitor.make("need")
        await visitor.until(id_, "completed")
        without = said(await visitor.ask("get", id_, scopes=()))["error"]
        policy.adopt(edition(more="fields: {email: mask}"))
        masked = said(await visitor.ask("get", id_))["error"]
        policy.adopt(edition(tools="other"))
        hidden = said(await visitor.ask("get", id_))["error"]
        policy.adopt(edition(comment="the same"))
        assert (await visitor.get(id_))["status"] == "completed", "another edition that gives the same"
    codes = [error["data"]["code"] for error in (without, masked, hidden)]
    assert codes == ["insufficient_scope", "grant_changed", "unknown_task"]
    assert "done" not in str([without, masked, hidden])
    refused = [event.error_code for event in house.events() if event.status == "refused"]
    assert refused == codes


async def test_work_that_is_taken_up_is_done_under_the_policy_of_then(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("read")
    house.rooms.policy.adopt(edition(tools="other"))
    other = other_process(house)
    await take_up(other.rooms)
    await until(lambda: not other.rooms.works)
    house.rooms.policy.adopt(edition())
    async with visiting(other) as visitor:
        found = await visitor.until(id_, "failed")
    assert found["error"]["data"]["code"] == "unknown_tool"
    assert jobs.begun == ["read"]


# --- what it asks ------------------------------------------------------------------------------------


async def test_a_task_asks_in_rounds_and_any_process_goes_on(house: House) -> None:
    yes = {"action": "accept", "content": {"name": "Ada"}}
    async with visiting(house) as visitor, visiting(other_process(house)) as other:
        id_ = await visitor.make("ask")
        first = await other.until(id_, "input_required")
        who, what = sorted(first["inputRequests"], reverse=True)
        assert (
            said(await other.ask("update", id_, answers={who: yes, "unknown": yes}))["result"]["resultType"]
            == "complete"
        )
        partly = await visitor.get(id_)
        assert (partly["status"], list(partly["inputRequests"])) == ("input_required", [what])
        await other.ask("update", id_, answers={who: {"action": "decline"}, what: yes})
        await visitor.until(id_, "input_required")
        second = await visitor.get(id_)
        assert first["inputRequests"].keys().isdisjoint(second["inputRequests"]), "no key is used twice"
        await visitor.ask("update", id_, answers=dict.fromkeys(second["inputRequests"], yes))
        done = await other.until(id_, "completed")
    assert done["result"]["content"][0]["text"] == "and Ada"


async def test_what_a_call_says_of_itself_is_how_its_task_ends(house: House) -> None:
    async with visiting(house) as visitor:
        failed, broken = await visitor.make("fail"), await visitor.make("break")
        own = await visitor.until(failed, "completed", "failed")
        inside = await visitor.until(broken, "completed", "failed")
    assert (own["status"], own["result"]["isError"]) == ("completed", True)
    assert own["result"]["_meta"]["headgate/error"]["code"] == "invalid_arguments"
    assert (inside["status"], inside["error"]["code"]) == ("failed", -32603)
    assert inside["error"]["data"]["code"] == "internal" and "secret" not in str(inside)


# --- how it ends early -------------------------------------------------------------------------------


async def test_a_cancelled_read_stops_wherever_it_runs(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor, visiting(other_process(house)) as other:
        here, there = await visitor.make("read"), await visitor.make("need")
        ack = said(await visitor.ask("cancel", here))["result"]
        assert set(ack) == {"resultType", "_meta"}
        await other.ask("cancel", there)
        await until(lambda: sorted(jobs.stopped) == ["need", "read"])
        for id_ in (here, there):
            assert (await visitor.get(id_))["status"] == "cancelled"
            assert said(await visitor.ask("cancel", id_))["result"]["resultType"] == "complete"
    codes = [event.error_code for event in house.events() if event.method == "tools/call"]
    assert sorted(codes) == ["", "", "cancelled", "cancelled"]


async def test_a_change_under_way_is_not_cancelled_and_has_its_intent(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("change", key="k1")
        await until(lambda: jobs.begun)
        await visitor.ask("cancel", id_)
        assert (await visitor.get(id_))["status"] == "working"
        jobs.go_on.set()
        await visitor.until(id_, "completed")
        again = await visitor.make("change", key="k1")
        await visitor.until(again, "completed")
    assert jobs.begun == ["change"], "once under its key"
    assert sum(b"dev.headgate.intent" in body for body in house.bodies()) == 1


async def test_a_read_that_its_process_leaves_is_done_by_another(house: House, jobs: Jobs) -> None:
    other = other_process(house)
    async with visiting(house) as visitor:
        id_ = await visitor.make("read")
    assert jobs.stopped == ["read"]
    jobs.go_on.set()
    await take_up(other.rooms)
    async with visiting(other) as visitor:
        assert (await visitor.until(id_, "completed"))["result"]["structuredContent"] == {"about": "it"}


async def test_of_a_change_whose_process_died_nobody_knows(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("change")
        await until(lambda: jobs.begun)
        _die(house.rooms, id_)
        other = other_process(house)
        await take_up(other.rooms)
        async with visiting(other) as elsewhere:
            found = await elsewhere.get(id_)
        jobs.go_on.set()  # the dead one wakes up, and has lost
        await until(lambda: not house.rooms.works)
        late = await visitor.get(id_)
    assert (found["status"], found["error"]["data"]["code"]) == ("failed", "outcome_unknown")
    assert late["status"] == "failed", "a late writer changes nothing"
    assert jobs.begun == ["change"], "it is not run again"


async def test_a_change_that_waits_for_a_persons_yes_becomes_no_task_before(house: House, jobs: Jobs) -> None:
    asking = house.under("rules: [{name: all, to: everyone, tools: '*', approve: change}]")
    grace = Caller(subject="grace", method="jwt", scopes=frozenset())
    async with visiting(asking) as visitor:
        refused = said(await visitor.call("change"))["result"]
        assert refused["_meta"]["headgate/error"]["code"] == "approval_required" and not asking.rooms.works
        id_ = refused["_meta"]["headgate/error"]["approval_id"]
        await asking.rooms.approvals.decide(id_, "approved", "", grace, lambda _: None)
        jobs.go_on.set()
        assert (await visitor.until(await visitor.make("change"), "completed"))["result"]["isError"] is False
        again = said(await visitor.call("change"))["result"]
        assert again["_meta"]["headgate/error"]["approval_id"] != id_
    assert jobs.begun == ["change"]
    assert [event.approval for event in house.events() if event.name == "change"][:3] == [id_] * 3


async def test_a_late_read_changes_nothing_of_the_next_attempt(house: House, jobs: Jobs) -> None:
    async with visiting(house) as visitor:
        id_ = await visitor.make("need")
        await until(lambda: jobs.begun)
        _die(house.rooms, id_)
        other = other_process(house)
        await take_up(other.rooms)
        await until(lambda: len(jobs.begun) == 2)
        jobs.go_on.set()
        found = await visitor.until(id_, "completed")
        await until(lambda: not house.rooms.works and not other.rooms.works)
        assert (await visitor.get(id_))["result"] == found["result"]
    works = [event for event in house.events() if event.result is not None]
    assert found["result"]["_meta"]["headgate/request_id"] in {event.id for event in works}


def _die(rooms: Rooms, id_: str) -> None:
    """As if the process that works on it stood still for longer than its pulse lasts."""
    rooms.state.delete(f"task-pulse/{id_}")


async def test_a_state_that_does_not_answer_makes_no_task(house: House, jobs: Jobs) -> None:
    broken = other_process(house, state=_Gone(house.rooms.state))
    jobs.go_on.set()
    async with visiting(broken) as visitor:
        answer = said(await visitor.call("need"))["result"]
    assert answer["_meta"]["headgate/error"]["code"] == "unavailable"


class _Gone:
    """A state whose tasks can't be written."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, key: str) -> Any:
        if key.startswith("task"):
            raise Unavailable("gone")
        return self._state.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
