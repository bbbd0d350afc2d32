"""Live push across processes: what changes at the source is told by every replica, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.subscriptions import Subscription, SubscriptionLost
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import ResourceUpdatedNotification

from headgate.stack import Kafka
from tests.unit.server.push.watched import client_at
from tests.ways.deployment import (
    BASICS,
    PROGRAM,
    Process,
    connections,
    headgate,
    ready,
    until,
    until_async,
    write_at_once,
)
from tests.ways.replicas import ISSUERS, token

PATIENCE_S = 120.0
ONE, TWO = "headgate://entity/customer/1", "headgate://entity/customer/2"
_TABLE = """
create table customers (id integer primary key, plan text not null);
insert into customers select number, 'free' from generate_series(1, 20) as number;
"""


class Shop:
    """A shop in PostgreSQL, its log on Kafka and its rows in Valkey; each process has a folder of its own."""

    def __init__(self, folder: Path, dsn: str, kafka: Kafka, redis_url: str, access: str) -> None:
        self.folder = folder
        self._common = f"""\
data: data
server: {{port: 0}}
access: {{{access}}}
{connections(kafka, redis_url)}pipelines:
  {folder.name.replace("_", "-").lower()[:40].strip("-")}:
    source: {{kind: postgres, dsn: "{dsn}"}}
    log: main
    store: cache
    partitions: 2
entities:
  customer:
    from: {folder.name.replace("_", "-").lower()[:40].strip("-")}.public.customers
    lookups: [plan]
"""
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute(_TABLE)

    def place(self, name: str) -> Path:
        """The folder of one process."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        (place / "headgate.yaml").write_text(self._common)
        return place

    def set_plan(self, number: int, plan: str) -> None:
        """Changes a customer at the source."""
        self.connection.execute("update customers set plan = %s where id = %s", [plan, number])

    def has_its_snapshot(self) -> bool:
        """Whether the source has it noted that the table's snapshot is whole."""
        noted = self.connection.execute("select obj_description(oid, 'pg_publication') from pg_publication").fetchall()
        return any("public.customers" in note for (note,) in noted)

    @contextlib.contextmanager
    def serving(self, name: str) -> Iterator[Process]:
        """A replica that is ready."""
        with headgate(self.place(name), "serve") as process:
            until(lambda: ready(process.url()))
            yield process


@pytest.fixture
def shop(tmp_path: Path, database: str, kafka: Kafka, redis_url: str) -> Iterator[Callable[[str], Shop]]:
    with contextlib.ExitStack() as opened:

        def made(access: str) -> Shop:
            found = Shop(tmp_path, database, kafka, redis_url, access)
            opened.callback(found.connection.close)
            return found

        yield made


@contextlib.asynccontextmanager
async def at(process: Process, bearer: str = "") -> AsyncIterator[Client]:
    """The official client of a replica."""
    async with client_at(process.url().removesuffix("/mcp"), bearer) as client:
        yield client


async def told(stream: Subscription, notice: object = ResourceUpdated(ONE)) -> None:
    """Returns once the stream has told that, whatever else it tells before."""
    async with asyncio.timeout(PATIENCE_S):
        async for each in stream:
            if each == notice:
                return
    raise AssertionError("the stream has ended")


async def seen(client: Client, key: int, rows: list[dict[str, Any]]) -> None:
    """Returns once a customer is looked up as that."""

    async def is_seen() -> bool:
        return await looked_up(client, key) == rows

    await until_async(is_seen)


async def looked_up(client: Client, key: int) -> list[dict[str, Any]]:
    found = await client.call_tool("lookup", {"entity": "customer", "key": key})
    return [row["values"] for row in (found.structured_content or {})["rows"]]


async def wait(client: Client, **arguments: Any) -> dict[str, Any]:
    """What `wait_for_change` answers."""
    answer = await asyncio.wait_for(
        client.call_tool("wait_for_change", {"entity": "customer", **arguments}), PATIENCE_S
    )
    assert not answer.is_error, answer.content
    found: dict[str, Any] = answer.structured_content or {}
    return found


async def test_every_replica_tells_what_changes_at_the_source(shop: Callable[[str], Shop]) -> None:
    there = shop(ISSUERS)
    with headgate(there.place("sync"), "sync"), there.serving("here") as here, there.serving("far") as far:
        async with (
            at(here, token()) as one,
            at(far, token("grace")) as other,
            one.listen(resource_subscriptions=[ONE, TWO]) as near,
            other.listen(resource_subscriptions=[ONE]) as away,
        ):
            there.set_plan(1, "gold")
            await asyncio.gather(told(near), told(away))

            cursor = (await wait(one, key=1, timeout_s=0))["cursor"]
            waiting = [asyncio.create_task(wait(each, key=1, after=cursor)) for each in (one, other)]
            there.set_plan(1, "platinum")
            for answer in await asyncio.gather(*waiting):
                [change] = answer["changes"]
                assert (change["change"], change["values"]["plan"]) == ("updated", "platinum")

            cursor = (await wait(one, where={"plan": "free"}, timeout_s=0))["cursor"]
            there.connection.execute("delete from customers where id = 2")
            [change] = (await wait(one, where={"plan": "free"}, after=cursor))["changes"]
            assert (change["change"], change["uri"]) == ("deleted", TWO)
            await told(near, ResourceUpdated(TWO))


async def test_what_was_applied_by_one_who_died_before_it_told_is_told_by_the_next(shop: Callable[[str], Shop]) -> None:
    there = shop("local: true")
    with headgate(there.place("sync"), "sync") as syncing, there.serving("here") as here:
        async with at(here) as client:
            there.set_plan(2, "gold")
            await seen(client, 2, [{"id": 2, "plan": "gold"}])
            until(there.has_its_snapshot)  # a crash before that would begin with another one
            syncing.crash()
            async with client.listen(resource_subscriptions=[TWO]) as stream:
                there.set_plan(2, "platinum")
                while await looked_up(client, 2) != [{"id": 2, "plan": "platinum"}]:  # what is sent again is a step too
                    syncing.start("materialize.stepped=kill")
                    assert await asyncio.to_thread(syncing.ended) == -9
                # It is applied, and nobody was told of it.
                syncing.start()
                await told(stream, ResourceUpdated(TWO))
                there.set_plan(2, "gold")
                await seen(client, 2, [{"id": 2, "plan": "gold"}])


async def test_a_replica_that_dies_loses_its_streams_and_one_that_stops_ends_them(shop: Callable[[str], Shop]) -> None:
    there = shop("local: true")
    with headgate(there.place("sync"), "sync"), there.serving("here") as here:
        far = Process(there.place("far"), "serve")
        async with at(here) as one, one.listen(resource_subscriptions=[ONE]) as stream:
            with contextlib.suppress(ExceptionGroup):  # of the dead one's client, as it is closed
                async with at(far) as other, other.listen(resource_subscriptions=[ONE]) as lost:
                    far.crash()
                    with pytest.raises(SubscriptionLost):
                        await told(lost)
            there.set_plan(1, "gold")
            await told(stream)
            stopping = asyncio.create_task(asyncio.to_thread(here.stop))
            async with asyncio.timeout(PATIENCE_S):
                assert [each async for each in stream] == []  # gracefully: SubscriptionLost would be raised
            assert await stopping == 0


async def test_a_cut_connection_hides_no_change(shop: Callable[[str], Shop], redis_url: str) -> None:
    there = shop("local: true")
    with (
        headgate(there.place("sync"), "sync"),
        there.serving("here") as here,
        contextlib.closing(redis.Redis.from_url(redis_url)) as operator,
    ):
        async with at(here) as client, client.listen(resource_subscriptions=[ONE]) as stream:
            for number in range(5):
                operator.client_kill_filter(_type="pubsub")
                there.set_plan(1, f"plan {number}")
                await told(stream)


async def test_a_changed_policy_holds_for_open_streams(shop: Callable[[str], Shop]) -> None:
    there = shop(f'{ISSUERS}, policy: policy.yaml, policy_key: "{"k" * 40}"')

    def allow(place: Path, *entities: str) -> None:
        rule = {"name": "all", "to": "everyone", "tools": "*", "entities": {name: {} for name in entities}}
        write_at_once(place / "policy.yaml", json.dumps({"rules": [rule]}))

    for name in ("sync", "here"):
        allow(there.place(name), "customer")
    with headgate(there.place("sync"), "sync"), there.serving("here") as here:
        async with (
            at(here, token()) as client,
            client.listen(resource_subscriptions=[ONE], tools_list_changed=True) as stream,
        ):
            there.set_plan(1, "gold")
            await told(stream)
            allow(there.folder / "here")
            await told(stream, ToolsListChanged())
            there.set_plan(1, "hidden")
            allow(there.folder / "here", "customer")
            await told(stream, ToolsListChanged())
            there.set_plan(1, "seen again")
            await told(stream)


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[sqlite3.Connection]:
    """A shop in SQLite, whose pipeline one process syncs."""
    with contextlib.closing(sqlite3.connect(folder / "shop.db", isolation_level=None)) as source:
        source.execute("create table customer (id integer primary key, plan text)")
        source.execute("insert into customer values (1, 'free')")
        (folder / "headgate.yaml").write_text(
            f'{BASICS}pipelines:\n  shop: {{source: {{kind: sqlite, path: "{folder}/shop.db"}}}}\n'
        )
        with headgate(folder, "sync"):
            yield source


async def test_on_the_embedded_store_one_process_tells_another(tmp_path: Path) -> None:
    with embedded(tmp_path) as source, headgate(tmp_path, "serve") as process:
        until(lambda: ready(process.url()))
        async with at(process) as client, client.listen(resource_subscriptions=[ONE]) as stream:
            for plan in ("gold", "platinum"):
                cursor = (await wait(client, key=1, timeout_s=0))["cursor"]
                source.execute("update customer set plan = ?", [plan])
                await told(stream)
                [change] = (await wait(client, key=1, after=cursor))["changes"]
                assert change["values"]["plan"] == plan


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize("way", ["stdio", "sse"])
async def test_older_clients_are_told_on_connections_that_last(tmp_path: Path, way: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))

    with embedded(tmp_path) as source, headgate(tmp_path, "serve") as process:
        until(lambda: ready(process.url()))  # so that the other one has rows to read too
        mcp = StdioServerParameters(command=str(PROGRAM), args=["mcp"], cwd=tmp_path, env=dict(os.environ))
        to = mcp if way == "stdio" else sse_client(f"{process.url().removesuffix('/mcp')}/sse")
        async with Client(to, mode="legacy", message_handler=hear) as client:
            await client.session.subscribe_resource(ONE)
            for plan in ("gold", "platinum"):
                source.execute("update customer set plan = ?", [plan])
                async with asyncio.timeout(PATIENCE_S):
                    assert await heard.get() == ONE
                    while await looked_up(client, 1) != [{"id": 1, "plan": plan}]:
                        assert await heard.get() == ONE
