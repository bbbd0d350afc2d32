"""A real Debezium connector for the tests: on the stack's Kafka Connect, from a database of the stack's PostgreSQL."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from headgate.stack import Connect, Kafka
from headgate.stack.connect import avro
from tests.ways.deployment import BASICS, PATIENCE_S, connections, until, write_config

Format = Literal["plain", "inline", "avro"]
FORMATS: tuple[Format, ...] = ("plain", "inline", "avro")
HEARTBEAT = "public.headgate_heartbeat"
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_BEAT = "insert into headgate_heartbeat values (1, now()) on conflict (id) do update set ts = excluded.ts"


class Connector:
    """One connector, from its registration to its end. Its name is its topics' prefix, its slot and its publication."""

    def __init__(self, connect: Connect, database: str, tables: str) -> None:
        self.name = f"dbz{uuid.uuid4().hex[:10]}"
        self.connect = connect
        self.database = database
        self._tables = tables
        self._prepare()

    def register(self, **more: str) -> None:
        """Makes it, and waits until it runs."""
        answer = asked(self.connect, "PUT", f"/connectors/{self.name}/config", {**self._settings(), **more})
        assert answer.status_code < 300, answer.text
        self.await_running()

    def _prepare(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as owner:
            owner.execute("create table if not exists headgate_heartbeat (id int primary key, ts timestamptz)")

    def _settings(self) -> dict[str, str]:
        target = conninfo_to_dict(self.database)
        return {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": str(target["host"]),
            "database.port": str(target["port"]),
            "database.user": str(target["user"]),
            "database.password": "x",
            "database.dbname": str(target["dbname"]),
            "topic.prefix": self.name,
            "slot.name": self.name,
            "publication.name": self.name,
            "publication.autocreate.mode": "filtered",
            "plugin.name": "pgoutput",
            "table.include.list": f"{self._tables},{HEARTBEAT}",
            "topic.creation.default.partitions": "3",
            "topic.creation.default.replication.factor": "1",
            "heartbeat.interval.ms": "300",
            "heartbeat.action.query": _BEAT,
            "skipped.operations": "none",
            "poll.interval.ms": "10",
        }

    def await_running(self) -> None:
        """Waits until its task runs."""
        until(lambda: self.state() == "RUNNING", patience_s=120)

    def await_noted(self) -> None:
        """Waits until it has noted a place past its snapshot. Killed before that, it would read whole tables again."""
        until(lambda: any(not noted.get("snapshot") for noted in self._noted()), patience_s=120)

    def _noted(self) -> list[dict[str, Any]]:
        answer = asked(self.connect, "GET", f"/connectors/{self.name}/offsets")
        if answer.status_code != 200:
            return []
        return [each["offset"] for each in answer.json()["offsets"] if each["offset"]]

    def state(self) -> str:
        """Its task's state, or what keeps it from having one."""
        try:
            answer = httpx.get(f"{self.connect.url}/connectors/{self.name}/status", timeout=5)
        except httpx.TransportError:
            return "away"
        tasks = answer.json().get("tasks") if answer.status_code == 200 else None
        return str(tasks[0]["state"]) if tasks else "none"

    def remove(self) -> None:
        """Ends it, and takes what it has put at the server."""
        with contextlib.suppress(httpx.ConnectError):  # it was killed, and its connectors with it
            asked(self.connect, "DELETE", f"/connectors/{self.name}")
        self._clean()

    def _clean(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as owner:
            drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s"
            until(lambda: self._is_free(owner))
            owner.execute(drop, [self.name])
            owner.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(self.name)))

    def _is_free(self, owner: psycopg.Connection[tuple[object, ...]]) -> bool:
        active = "select 1 from pg_replication_slots where slot_name = %s and active"
        return owner.execute(active, [self.name]).fetchone() is None


def asked(connect: Connect, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    """What Connect answers. One that rebalances refuses whatever it is asked (409), and is asked again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        answer = httpx.request(method, f"{connect.url}{path}", json=body, timeout=120)  # its own patience is 90 s
        if answer.status_code != 409 or time.monotonic() > deadline:
            return answer


@contextlib.contextmanager
def connector(connect: Connect, database: str, tables: str, **more: str) -> Iterator[Connector]:
    """A running connector for the length of a block."""
    made = Connector(connect, database, tables)
    try:
        made.register(**more)
        yield made
    finally:
        made.remove()


def converters(form: Format, registry_url: str) -> Mapping[str, str]:
    """A connector's settings for a format of its records."""
    if form == "avro":
        return avro(registry_url)
    schemas = "true" if form == "inline" else "false"
    return {
        f"{part}.{name}": value
        for part in ("key", "value")
        for name, value in (("converter", _JSON), ("converter.schemas.enable", schemas))
    }


def config_of(
    folder: Path, made: Connector, kafka: Kafka, redis_url: str, tables: str, entities: str = "", more: str = "",
    heartbeat: str = f"{{table: {HEARTBEAT}}}", registry_url: str = "http://127.0.0.1:9",
) -> Path:  # fmt: skip
    """A config whose pipeline, of the connector's name, reads the connector's topics."""
    text = f"""
{BASICS}{connections(kafka, redis_url)}  schemas: {{kind: registry, url: "{registry_url}"}}
  cluster: {{kind: connect, url: "{made.connect.url}"}}
pipelines:
  {made.name}:
    source:
      kind: debezium
      topic_prefix: {made.name}
      tables: [{tables}]
      registry: schemas
      heartbeat: {heartbeat}
      connect: cluster
      connector: {made.name}
{more}
    log: main
    store: cache
{entities}
"""
    return write_config(folder, text)
