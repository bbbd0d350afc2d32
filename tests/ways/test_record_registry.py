"""The events' schemas in a real registry: there once and for all, grown compatibly, and in nobody's way."""

from __future__ import annotations

import copy
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from headgate.audit.event import CALL_TYPE
from headgate.audit.registration import register_schemas
from headgate.audit.schemas import COMPATIBILITY, TYPES, register, schema_of
from headgate.connections.registry import Config, Registry
from headgate.stack import Registry as Server
from headgate.stack.ports import free_port
from tests.ways.asking import ask
from tests.ways.deployment import headgate, ready, until, write_config


@pytest.fixture
def client(registry: Server) -> Iterator[Registry]:
    with closing(Registry(Config(url=registry.url))) as opened:
        yield opened


def test_every_schema_is_registered_by_its_types_name_and_only_once(client: Registry) -> None:
    assert register(client) == register(client) == len(TYPES)
    for type_ in TYPES:
        found = client.latest(type_)
        assert found is not None and found.kind == "JSON"
        assert json.loads(found.text) == json.loads(json.dumps(schema_of(type_)))
        assert client.compatibility(type_) == COMPATIBILITY
        assert client.at(type_, 2) is None


def test_a_new_member_is_compatible_and_another_type_is_not(client: Registry) -> None:
    register(client)
    wider = copy.deepcopy(schema_of(CALL_TYPE))
    wider["definitions"]["CallEvent"]["properties"]["another"] = {"type": "string"}
    assert client.is_compatible(CALL_TYPE, json.dumps(wider), "JSON")
    other = copy.deepcopy(schema_of(CALL_TYPE))
    other["definitions"]["CallEvent"]["properties"]["time_ms"] = {"type": "string"}
    assert not client.is_compatible(CALL_TYPE, json.dumps(other), "JSON")


def test_a_refusal_is_said_loudly_and_ends_the_try(registry: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Someone has registered something else under the name."""
    other = copy.deepcopy(schema_of(CALL_TYPE))
    other["definitions"]["CallEvent"]["properties"]["time_ms"] = {"type": "string"}
    with closing(Registry(Config(url=registry.url))) as client:
        client._ask("DELETE", f"/subjects/{CALL_TYPE}")
        client.register(CALL_TYPE, json.dumps(other), "JSON")
        client.set_compatibility(CALL_TYPE, COMPATIBILITY)
        try:
            register_schemas(Config(url=registry.url), threading.Event())
            assert "NOT registered" in caplog.text
        finally:
            client._ask("DELETE", f"/subjects/{CALL_TYPE}")


def test_calls_do_not_wait_for_a_registry(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("create table customers (id integer primary key)")
        shop.execute("insert into customers values (7)")
        shop.commit()
    write_config(
        tmp_path,
        f"""
data: data
server: {{port: 0}}
access: {{local: true}}
connections:
  schemas: {{kind: registry, url: "http://127.0.0.1:{free_port()}"}}
pipelines:
  shop: {{source: {{kind: sqlite, path: shop.db}}}}
audit: {{registry: schemas}}
""",
    )
    with headgate(tmp_path, "run") as process:
        url = process.url()
        until(lambda: ready(url))
        with httpx.Client(timeout=60) as client:
            assert ask(client, url, "lookup_customer", {"customer_id": 7}).result is not None
        until(lambda: "schemas are not registered yet" in process.text())


def test_a_process_registers_them_when_it_starts(tmp_path: Path, registry: Server, client: Registry) -> None:
    client._ask("DELETE", f"/subjects/{CALL_TYPE}")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("create table customers (id integer primary key)")
        shop.commit()
    write_config(
        tmp_path,
        f"""
data: data
server: {{port: 0}}
connections:
  schemas: {{kind: registry, url: "{registry.url}"}}
pipelines:
  shop: {{source: {{kind: sqlite, path: shop.db}}}}
audit: {{registry: schemas}}
""",
    )
    with headgate(tmp_path, "run"):
        until(lambda: client.latest(CALL_TYPE) is not None)
