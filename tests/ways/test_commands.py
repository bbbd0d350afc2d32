"""The commands as a person runs them: the installed program, its exit code, and what it says."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
from mcp import Client, StdioServerParameters

from headgate.stack import Kafka, Postgres, Valkey
from headgate.stack.ports import free_port
from tests.services import started
from tests.ways.asking import ask
from tests.ways.deployment import PROGRAM, Process, headgate, ready, until, until_async, write_config

DEADLINE_S = 120.0
SECRET = "correct-horse-battery"


def told(folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    """Runs a command to its end, in a folder. Answers all that it said; its exit code must be this one."""
    done = subprocess.run(
        [PROGRAM, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a small shop, and a config that lets its own machine in."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as owner:
        owner.executescript("""
            create table customers (id integer primary key, email text unique, name text);
            create table orders (id integer primary key, customer_id integer references customers (id), total numeric);
            insert into customers values (1, 'ada@shop.example', 'Ada'), (2, 'grace@shop.example', 'Grace');
            insert into orders values (10, 1, 12.5);
        """)
    write_config(
        tmp_path,
        f"""
data: data
server: {{port: {free_port()}}}
access: {{local: true}}
pipelines:
  shop:
    source: {{kind: sqlite, path: "{tmp_path / "shop.db"}"}}
""",
    )
    return tmp_path


def customers(url: str, **headers: str) -> int:
    """How many customers of that name are answered. The HTTP status where the call is refused."""
    with httpx.Client(timeout=60, headers=headers) as asking:
        answer = ask(asking, url, "lookup", {"entity": "customer", "by": {"email": "ada@shop.example"}})
    assert answer.result is not None, answer
    return len(answer.result["structuredContent"]["rows"])


@contextmanager
def running(folder: Path, *words: str) -> Iterator[tuple[Process, str]]:
    with headgate(folder, *words) as process:
        url = process.url()
        until(lambda: ready(url))
        yield process, url


# --- init and check ------------------------------------------------------------------------------


def test_init_drafts_a_config_of_a_sqlite_file_that_runs_as_it_is(shop: Path) -> None:
    (shop / "headgate.yaml").unlink()
    said = told(shop, "init", "sqlite:///shop.db")
    assert "pipeline shop with 2 entities" in said
    drafted = (shop / "headgate.yaml").read_text()
    assert "email: {class: personal.email}" in drafted
    assert "orders: {entity: order, field: id, target_field: customer_id, many: true}" in drafted
    assert "is there already" in told(shop, "init", "sqlite:///shop.db", code=1)
    assert "fine; pipelines: " in told(shop, "check")
    token = told(shop, "token", "--scope", "data:read").strip()
    with running(shop, "run", "--port", "0") as (_, url):
        assert customers(url, Authorization=f"Bearer {token}") == 1


def test_init_keeps_the_password_of_a_postgres_out_of_the_file(tmp_path: Path, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table customers (id int primary key, email text unique)")
    with_password = database.replace("postgres@", f"postgres:{SECRET}@")
    said = told(tmp_path, "init", with_password, "--name", "shop")
    assert "export HEADGATE_SOURCE_PASSWORD" in said
    drafted = (tmp_path / "headgate.yaml").read_text()
    assert "${HEADGATE_SOURCE_PASSWORD}" in drafted
    assert SECRET not in said + drafted
    missing = told(tmp_path, "check", code=1)
    assert re.search(r"headgate\.yaml:\d+: .*the environment has no HEADGATE_SOURCE_PASSWORD", missing)
    assert "fine" in told(tmp_path, "check", HEADGATE_SOURCE_PASSWORD=SECRET)


def test_init_says_what_a_source_lacks(tmp_path: Path) -> None:
    assert "begins with" in told(tmp_path, "init", "mongodb://somewhere/shop", code=1)
    told(tmp_path, "init", "sqlite:///nowhere.db", code=1)
    assert not (tmp_path / "headgate.yaml").exists()
    assert not (tmp_path / "nowhere.db").exists()


# --- doctor --------------------------------------------------------------------------------------


def on_servers(folder: Path, kafka: str, cache: str, source: str, timeout_s: int = 30) -> None:
    write_config(
        folder,
        f"""
data: data
connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka}", timeout_s: {timeout_s}}}
  cache: {{kind: redis, url: "{cache}", timeout_s: {timeout_s}}}
pipelines:
  shop:
    source: {{kind: postgres, dsn: "{source}"}}
    log: main
    store: cache
""",
    )


def test_doctor_finds_good_servers_good(
    tmp_path: Path, kafka: Kafka, redis_url: str, valkey: Valkey, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table customers (id int primary key)")
    on_servers(tmp_path, kafka.bootstrap_servers, redis_url, database)
    said = told(tmp_path, "doctor")
    for part in ("connection main", "connection cache", "source postgresql://"):
        assert re.search(rf"^ok +{part}", said, re.MULTILINE), said
    assert "ERROR" not in said

    with redis.Redis.from_url(valkey.url()) as administrator:
        administrator.config_set("maxmemory-policy", "allkeys-lru")
        try:
            evicting = told(tmp_path, "doctor", code=1)
        finally:
            administrator.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is allkeys-lru" in evicting
    assert "→ CONFIG SET maxmemory-policy noeviction" in evicting


def test_doctor_names_each_server_that_is_not_there(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    source = f"postgresql://postgres:{SECRET}@127.0.0.1:{ports[2]}/shop"
    on_servers(tmp_path, f"127.0.0.1:{ports[0]}", f"redis://:{SECRET}@127.0.0.1:{ports[1]}/0", source, timeout_s=3)
    said = told(tmp_path, "doctor", code=1)
    for part in ("connection main", "connection cache", f"postgresql://127.0.0.1:{ports[2]}/shop does not answer"):
        assert re.search(rf"^ERROR .*{part}", said, re.MULTILINE), said
    assert SECRET not in said


def test_doctor_knows_a_postgres_that_does_not_decode_its_log(tmp_path: Path, services_folder: Path) -> None:
    with started(Postgres(services_folder / "without-decoding")) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as administrator:
            administrator.execute("alter system set wal_level = replica")
            administrator.execute("create table customers (id int primary key)")
        server.stop()
        server.start()
        config = f'pipelines: {{shop: {{source: {{kind: postgres, dsn: "{server.dsn()}"}}}}}}'
        write_config(tmp_path, config)
        said = told(tmp_path, "doctor", code=1)
    assert "wal_level is replica" in said
    assert "→ set wal_level = logical" in said


# --- processes -----------------------------------------------------------------------------------


def test_a_second_process_is_told_who_is_there(shop: Path) -> None:
    with running(shop, "run") as (process, url):
        port = urlsplit(url).port
        second = told(shop, "run", "--port", "0", code=1)
        assert f"pid {process.pid}" in second
        assert "data:" in second
        busy = told(shop, "serve", code=1)
        assert re.search(rf"port {port} is busy: port \d+ is free", busy)
        assert customers(url) == 1


@pytest.mark.parametrize("word", ["run", "serve"])
def test_nobody_is_served_on_other_addresses_before_someone_said_who_may_come(shop: Path, word: str) -> None:
    config = shop / "headgate.yaml"
    config.write_text(config.read_text().replace("server: {", "server: {host: 0.0.0.0, "))
    refused = told(shop, word, "--port", "0", code=1)
    assert "open to other machines" in refused
    assert "headgate key make" in refused
    assert "serving MCP" not in refused


@pytest.mark.parametrize("word", ["run", "serve", "sync"])
def test_a_process_ends_when_it_is_asked_to_and_leaves_nobody(shop: Path, word: str) -> None:
    with running(shop, "run"):
        pass  # so that there is a store to serve
    process = Process(shop, word)
    until(lambda: "serving MCP" in process.text() or "capturing" in process.text())
    if word != "sync":
        process.url()
    children = psutil.Process(process.pid).children(recursive=True)
    assert process.stop() == 0, process.text()
    assert not [child for child in children if child.is_running()]
    assert "Traceback" not in process.text()


async def test_stdio_beside_a_running_process_answers_from_the_same_folder(shop: Path) -> None:
    server = StdioServerParameters(command=str(PROGRAM), args=["mcp"], cwd=shop)
    with running(shop, "run"):
        async with Client(server) as agent:
            tools = {tool.name for tool in (await agent.list_tools()).tools}
            assert {"lookup_customer", "lookup_order", "find", "list_pipelines"} <= tools
            answer = await agent.call_tool("lookup_customer", {"email": "ada@shop.example", "include": ["orders"]})
            assert answer.structured_content is not None, answer
            (row,) = answer.structured_content["rows"]
            assert row["values"]["name"] == "Ada"
            await until_async(lambda: is_fresh(agent))


async def test_stdio_alone_captures_and_materializes_too(shop: Path) -> None:
    server = StdioServerParameters(command=str(PROGRAM), args=["mcp"], cwd=shop)
    async with Client(server) as agent:
        await until_async(lambda: has_customer(agent))


async def is_fresh(agent: Client) -> bool:
    answer = await agent.call_tool("lookup", {"entity": "customer", "key": 1})
    return answer.meta is not None and answer.meta["headgate/freshness"]["state"] == "fresh"


async def has_customer(agent: Client) -> bool:
    return not (await agent.call_tool("lookup", {"entity": "customer", "key": 1})).is_error


# --- credentials ---------------------------------------------------------------------------------


def test_keys_hold_until_they_are_revoked(shop: Path) -> None:
    config = shop / "headgate.yaml"
    config.write_text(config.read_text().replace("local: true", "local: false"))
    with headgate(shop, "sync"), running(shop, "serve") as (_, url):
        made = told(shop, "key", "make", "bot", "--scope", "data:read")
        key_id, key = re.findall(r"^(?:id|secret) +(\S+)$", made, re.MULTILINE)
        listed = told(shop, "key", "list")
        assert f"{key_id}  bot  data:read  for ever" in listed
        assert key not in listed
        until(lambda: status(url, key) == 200)
        assert status(url, "hg_nonsense") == 401
        assert "revoked" in told(shop, "key", "revoke", key_id)
        until(lambda: status(url, key) == 401)
        assert f"{key_id}  bot  data:read  revoked" in told(shop, "key", "list")
        told(shop, "key", "revoke", "nobody", code=1)


def status(url: str, bearer: str) -> int:
    """Whether a credential is let in."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json, text/event-stream"}
    return httpx.post(url, json=request, headers=headers, timeout=60).status_code


def test_a_token_holds_for_its_scopes_and_its_time_alone(shop: Path) -> None:
    assert "no duration" in told(shop, "token", "--scope", "data:read", "--for", "soon", code=1)
    assert told(shop, "token", "--scope", "data:everything", code=1)
    config = shop / "headgate.yaml"
    config.write_text(config.read_text().replace("local: true", "local: false"))
    token = told(shop, "token", "--scope", "data:read", "--for", "10m").strip()
    elsewhere = told(shop, "token", "--scope", "pipelines:read").strip()
    with running(shop, "run") as (_, url), httpx.Client(timeout=60) as asking:
        assert customers(url, Authorization=f"Bearer {token}") == 1
        asking.headers["Authorization"] = f"Bearer {elsewhere}"
        refused = ask(asking, url, "lookup", {"entity": "customer", "key": 1})
        assert refused.result is None


# --- detach --------------------------------------------------------------------------------------


def test_detach_leaves_nothing_in_a_sqlite_file(shop: Path) -> None:
    before = schema_of(shop / "shop.db")
    with running(shop, "run"):
        assert schema_of(shop / "shop.db") != before
        assert "headgate" in told(shop, "detach", code=1)  # while it is captured
    assert "took off" in told(shop, "detach")
    assert schema_of(shop / "shop.db") == before
    assert "nothing of ours there" in told(shop, "detach")


def schema_of(path: Path) -> list[tuple[str, str]]:
    """All that a file holds, but for the table that SQLite itself makes once and never gives up."""
    with closing(sqlite3.connect(path)) as connection:
        names = "select type, name from sqlite_schema where name <> 'sqlite_sequence' order by name"
        return connection.execute(names).fetchall()


def test_detach_leaves_nothing_in_a_postgres(tmp_path: Path, database: str) -> None:
    write_config(
        tmp_path,
        f"""
server: {{port: 0}}
pipelines:
  shop:
    source: {{kind: postgres, dsn: "{database}", slot: detached}}
""",
    )
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table customers (id int primary key)")
        with running(tmp_path, "run"):
            assert owner.execute("select 1 from pg_replication_slots where slot_name = 'detached'").fetchone()
        said = told(tmp_path, "detach")
        assert "replication slot detached" in said
        assert "publication" in said
        assert not owner.execute("select 1 from pg_replication_slots where slot_name = 'detached'").fetchone()
        assert not owner.execute("select 1 from pg_publication").fetchone()
        assert not owner.execute("select 1 from pg_namespace where nspname like '%headgate%'").fetchone()
