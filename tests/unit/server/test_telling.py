"""Rows that leave while a call still reads: it is paid for and recorded before the first one does, and no task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headgate.access.budget import BudgetsConfig
from headgate.access.deadline import ReadingLimits
from headgate.access.view import DATA
from headgate.server.tasks.task import TaskSettings
from headgate.stores.base import Query, Rows
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS, House, open_house
from tests.unit.server.visiting import call_of, said, visit

META = "io.modelcontextprotocol/"
COUNT = 2_500


class Noting(MemoryReader):
    """A store that notes how much of it was read, and what was on the disk by then."""

    def __init__(self) -> None:
        rows = [{"id": number, "email": f"c{number}@shop.example", "plan": "free"} for number in range(COUNT)]
        super().__init__([CUSTOMER], {CUSTOMER.name: rows}, as_of_ms=NOW_MS - 1_000)
        self.house: House | None = None
        self.recorded: list[int] = []

    async def find(self, entity: str, query: Query) -> Rows:
        assert self.house is not None
        self.recorded.append(len(self.house.bodies()))
        return await super().find(entity, query)


@pytest.fixture
def reader() -> Noting:
    return Noting()


@pytest.fixture
def house(tmp_path: Path, reader: Noting) -> Iterator[House]:
    budgets = BudgetsConfig.model_validate({"read": {"calls": 2, "per_s": 86_400}})
    with open_house(tmp_path, reader, budgets=budgets) as opened:
        reader.house = replace(opened, rooms=replace(opened.rooms, tasks=TaskSettings(after_ms=0)))
        yield reader.house


async def scan(house: House, client: httpx.AsyncClient, *, log_level: str = "info", **arguments: Any) -> httpx.Response:
    """One scan of a client that takes tasks and, unless told otherwise, notices."""
    request = call_of("scan", {"entity": "customer", **arguments}, house.token(DATA))
    meta = request["json"]["params"]["_meta"]
    meta[f"{META}clientCapabilities"] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    if log_level:
        meta[f"{META}logLevel"] = log_level
    return await client.post("/mcp", **request)


def notices(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    messages = [json.loads(line) for line in lines]
    return [each["params"]["data"] for each in messages if each.get("method") == "notifications/message"]


async def test_rows_leave_once_the_record_says_so_and_never_by_a_task(house: House, reader: Noting) -> None:
    async with visit(house) as client:
        answer = await scan(house, client, tell=True)
    told = notices(answer)
    assert [len(each["items"]) for each in told] == [1_000, 1_000, 500]
    result = said(answer)["result"]
    assert (result["resultType"], result["structuredContent"]["told"]["rows"]) == ("complete", COUNT)
    assert reader.recorded[0] == 1, "its opening was durable before the first row was read"
    opening = json.loads(house.bodies()[0])
    (event,) = house.events()
    assert (opening["data"]["opens"], opening["data"]["call"]) == ("stream", event.id)
    assert event.id == result["_meta"]["headgate/request_id"]


async def test_who_has_spent_its_budget_is_told_no_row(house: House, reader: Noting) -> None:
    async with visit(house) as client:
        for _ in range(2):
            await client.post("/mcp", **call_of("find", {"entity": "customer"}, house.token(DATA)))
        reader.recorded.clear()
        refused = await scan(house, client, tell=True)
    assert reader.recorded == [] and notices(refused) == []
    assert said(refused)["result"]["_meta"]["headgate/error"]["code"] == "budget_spent"


async def test_who_hears_nothing_may_get_a_task(house: House) -> None:
    async with visit(house) as client:
        made = said(await scan(house, client, tell=True, log_level=""))["result"]
    assert (made["resultType"], made["status"]) == ("task", "working")


async def test_a_scan_ends_by_the_time_that_the_rooms_give(house: House, reader: Noting) -> None:
    """By the rooms' own clock, which moves on a microsecond whenever it is looked at."""
    brief = replace(house, rooms=replace(house.rooms, reading=ReadingLimits(scan_s=2e-6)))
    async with visit(brief) as client:
        first = await scan(brief, client, tell=True)
        ended = said(first)["result"]["structuredContent"]["told"]
        rest = await scan(brief, client, tell=True, cursor=ended["cursor"])
    assert (ended["rows"], ended["reason"]) == (2_000, "time")
    told = [row["values"]["id"] for each in (*notices(first), *notices(rest)) for row in each["items"]]
    assert sorted(told) == list(range(COUNT))
