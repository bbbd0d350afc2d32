"""What becomes of changes that can't be applied: copied, retried, dropped, or stood still before, by a policy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from headgate.app import App
from headgate.config import load
from headgate.log.base import Logged
from headgate.model.pipeline import dead_letter_topic
from headgate.model.table import topic_of
from headgate.stack import Kafka
from tests.ways.deployment import Process, connections, headgate, ready, until, write_config
from tests.ways.operating import BASICS, Operator, command, operator

DEADLINE_S = 60.0
TOTALS = "fields: {total: {type: integer}}"


class Shop(NamedTuple):
    """A pipeline that runs, its source's owner, and its operator."""

    folder: Path
    owner: sqlite3.Connection
    ops: Operator
    process: Process


@contextmanager
def shop(folder: Path, name: str, *, settings: str = "", before: str = "") -> Iterator[Shop]:
    """Items whose totals are declared to be whole numbers. SQLite takes whatever comes."""
    owner = sqlite3.connect(folder / "source.db", isolation_level=None, timeout=30)
    owner.execute("create table items (id integer primary key, name text, total integer)")
    owner.execute("create table notes (id integer primary key, body text)")
    owner.execute("insert into items values (1, 'one', 1), (2, 'two', 2)")
    write(folder, name, settings, before)
    with headgate(folder, "run") as process:
        until(lambda: ready(process.url()))
        with operator(folder, process.url(), name) as ops:
            until(lambda: ops.row("item", 2))
            yield Shop(folder, owner, ops, process)
    owner.close()


def write(folder: Path, name: str, settings: str = "", before: str = "", fields: str = TOTALS) -> Path:
    """Two entities of one topic, of which one is strict, and one of another."""
    return write_config(
        folder,
        f"""
{BASICS}{before}pipelines:
  {name}:
    source: {{kind: sqlite, path: "{folder / "source.db"}"}}
    freshness_bound_s: 2
{settings}
entities:
  item: {{from: {name}.main.items, {fields}}}
  loose_item: {{from: {name}.main.items}}
  note: {{from: {name}.main.notes}}
""",
    )


def on_servers(kafka: Kafka, redis_url: str) -> dict[str, str]:
    return {"settings": "    log: main\n    store: cache\n", "before": connections(kafka, redis_url)}


def written(kafka: Kafka, topic: str, records: Sequence[tuple[bytes, bytes, Any]]) -> None:
    """Writes records as any program may."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for key, value, headers in records:
        producer.produce(topic, value, key, headers=headers)
    assert producer.flush(DEADLINE_S) == 0


def copies(folder: Path, pipeline: str, connection: str | None) -> list[Logged]:
    """What the pipeline's topic of dead letters holds."""
    topic = dead_letter_topic(pipeline)
    with App(load(folder / "headgate.yaml")) as app:
        log = app.log(connection)
        ends = log.end([topic]) if topic in log.partitions([topic]) else {}
        found: list[Logged] = []
        reader = log.read(dict.fromkeys(ends, 0))

        def is_whole() -> bool:
            found.extend(reader.poll(1_000, 0.1))
            return len(found) >= sum(ends.values())

        try:
            until(is_whole)
        finally:
            reader.close()
        return found


@pytest.mark.parametrize("where", ["embedded", "servers"])
def test_a_letter_is_copied_whole_and_tried_again_when_its_cause_is_mended(
    tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    places = (
        on_servers(request.getfixturevalue("kafka"), request.getfixturevalue("redis_url")) if where == "servers" else {}
    )
    name = f"retried_{where}"
    with shop(tmp_path, name, **places) as running:
        ops = running.ops
        running.owner.execute("update items set total = 'many' where id = 1")
        running.owner.execute("update items set total = 'few', name = 'newer' where id = 2")
        until(lambda: len(ops.letters()) == 2)  # capture reads a row as it is, not as it was
        running.owner.execute("update items set total = 22 where id = 2")
        until(lambda: ops.values("item", 2)["total"] == 22)
        assert (ops.row("item", 1) or {})["flaw"] == "schema_mismatch"
        assert ops.values("item", 1)["total"] == 1
        assert ops.values("loose_item", 1)["total"] == "many"

        ops.ask("retry_dead_letters", all=True)
        until(lambda: len(ops.letters()) == 1)  # the one of item 2 was healed meanwhile
        (left,) = ops.letters()
        until(lambda: ops.letters()[0]["tried_again"])
        assert ops.values("item", 2) == {"id": 2, "name": "newer", "total": 22}

    write(tmp_path, name, places.get("settings", ""), places.get("before", ""), "fields: {name: {type: string}}")
    with headgate(tmp_path, "run") as process, operator(tmp_path, process.url(), name) as ops:
        until(lambda: ready(process.url()))
        assert left["id"] in command(tmp_path, "letters", "list", name)
        command(tmp_path, "letters", "retry", name, left["id"])
        until(lambda: ops.letters() == [])
        assert ops.row("item", 1) == {
            "uri": "headgate://entity/item/1",
            "values": {"id": 1, "name": "one", "total": "many"},
        }
    found = copies(tmp_path, name, "main" if where == "servers" else None)
    assert len(found) == 2
    headers = dict(found[0].headers)
    assert headers["headgate.id"].decode() == left["id"]
    assert headers["headgate.code"] == b"schema_mismatch"
    assert found[0].key == b'{"id":1}'
    assert b'"many"' in (found[0].value or b"")


def test_a_copy_has_the_records_own_headers_and_a_dropped_letter_leaves_its_row_flawed(
    tmp_path: Path, kafka: Kafka, redis_url: str
) -> None:
    with shop(tmp_path, "dropped", **on_servers(kafka, redis_url)) as running:
        ops = running.ops
        records = [(b'{"id":%d}' % number, b"\x00garbage", [("trace", b"\xff\x00")]) for number in (1, 2)]
        written(kafka, topic_of("dropped", "main.items"), records)
        until(lambda: len(ops.letters()) == 4)  # two entities of one topic
        for entity in ("item", "loose_item"):
            assert (ops.row(entity, 1) or {})["flaw"] == "change_undecodable"
        mine = [letter["id"] for letter in ops.letters() if letter["key"] == {"id": 1}]
        ops.ask("drop_dead_letters", ids=mine)
        until(lambda: len(ops.letters()) == 2)
        assert (ops.row("item", 1) or {})["flaw"] == "change_undecodable"
        ops.ask("drop_dead_letters", all=True)
        until(lambda: ops.letters() == [])

        ops.ask("resnapshot_table", table="main.items")
        until(lambda: all("flaw" not in (ops.row("item", number) or {"flaw": ""}) for number in (1, 2)))
    found = copies(tmp_path, "dropped", "main")
    assert len(found) == 4
    for record in found:
        assert record.headers[0] == ("trace", b"\xff\x00")
        assert record.value == b"\x00garbage"


@pytest.mark.parametrize("where", ["embedded", "servers"])
def test_an_entity_may_stand_still_before_what_does_not_fit_until_that_is_passed_over(
    tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    places = (
        on_servers(request.getfixturevalue("kafka"), request.getfixturevalue("redis_url")) if where == "servers" else {}
    )
    places["settings"] = places.get("settings", "") + "    on_error: stop\n"
    with shop(tmp_path, f"standing_{where}", **places) as running:
        ops, owner = running.ops, running.owner
        owner.execute("update items set total = 'many' where id = 1")
        (fault,) = until(ops.faults)
        owner.execute("update items set total = 111 where id = 1")
        owner.execute("insert into notes values (1, 'goes on')")
        until(lambda: ops.values("loose_item", 1)["total"] == 111)
        until(lambda: ops.values("note", 1))
        assert fault["entity"] == "item" and fault["dead_letter"].startswith("item/")
        assert fault["dead_letter"].rpartition("/")[2] in fault["message"]
        assert ops.values("item", 1)["total"] == 1 and "flaw" not in (ops.row("item", 1) or {})
        assert ops.letters() == []
        until(lambda: ops.freshness("item")["state"] == "stopped")
        until(lambda: ops.freshness("loose_item")["state"] == "fresh")
        assert ops.status() == "running"
        until(lambda: ops.detail()["materialize"]["lag_records"] >= 2)

        running.process.crash()
        running.process.start()
        until(lambda: running.process.text().count("serving MCP at") == 2)
        with operator(tmp_path, running.process.url(), f"standing_{where}") as again:
            until(lambda: ready(running.process.url()))
            until(again.faults)
            assert again.values("item", 1)["total"] == 1
            again.ask("drop_dead_letters", all=True)
            until(lambda: again.values("item", 1)["total"] == 111)
            until(lambda: again.faults() == [])
            until(lambda: again.freshness("item")["state"] == "fresh")
