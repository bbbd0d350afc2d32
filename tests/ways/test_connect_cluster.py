"""A real Kafka Connect: its connectors as we tell of them, and what they do when they are told to."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from headgate.access.connectors import Connectors
from headgate.access.view import View
from headgate.app import App
from headgate.config import parse
from headgate.connections.connect import Config, ConnectCluster, Connector, diagnose, without_secrets
from headgate.errors import Forbidden, Unavailable, UnknownPipeline
from headgate.stack import Connect
from headgate.testing import grant_of
from headgate.tools.base import discover
from tests.ways.debezium import asked

_DEADLINE_S = 180.0  # a busy Connect takes a minute for a rebalance


def put_connector(connect: Connect, name: str, settings: dict[str, Any]) -> None:
    """Makes a connector, or changes it."""
    asked(connect, "PUT", f"/connectors/{name}/config", settings).raise_for_status()


def delete_connector(connect: Connect, name: str) -> None:
    """Removes a connector."""
    asked(connect, "DELETE", f"/connectors/{name}").raise_for_status()


@pytest.fixture
def connector(connect: Connect, database: str, topic_prefix: str) -> Iterator[str]:
    """A connector of Debezium's on a database of its own; its password has never been one."""
    name = topic_prefix.rstrip(".")
    put_connector(connect, name, postgres_connector(database, name))
    yield name
    delete_connector(connect, name)


def postgres_connector(dsn: str, name: str) -> dict[str, Any]:
    """The settings of a Debezium connector on a PostgreSQL of the tests."""
    place = conninfo_to_dict(dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": place["host"],
        "database.port": place["port"],
        "database.user": place["user"],
        "database.password": "hunter2",
        "database.dbname": place["dbname"],
        "plugin.name": "pgoutput",
        "slot.name": name,
        "publication.name": name,
        "topic.prefix": name,
        "poll.interval.ms": "10",
        "errors.max.retries": "0",  # a lost connection fails the task at once
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


@asynccontextmanager
async def cluster_of(connect: Connect) -> AsyncIterator[ConnectCluster]:
    cluster = ConnectCluster(Config(url=connect.url))
    try:
        yield cluster
    finally:
        await cluster.close()


async def until(cluster: ConnectCluster, name: str, reached: Callable[[Connector], bool]) -> Connector:
    """The connector, once it is so."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            found = {each.name: each for each in await cluster.connectors()}
        except Unavailable:
            found = {}
        if name in found and reached(found[name]):
            return found[name]
        assert time.monotonic() < deadline, found.get(name)
        await asyncio.sleep(0.1)


def _is(state: str) -> Callable[[Connector], bool]:
    return lambda each: bool(each.tasks) and {each.state, *(task.state for task in each.tasks)} == {state}


async def _told(order: Callable[[str], Any], name: str) -> None:
    """A cluster that is rebalancing says so, and is asked again."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            await order(name)
            return
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_a_connector_is_told_of_without_its_secrets_and_obeys(connect: Connect, connector: str) -> None:
    async with cluster_of(connect) as cluster:
        running = await until(cluster, connector, _is("RUNNING"))
        assert running.kind == "source"
        assert running.plugin == "PostgresConnector"
        assert running.config["database.password"] == "(hidden)"
        assert "hunter2" not in repr(running)
        await _told(cluster.pause, connector)
        await until(cluster, connector, _is("PAUSED"))
        await _told(cluster.resume, connector)
        await until(cluster, connector, _is("RUNNING"))


async def test_a_failed_task_shows_its_trace_and_comes_back_by_a_restart(
    connect: Connect, connector: str, database: str
) -> None:
    async with cluster_of(connect) as cluster:
        await until(cluster, connector, _is("RUNNING"))
        with psycopg.connect(database, autocommit=True) as admin:
            deadline = time.monotonic() + _DEADLINE_S
            while not admin.execute("select 1 from pg_replication_slots where active").fetchone():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            admin.execute("select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where active")
        failed = await until(cluster, connector, lambda each: any(task.state == "FAILED" for task in each.tasks))
        assert failed.state == "RUNNING"  # only its task tells
        assert "Exception" in next(task.trace for task in failed.tasks if task.state == "FAILED")
        findings = await asyncio.to_thread(diagnose, "connect", Config(url=connect.url))
        assert any(finding.level == "error" and connector in finding.message for finding in findings)
        await _told(cluster.restart, connector)
        await until(cluster, connector, _is("RUNNING"))


async def test_what_does_not_answer_and_what_is_not_there(connect: Connect) -> None:
    async with cluster_of(connect) as cluster:
        with pytest.raises(UnknownPipeline):
            await cluster.restart("nothing/../here")
    nobody = ConnectCluster(Config(url="http://127.0.0.1:9"))
    with pytest.raises(Unavailable):
        await nobody.connectors()
    await nobody.close()


def test_secrets_are_hidden_by_name_and_in_urls() -> None:
    given = {
        "database.password": "x1", "connection.url": "jdbc:postgresql://ann:x2@host/db?password=x3&ssl=true",
        "sasl.jaas.config": "x4", "aws.access.key": "x5", "value.converter.basic.auth.user.info": "x6",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter", "message.key.columns": "t:id",
    }  # fmt: skip
    shown = without_secrets(given)
    assert not any(f"x{number}" in value for number in range(1, 7) for value in shown.values())
    assert shown["key.converter"] == given["key.converter"]
    assert shown["message.key.columns"] == "t:id"
    assert "ssl=true" in shown["connection.url"]


async def test_an_agent_sees_a_connector_beside_our_own_pipelines_and_pauses_it(
    connect: Connect, connector: str, tmp_path: Path
) -> None:
    """Through the tools of a whole server, with scopes as they are granted."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("create table t (id integer primary key)")
    config = parse(
        f"data: {tmp_path / 'data'}\n"
        f"connections: {{kc: {{kind: connect, url: '{connect.url}'}}}}\n"
        f"pipelines: {{shop: {{source: {{kind: sqlite, path: {tmp_path / 'shop.db'}}}}}}}\n",
        None,
        {},
    )
    pipeline = f"kc/{connector}"
    with App(config) as app:
        reader = View(app.reader, app.state, app.pipelines(), grant_of("pipelines:read"), app.clock,
                      connectors=app.connectors)  # fmt: skip
        writer = reader.with_grant(grant_of("pipelines:read", "pipelines:write"))
        tools = discover({})
        async with cluster_of(connect) as cluster:
            await until(cluster, connector, _is("RUNNING"))
            listed = (await tools["list_pipelines"].run(reader, {})).structured["pipelines"]
            assert {"shop", pipeline} <= {each["pipeline_id"] for each in listed}
            detail = await tools["get_pipeline_detail"].run(reader, {"pipeline_id": pipeline})
            jsonschema.validate(detail.structured, tools["get_pipeline_detail"].output_schema)
            assert detail.structured["connector"]["plugin"] == "PostgresConnector"
            assert "hunter2" not in detail.text + json.dumps(detail.structured)
            with pytest.raises(Forbidden):
                await tools["pause_pipeline"].run(reader, {"pipeline_id": pipeline})
            asked = await tools["pause_pipeline"].run(writer, {"pipeline_id": pipeline})
            jsonschema.validate(asked.structured, tools["pause_pipeline"].output_schema)
            await until(cluster, connector, _is("PAUSED"))
            with pytest.raises(UnknownPipeline):
                await tools["get_pipeline_detail"].run(reader, {"pipeline_id": "kc/nothing"})
            no_scope = reader.with_grant(grant_of("data:read"))
            with pytest.raises(UnknownPipeline):
                await tools["get_pipeline_detail"].run(no_scope, {"pipeline_id": pipeline})
        await app.connectors.close() if app.connectors else None
        await app.reader.close()


async def test_a_cluster_that_is_away_is_one_pipeline_in_error() -> None:
    connectors = Connectors({"kc": ConnectCluster(Config(url="http://127.0.0.1:9"))}, lambda: 1_000)
    (status,) = await connectors.statuses()
    assert (status.info.name, status.state) == ("kc", "error")
    assert [fault.code for _, fault in status.faults] == ["unavailable"]
    await connectors.close()
