""" "The orders pipeline seems slow, what is going on?", answered by three tools alone.

An agent has `list_pipelines`, `get_pipeline_detail`, `get_pipeline_errors` and the page that explains codes. Here
is what it must be able to learn from them, in cases that are made to happen.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from mcp import Client
from mcp.types import TextContent, TextResourceContents

from headgate.model.pipeline import REPORT_TTL_MS
from headgate.stack import Kafka
from tests.ways.deployment import BASICS, client, connections, headgate, until_async, write_config

ORDERS = 150_000
MISFITS = 25
LONGER_THAN_A_REPORT_S = REPORT_TTL_MS / 1000 + 2
"""What a process says is gone by then, unless it has been said again."""


def shop(path: Path) -> sqlite3.Connection:
    """A shop whose owner believes that totals are whole numbers. SQLite takes whatever comes."""
    owner = sqlite3.connect(path, isolation_level=None, timeout=30)
    owner.execute("create table orders (id integer primary key, customer text, total integer)")
    owner.execute("insert into orders values (1, 'Ada', 10), (2, 'Grace', 20)")
    return owner


def on_sqlite(folder: Path) -> None:
    write_config(
        folder,
        f"""
{BASICS}pipelines:
  orders:
    source: {{kind: sqlite, path: "{folder / "shop.db"}"}}
    freshness_bound_s: 2
entities:
  order:
    from: orders.main.orders
    lookups: [customer]
    fields: {{total: {{type: integer}}}}
""",
    )


class Agent:
    """What a model sees: each answer's structure, and the text beside it."""

    def __init__(self, connected: Client) -> None:
        self._client = connected
        self.text = ""

    async def ask(self, tool: str, **arguments: Any) -> Mapping[str, Any]:
        answer = await self._client.call_tool(tool, arguments)
        self.text = "".join(part.text for part in answer.content if isinstance(part, TextContent))
        assert not answer.is_error, self.text
        assert answer.structured_content is not None
        found: Mapping[str, Any] = answer.structured_content
        return found

    async def pipeline(self) -> Mapping[str, Any]:
        """The one line of the one pipeline."""
        (only,) = (await self.ask("list_pipelines"))["pipelines"]
        found: Mapping[str, Any] = only
        return found

    async def detail(self) -> Mapping[str, Any]:
        return await self.ask("get_pipeline_detail", pipeline_id="orders")

    async def errors(self) -> Mapping[str, Any]:
        return await self.ask("get_pipeline_errors", pipeline_id="orders", limit=5)

    async def troubleshooting(self) -> str:
        """The page that explains the codes."""
        (page,) = (await self._client.read_resource("docs://troubleshooting")).contents
        assert isinstance(page, TextResourceContents)
        return page.text


async def test_a_growing_lag_and_a_mismatched_schema_are_named(tmp_path: Path) -> None:
    owner = shop(tmp_path / "shop.db")
    on_sqlite(tmp_path)
    with headgate(tmp_path, "run") as process:
        async with client(process.url()) as connected:
            agent = Agent(connected)
            await until_async(lambda: is_well(agent))

            held = sqlite3.connect(tmp_path / "data" / "store.db", isolation_level=None)
            held.execute("begin immediate")  # as a shell that somebody left open does
            flood(owner)
            await until_async(lambda: has_fault(agent, "unavailable"))
            lags = await told_while_it_lasts(agent, "unavailable")
            assert lags == sorted(lags)
            assert lags[-1] > LONGER_THAN_A_REPORT_S * 1000
            await assert_store_is_blamed(agent)

            held.close()
            await until_async(lambda: is_behind(agent))
            await until_async(lambda: has_caught_up(agent))
            await assert_misfits_are_named(agent)
    owner.close()


async def assert_store_is_blamed(agent: Agent) -> None:
    """Capture is well, materialize stands still, and it is said why and what to do."""
    detail = await agent.detail()
    assert detail["capture"]["status"] == "running"
    assert detail["materialize"]["status"] == "error"
    assert detail["freshness"]["state"] == "stopped"
    (fault,) = (await agent.errors())["faults"]
    assert fault["half"] == "materialize"
    assert "try again" in fault["message"]
    assert "materialize stands still" in agent.text
    assert "### unavailable" in await agent.troubleshooting()


async def assert_misfits_are_named(agent: Agent) -> None:
    """Each with the field that does not fit; the newest are listed."""
    errors = await agent.errors()
    assert errors["dead_letters_total"] == MISFITS
    assert len(errors["dead_letters"]) == 5
    assert {letter["code"] for letter in errors["dead_letters"]} == {"schema_mismatch"}
    assert all(letter["entity"] == "order" and "total" in letter["message"] for letter in errors["dead_letters"])
    assert "schema_mismatch" in agent.text
    assert f"{MISFITS} dead letters" in agent.text
    assert "### schema_mismatch" in await agent.troubleshooting()
    assert (await agent.detail())["dead_letters"] == MISFITS


def flood(owner: sqlite3.Connection) -> None:
    """More orders at once than are applied at once, a few of them with cents."""
    owner.execute(
        """
        with recursive numbers(n) as (values (3) union all select n + 1 from numbers where n < ?)
        insert into orders select n, 'customer ' || n % 1000, case n % ? when 0 then 'EUR 12,50' else n end from numbers
        """,
        (ORDERS, ORDERS // MISFITS),
    )


async def is_well(agent: Agent) -> bool:
    pipeline = await agent.pipeline()
    detail = await agent.detail()
    return bool(pipeline["status"] == "running" and not pipeline["faults"] and detail["freshness"]["state"] == "fresh")


async def is_behind(agent: Agent) -> bool:
    """Whether it is said how many records wait, and how many are taken at once."""
    half = (await agent.detail())["materialize"]
    return bool(half["lag_records"] and half["batch_size"] and f"lag {half['lag_records']} records" in agent.text)


async def has_caught_up(agent: Agent) -> bool:
    detail = await agent.detail()
    return bool(detail["materialize"]["lag_records"] == 0 and detail["freshness"]["state"] == "fresh")


async def test_a_source_that_lost_its_slot_is_named_with_the_mend(tmp_path: Path, database: str) -> None:
    write_config(
        tmp_path,
        f"""
{BASICS}pipelines:
  orders:
    source: {{kind: postgres, dsn: "{database}", slot: diagnosed}}
    freshness_bound_s: 2
""",
    )
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table orders (id int primary key, total numeric)")
        with headgate(tmp_path, "run") as process:
            async with client(process.url()) as connected:
                agent = Agent(connected)
                await until_async(lambda: is_well(agent))
                await until_async(lambda: drops_slot(owner, "diagnosed"))
                await until_async(lambda: has_fault(agent, "slot_missing"))
                await told_while_it_lasts(agent, "slot_missing")
                (fault,) = (await agent.errors())["faults"]
                assert fault["half"] == "capture"
                assert "headgate detach" in fault["message"]
                assert "### slot_missing" in await agent.troubleshooting()


async def test_a_log_that_does_not_answer_is_named_and_forgotten_once_it_does(
    tmp_path: Path, kafka: Kafka, redis_url: str
) -> None:
    owner = shop(tmp_path / "shop.db")
    write_config(
        tmp_path,
        f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  orders:
    source: {{kind: sqlite, path: "{tmp_path / "shop.db"}"}}
    log: main
    store: cache
""",
    )
    with headgate(tmp_path, "run") as process:
        async with client(process.url()) as connected:
            agent = Agent(connected)
            await until_async(lambda: is_well(agent))
            kafka.pause()
            try:
                owner.execute("insert into orders values (77, 'Alan', 30)")
                await until_async(lambda: has_fault(agent, "unavailable"))
                (fault,) = (await agent.errors())["faults"]
                assert (fault["half"], "log" in fault["message"]) == ("capture", True)
            finally:
                kafka.resume()
            await until_async(lambda: is_well(agent))
    owner.close()


async def told_while_it_lasts(agent: Agent, code: str) -> list[int]:
    """The lag as it is listed, for longer than a report lives: the fault is told all the while."""
    lags: list[int] = []
    deadline = time.monotonic() + LONGER_THAN_A_REPORT_S
    while time.monotonic() < deadline:
        pipeline = await agent.pipeline()
        assert (pipeline["status"], pipeline["faults"]) == ("error", [code]), pipeline
        lags.append(pipeline["lag_ms"])
        await asyncio.sleep(0.5)
    return lags


async def has_fault(agent: Agent, code: str) -> bool:
    return code in (await agent.pipeline())["faults"]


async def drops_slot(owner: psycopg.Connection[Any], slot: str) -> bool:
    """Ends whoever reads it and drops it, if nobody was quicker to read it again."""
    owner.execute(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = %s", [slot]
    )
    try:
        owner.execute("select pg_drop_replication_slot(%s)", [slot])
    except psycopg.errors.ObjectInUse:
        return False
    return True
