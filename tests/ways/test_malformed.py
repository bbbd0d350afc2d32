"""Malformed changes and configs: a table of each, what is said of it, and that life goes on.

Malformed requests are in test_doors_security.py.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from confluent_kafka import Producer

from headgate.model.table import heartbeat_topic, topic_of
from headgate.stack import Kafka
from tests.ways.asking import ask
from tests.ways.deployment import BASICS, PROGRAM, Process, connections, headgate, ready, until, write_config

SECRET = "correct-horse-battery"
DEADLINE_S = 120.0


def envelope(after: Any, *, op: str = "c", **more: Any) -> bytes:
    return json.dumps({"op": op, "before": None, "after": after, "source": {}, "ts_ms": 1, **more}).encode()


def key(**values: Any) -> bytes:
    return json.dumps(values).encode()


class Change(NamedTuple):
    """What somebody wrote to the topic of a pipeline, and the code of the dead letter that it becomes."""

    what: str
    key: bytes
    value: bytes
    code: str = "change_undecodable"


DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
CHANGES = [
    Change("garbage", key(id=101), b"\x00\xff\xfegarbage"),
    Change("text that is no UTF-8 within JSON", key(id=102), b'{"op":"c","after":{"id":102,"name":"\xff"}}'),
    Change("JSON that is no envelope", key(id=103), b'{"id": 103}'),
    Change("an envelope that is cut off", key(id=104), envelope({"id": 104})[:-10]),
    Change("an unknown operation", key(id=105), envelope({"id": 105}, op="x")),
    Change("a row that is a list", key(id=106), envelope([106])),
    Change("a row that is missing", key(id=107), envelope(None)),
    Change("a source block that is a text", key(id=108), envelope({"id": 108}, source="here")),
    Change("a sequence that is none", key(id=109), envelope({"id": 109}, source={"sequence": "last"})),
    Change("a row deeper than any parser goes", key(id=110), b'{"op":"c","after":' + DEEP + b"}"),
    Change("a key that is garbage", b"\xff\xfe", envelope({"id": 111})),
    Change("a key without the key's column", key(number=112), envelope({"id": 112})),
    Change("a key that is a list", b"[113]", envelope({"id": 113})),
    Change("an empty key", b"", envelope({"id": 114})),
    Change("a marker without content", key(id=115), envelope(None, op="m", message={"prefix": "headgate.snapshot"})),
    Change("text where a number is declared", key(id=116), envelope({"id": 116, "total": "many"}), "schema_mismatch"),
    Change("a row without a declared field", key(id=117), envelope({"id": 117}), "schema_mismatch"),
]


@contextmanager
def pipeline(folder: Path, name: str, kafka: Kafka, redis_url: str) -> Iterator[tuple[Process, sqlite3.Connection]]:
    """A pipeline of that name, and the owner of its source."""
    with closing(sqlite3.connect(folder / "source.db", isolation_level=None)) as owner:
        owner.execute("create table items (id integer primary key, name text, total integer)")
        owner.execute("insert into items values (1, 'good', 1), (2, 'good', 2)")
        write_config(
            folder,
            f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  {name}:
    source: {{kind: sqlite, path: "{folder / "source.db"}"}}
    log: main
    store: cache
entities:
  item: {{from: {name}.main.items, fields: {{total: {{type: integer}}}}}}
""",
        )
        with headgate(folder, "run") as process:
            until(lambda: ready(process.url()))
            yield process, owner


class Agent:
    """A client of the pipeline's server."""

    def __init__(self, url: str, pipeline: str) -> None:
        self._url = url
        self._pipeline = pipeline
        self._client = httpx.Client(timeout=60)

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer = ask(self._client, self._url, tool, arguments)
        assert answer.result is not None and not answer.result["isError"], answer
        return answer.result

    def item(self, number: int) -> dict[str, Any] | None:
        """One row as it is answered."""
        rows = self.call("lookup", entity="item", key=number)["structuredContent"]["rows"]
        return rows[0] if rows else None

    def letters(self) -> dict[str, str]:
        """The codes of the dead letters, by their places."""
        errors = self.errors()
        assert errors["dead_letters_total"] == len(errors["dead_letters"])
        return {letter["id"].partition("/")[2]: letter["code"] for letter in errors["dead_letters"]}

    def errors(self) -> dict[str, Any]:
        """What is told of them; how many there are is counted beside the list."""
        found: dict[str, Any] = self.call("get_pipeline_errors", pipeline_id=self._pipeline, limit=200)
        listed: dict[str, Any] = found["structuredContent"]
        return listed

    def status(self) -> tuple[str, list[Any]]:
        """How the pipeline is, and its faults."""
        detail = self.call("get_pipeline_detail", pipeline_id=self._pipeline)["structuredContent"]
        return detail["status"], detail["faults"]

    def is_fresh(self) -> bool:
        answer = self.call("check_data_freshness", entity="item")
        return bool(answer["_meta"]["headgate/freshness"]["state"] == "fresh")

    def close(self) -> None:
        self._client.close()


@contextmanager
def agent_of(folder: Path, name: str, kafka: Kafka, redis_url: str) -> Iterator[tuple[Agent, sqlite3.Connection]]:
    with pipeline(folder, name, kafka, redis_url) as (process, owner), closing(Agent(process.url(), name)) as agent:
        yield agent, owner


def written(kafka: Kafka, topic: str, records: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """Writes records as any program may, and answers their places."""
    places: list[str] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})

    def delivered(error: Any, message: Any) -> None:
        assert error is None, error
        places.append(f"{message.topic()}/{message.partition()}/{message.offset()}")

    for record_key, value in records:
        producer.produce(topic, value, record_key, on_delivery=delivered)
        producer.flush(DEADLINE_S)
    return places


def test_malformed_changes_become_dead_letters_and_good_ones_go_on(
    tmp_path: Path, kafka: Kafka, redis_url: str
) -> None:
    with agent_of(tmp_path, "malformed", kafka, redis_url) as (agent, owner):
        until(agent.is_fresh)
        places = written(kafka, topic_of("malformed", "main.items"), [(change.key, change.value) for change in CHANGES])
        written(kafka, heartbeat_topic("malformed"), [(b"heartbeat", b"\xff"), (b"heartbeat", b'{"head": 1}')])
        owner.execute("insert into items values (3, 'after them', 3)")
        until(lambda: agent.item(3))
        until(lambda: agent.errors()["dead_letters_total"] >= len(CHANGES))
        told = agent.letters()
        assert {change.what: told.get(place) for change, place in zip(CHANGES, places, strict=True)} == {
            change.what: change.code for change in CHANGES
        }
        assert (agent.item(1) or {})["values"] == {"id": 1, "name": "good", "total": 1}
        until(agent.is_fresh)
        assert agent.status() == ("running", [])


def test_a_row_whose_newest_change_was_malformed_is_not_trusted_until_a_good_one_comes(
    tmp_path: Path, kafka: Kafka, redis_url: str
) -> None:
    with agent_of(tmp_path, "mistrusted", kafka, redis_url) as (agent, owner):
        until(lambda: agent.item(2))
        written(kafka, topic_of("mistrusted", "main.items"), [(key(id=2), b"garbage")])
        until(lambda: "flaw" in (agent.item(2) or {}))
        told = agent.call("lookup", entity="item", key=2)["content"][0]["text"]
        assert "Do not trust" in told
        assert "change_undecodable" in told
        owner.execute("update items set name = 'better' where id = 2")
        until(lambda: "flaw" not in (agent.item(2) or {"flaw": ""}))
        assert (agent.item(2) or {})["values"]["name"] == "better"


ODD = {
    "half a surrogate pair": b'"\\ud800"',
    "a number beyond all doubles": b"1e999",
    "an integer of a thousand digits": b"9" * 1_000,
    "the same name twice": b'"once", "name": "twice"',
}
"""Values of a field that JSON allows, or nearly, and no column here would send."""


def test_odd_values_are_answered_or_refused_in_words_and_harm_no_other_row(
    tmp_path: Path, kafka: Kafka, redis_url: str
) -> None:
    with agent_of(tmp_path, "odd", kafka, redis_url) as (agent, owner):
        until(agent.is_fresh)
        rows = [
            (key(id=number), b'{"op":"c","after":{"id":%d,"total":1,"name":%b}}' % (number, value))
            for number, value in enumerate(ODD.values(), 201)
        ]
        written(kafka, topic_of("odd", "main.items"), rows)
        owner.execute("insert into items values (3, 'after them', 3)")
        numbers = range(201, 201 + len(ODD))
        until(lambda: agent.item(3) and all(agent.item(number) for number in numbers))
        flawed = [number for number in numbers if "flaw" in (agent.item(number) or {})]
        assert len(agent.letters()) == len(flawed) < len(ODD)
        assert agent.status() == ("running", [])


# --- configs -------------------------------------------------------------------------------------

SOURCE = '  shop:\n    source: {kind: sqlite, path: "shop.db"}\n'
CONFIGS = {
    "no YAML": ("pipelines: [\n", r"headgate\.yaml:\d: is no YAML"),
    "a tab": ("pipelines:\n\tshop: 1\n", r"headgate\.yaml:2: is no YAML"),
    "the same name twice": (f"pipelines:\n{SOURCE}{SOURCE}", r"headgate\.yaml:\d+: is no YAML: .*duplicate"),
    "a list for the file": ("- shop\n", r"headgate\.yaml:1: "),
    "an unknown setting": (
        "piplines: {}\n",
        r"headgate\.yaml:1: piplines: is not a setting here; there are: .*pipelines",
    ),
    "a setting in the wrong place": (
        f"pipelines:\n{SOURCE}    lookups: [email]\n",
        r"headgate\.yaml:4: pipelines\.shop\.lookups: is not a setting here",
    ),
    "a port that is none": ("data: d\nserver: {port: 99999}\n", r"headgate\.yaml:2: server\.port: "),
    "a number that is a text": (
        f"pipelines:\n{SOURCE}    partitions: many\n",
        r"headgate\.yaml:4: pipelines\.shop\.partitions: ",
    ),
    "an unknown kind": (
        "pipelines:\n  shop:\n    source: {kind: oracle}\n",
        r"headgate\.yaml:3: pipelines\.shop\.source\.kind: .*oracle",
    ),
    "no kind": ("connections:\n  main: {url: x}\n", r"headgate\.yaml:2: connections\.main: needs a kind"),
    "an unknown connection": (
        f"pipelines:\n{SOURCE}    log: main\n",
        r"headgate\.yaml:4: pipelines\.shop\.log: there is no connection 'main'",
    ),
    "a connection of another kind": (
        f'connections:\n  cache: {{kind: redis, url: "redis://localhost"}}\npipelines:\n{SOURCE}    log: cache\n',
        r"headgate\.yaml:6: pipelines\.shop\.log: connection 'cache' must be of kind kafka",
    ),
    "an entity of no pipeline": (
        "entities:\n  customer:\n    from: shop.main.customers\n",
        r"headgate\.yaml:3: entities\.customer\.from: begins with no pipeline's name",
    ),
    "a variable that is not set": (
        f'pipelines:\n{SOURCE}\nconnections:\n  c: {{kind: redis, url: "${{NOT_SET_HERE}}"}}\n',
        r"headgate\.yaml:6: connections\.c\.url: the environment has no NOT_SET_HERE",
    ),
    "a secret of the wrong type": (
        f"pipelines:\n  shop:\n    source:\n      kind: postgres\n      dsn: [{SECRET}]\n",
        r"headgate\.yaml:5: pipelines\.shop\.source\.dsn: ",
    ),
    "a secret under a wrong name": (
        f'connections:\n  c:\n    kind: redis\n    url: "redis://x"\n    pasword: "{SECRET}"\n',
        r"headgate\.yaml:5: connections\.c\.pasword: is not a setting here",
    ),
    "a secret in a URL of another scheme": (
        f'connections:\n  c:\n    kind: redis\n    url: "http://:{SECRET}@localhost"\n',
        r"headgate\.yaml:4: connections\.c\.url: .*redis://",
    ),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_malformed_config_is_named_by_its_line(tmp_path: Path, what: str) -> None:
    text, expected = CONFIGS[what]
    write_config(tmp_path, text)
    said = checked(tmp_path)
    assert re.search(expected, said), said
    assert SECRET not in said


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    write_config(tmp_path, "server: {port: -1}\naudit: {retention_days: 0}\npipelines: {Shop: {}}\n")
    assert set(re.findall(r"headgate\.yaml:(\d+):", checked(tmp_path))) == {"1", "2", "3"}


def test_a_config_that_can_not_be_read_says_how_to_make_one(tmp_path: Path) -> None:
    assert "headgate init" in checked(tmp_path)
    (tmp_path / "headgate.yaml").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in checked(tmp_path)


def checked(folder: Path) -> str:
    """What `headgate check` says of a config that does not hold."""
    done = subprocess.run([PROGRAM, "check"], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
