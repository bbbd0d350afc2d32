"""The record: whatever happens to the log, the disk and the process, each answer has its event and the chain holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex

import httpx
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from headgate.audit.outbox_file import OutboxFile, writers
from headgate.audit.publisher import CALLS_TOPIC, SEQ_HEADER
from headgate.audit.stub import stub_in
from headgate.failpoints import VARIABLE
from headgate.log.base import Record
from headgate.stack import Kafka
from headgate.stack.ports import free_port
from tests.services import started
from tests.ways.asking import Answer, all_records, ask, recorded_ids, undrained
from tests.ways.deployment import PROGRAM, Process, headgate, reader_of, ready, until, write_config
from tests.ways.drawn import lookup
from tests.ways.lines import Answered, Line
from tests.ways.replicas import ISSUERS, token

CLIENTS = 4
SHORT, LONG = 3_000, 100_000


@pytest.fixture(scope="module")
def broker(services_folder: Path) -> Iterator[Kafka]:
    """A Kafka for these tests alone: the record's topic has one name for all."""
    with started(Kafka(services_folder / "kafka-record")) as server:
        yield server


@pytest.fixture
def kafka(broker: Kafka) -> Iterator[Kafka]:
    """The same, without a record."""
    broker.start()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    if CALLS_TOPIC.name in admin.list_topics(timeout=60).topics:
        for gone in admin.delete_topics([CALLS_TOPIC.name]).values():
            gone.result(60)
        until(lambda: CALLS_TOPIC.name not in admin.list_topics(timeout=60).topics)
    yield broker


def shop(folder: Path, kafka: Kafka, audit: str = "{}", redis_url: str = "") -> Path:
    """A shop in SQLite, captured to Kafka, with the store in the data folder.

    With a URL it is in Redis, and callers with a token go straight.
    """
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as database:
        database.execute("create table customers (id integer primary key, email text unique)")
        database.executemany("insert into customers values (?, ?)", [(n, f"c{n}@shop.example") for n in range(1, 20)])
        database.commit()
    cache = f'  cache: {{kind: redis, url: "{redis_url}"}}' if redis_url else ""
    access = f"{ISSUERS}, budgets: {{read: 1000000}}" if redis_url else "local: true"
    return write_config(
        folder,
        f"""
data: data
server: {{port: {free_port()}}}
access: {{{access}}}
connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka.bootstrap_servers}"}}
{cache}
pipelines:
  shop: {{source: {{kind: sqlite, path: shop.db}}, log: main, partitions: 1{", store: cache" if cache else ""}}}
audit: {audit}
""",
    )


def serving(process: Process) -> str:
    """Where it serves, once it answers."""
    url = process.url()
    until(lambda: ready(url))
    return url


def ask_many(url: str, count: int, between: threading.Event | None = None) -> list[Answer]:
    """So many calls by several clients at once; `between` is set when a quarter of them is answered."""
    answers: list[Answer] = []

    def some(number: int) -> None:
        with httpx.Client(timeout=60) as client:
            for step in range(count // CLIENTS):
                answers.append(ask(client, url, "lookup_customer", {"customer_id": 1 + (number + step) % 19}))
                if between is not None and len(answers) >= count // 4:
                    between.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(some, number) for number in range(CLIENTS)]:
            done.result()
    return answers


def verify(folder: Path, *words: str) -> tuple[int, str]:
    """What `headgate audit verify` says."""
    said = subprocess.run([PROGRAM, "audit", "verify", *words], cwd=folder, capture_output=True, text=True, timeout=300)
    return said.returncode, said.stdout + said.stderr


def backlog(folder: Path) -> int:
    """How many events wait in the outboxes."""
    waiting = 0
    for writer in undrained(folder / "data"):
        with contextlib.closing(OutboxFile(folder / "data" / "outbox", writer)) as file:
            waiting += file.backlog()
    return waiting


def assert_the_log_has_exactly(config: Path, answers: list[Answer]) -> None:
    """An event for each answer, and none of anything else."""
    recorded = recorded_ids(config)
    assert sorted(recorded) == sorted(answer.request_id for answer in answers)


# --- the log is away -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.soak)])
def test_kafka_killed_in_mid_call_and_away_while_many_calls_go(tmp_path: Path, kafka: Kafka, count: int) -> None:
    config = shop(tmp_path, kafka)
    with headgate(tmp_path, "run") as process:
        url = serving(process)
        quarter = threading.Event()

        def kill() -> None:
            quarter.wait(600)
            kafka.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        answers = ask_many(url, count, quarter)
        killer.join()
        assert len(answers) == count // CLIENTS * CLIENTS
        assert not [answer for answer in answers if answer.result is None or answer.result["isError"]]
        assert backlog(tmp_path) > count // 4, "the events wait on the disk"
        code, said = verify(tmp_path, "--outbox")
        assert code == 0, said
        kafka.start()
        until(lambda: backlog(tmp_path) == 0)
    assert undrained(tmp_path / "data") == []
    assert_the_log_has_exactly(config, answers)
    code, said = verify(tmp_path)
    assert code == 0 and "whole" in said, said


def test_a_forged_event_on_the_log_is_found(tmp_path: Path, kafka: Kafka) -> None:
    config = shop(tmp_path, kafka)
    with headgate(tmp_path, "run") as process:
        answers = ask_many(serving(process), 40)
    _, app = reader_of(config)
    try:
        log = app.log("main")
        *_, victim = (record for record in all_records(log) if b'"customer_id":' in (record.value or b""))
        assert victim.value is not None
        forged = victim.value.replace(b'"customer_id":', b'"customer_id": ')
        with contextlib.closing(log.appender()) as appender:
            appender.append(CALLS_TOPIC.name, Record(victim.key, forged, victim.headers))
            appender.flush(30)
    finally:
        app.close()
    code, said = verify(tmp_path, "--log")
    assert code == 1
    number = dict(victim.headers)[SEQ_HEADER].decode()
    assert re.search(rf"^CHANGED +w-\S+ #{number} \({answers[-1].request_id[:8]}", said, re.MULTILINE), said


def test_an_event_that_kafka_refuses_holds_up_no_other(tmp_path: Path, kafka: Kafka) -> None:
    """The topic takes less than the producer was told: an owner has narrowed it."""
    config = shop(tmp_path, kafka)
    with headgate(tmp_path, "run") as process:
        url = serving(process)
        answers = ask_many(url, 8)
        until(lambda: backlog(tmp_path) == 0)
        narrow(kafka, 4_000)
        with httpx.Client(timeout=60) as client:
            answers.append(ask(client, url, "lookup_customer", {"customer_id": 1, "include": [token_hex(9_000)]}))
        answers += ask_many(url, 8)
        until(lambda: backlog(tmp_path) == 0)
        (writer,) = undrained(tmp_path / "data")
        with contextlib.closing(OutboxFile(tmp_path / "data" / "outbox", writer)) as file:
            assert len(file.withheld()) == 1
    _, app = reader_of(config)
    try:
        stubs = [stub for record in all_records(app.log("main")) if (stub := stub_in(record.value or b""))]
    finally:
        app.close()
    assert [stub.id for stub in stubs] == [answers[8].request_id]
    code, said = verify(tmp_path)
    assert code == 0 and "1 by their digest alone" in said, said


def narrow(kafka: Kafka, most: int) -> None:
    """The record's topic takes batches of so many bytes."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, CALLS_TOPIC.name, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(60)


# --- the process is killed -----------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 37])
def test_kill_9_between_outbox_and_answer(tmp_path: Path, kafka: Kafka, at: int) -> None:
    """The event of the call that nobody got an answer to is there, and all others' are."""
    config = shop(tmp_path, kafka)
    with headgate(tmp_path, "run") as process:
        serving(process)  # the rows are in the store
    process.start(failpoints=f"call.closed=kill@{at}")
    url = serving(process)
    answers = []
    with httpx.Client(timeout=60) as client, contextlib.suppress(httpx.TransportError):
        while True:
            answers.append(ask(client, url, "lookup_customer", {"customer_id": 7}))
    assert len(answers) == at - 1
    process.kill()
    with headgate(tmp_path, "run") as again:
        answers += ask_many(serving(again), 8)
    assert undrained(tmp_path / "data") == []
    recorded = recorded_ids(config)
    unanswered = set(recorded) - {answer.request_id for answer in answers}
    assert len(recorded) == len(answers) + 1 and len(unanswered) == 1
    code, said = verify(tmp_path)
    assert code == 0, said
    assert "its writer lives, or was killed" in said


def straight_calls(url: str) -> Iterator[Answered]:
    """Answers to one call after the other, each in one piece on one connection: from the third on they go straight."""
    port = httpx.URL(url).port
    assert port is not None
    with contextlib.closing(Line(port)) as line:
        data = lookup(token(), 1, {"customer_id": 7})
        while True:
            line.send(data)
            yield line.answer(b"POST")


def test_kill_9_between_outbox_and_answer_on_the_straight_way(
    tmp_path: Path, kafka: Kafka, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shop(tmp_path, kafka, redis_url=redis_url)
    with monkeypatch.context() as armed:
        armed.setenv(VARIABLE, "call.closed=kill@37")
        doomed = Process(tmp_path, "run")
    answered = []
    with pytest.raises(EOFError):
        for answer in straight_calls(serving(doomed)):
            assert answer.status == 200
            answered.append(answer.headers["x-request-id"])
    assert doomed.ended() == -9 and len(answered) == 36
    with headgate(tmp_path, "run") as again:
        serving(again)
        until(lambda: undrained(tmp_path / "data") == [] or backlog(tmp_path) == 0)
    recorded = recorded_ids(config)
    assert len(recorded) == len(set(recorded)) == 37 and set(answered) < set(recorded)
    code, said = verify(tmp_path)
    assert code == 0, said


# --- a full disk ---------------------------------------------------------------------------------


@pytest.fixture(params=["disk", "bound"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An outbox with room for little: on a disk of 24 MiB of its own, or by its bound. Answers the `audit` settings."""
    outbox = tmp_path / "data" / "outbox"
    outbox.mkdir(parents=True, mode=0o700)
    outbox.parent.chmod(0o700)
    if request.param == "bound":
        yield "outbox_max_gb: 0.003"
        return
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", outbox], check=True)
    try:
        yield "arguments: whole"
    finally:
        subprocess.run(["umount", outbox], check=True)


def fill(url: str) -> tuple[list[Answer], Answer]:
    """Calls until one is refused, and the refusal."""
    answers = []
    with httpx.Client(timeout=60) as client:
        for number in range(10_000):
            wide = {"entity": "customer", "key": number, "include": ["x" * 20_000]}
            answers.append(ask(client, url, "lookup", wide))
            if answers[-1].result is None:
                return answers[:-1], answers[-1]
    raise AssertionError("it was never full")


def test_a_full_disk_refuses_calls_until_the_log_has_drained_it(tmp_path: Path, kafka: Kafka, small: str) -> None:
    config = shop(tmp_path, kafka, f"{{{small}}}")
    with headgate(tmp_path, "run") as process:
        url = serving(process)
        kafka.kill()
        answers, refused = fill(url)
        assert len(answers) > 30
        assert refused.code == "outbox_full", "no data leaves without a record"
        kafka.start()
        until(lambda: backlog(tmp_path) == 0)
        with httpx.Client(timeout=60) as client:
            until(lambda: ask(client, url, "lookup_customer", {"customer_id": 7}).result is not None)
        answers += ask_many(url, 40)
        assert not [answer for answer in answers if answer.result is None]
    assert set(recorded_ids(config)) >= {answer.request_id for answer in answers}
    assert refused.request_id not in recorded_ids(config)
    code, said = verify(tmp_path)
    assert code == 0, said


def test_a_full_disk_refuses_whoever_goes_straight(tmp_path: Path, kafka: Kafka, redis_url: str) -> None:
    config = shop(tmp_path, kafka, "{outbox_max_gb: 0.001}", redis_url)
    with headgate(tmp_path, "run") as process:
        url = serving(process)
        kafka.kill()
        answers = []
        for answer in straight_calls(url):
            if b"outbox_full" in answer.body:
                break
            assert b"c7@shop.example" in answer.body
            answers.append(answer.headers["x-request-id"])
        assert len(answers) > 100, "no data leaves without a record"
        kafka.start()
        until(lambda: backlog(tmp_path) == 0)
        until(lambda: b"c7@shop.example" in next(straight_calls(url)).body)
    recorded = set(recorded_ids(config))
    assert recorded >= set(answers) and answer.headers["x-request-id"] not in recorded
    code, said = verify(tmp_path)
    assert code == 0, said


def test_a_full_disk_is_said_loudly_where_calls_are_served_nonetheless(
    tmp_path: Path, kafka: Kafka, small: str
) -> None:
    config = shop(tmp_path, kafka, f"{{{small}, on_full_disk: serve}}")
    with headgate(tmp_path, "run") as process:
        url = serving(process)
        kafka.kill()
        with httpx.Client(timeout=60) as client:
            until(lambda: _wide(client, url) and "WITHOUT a record" in process.text())
            assert ask(client, url, "lookup_customer", {"customer_id": 7}).result is not None
        doctor = until(lambda: _doctor(tmp_path))
        assert "answered without a record" in doctor
        kafka.start()
        until(lambda: backlog(tmp_path) == 0)
    code, said = verify(tmp_path)
    assert code == 0, said
    assert recorded_ids(config)


def _wide(client: httpx.Client, url: str) -> bool:
    answer = ask(client, url, "lookup", {"entity": "customer", "key": 1, "include": ["x" * 20_000]})
    assert answer.result is not None, answer
    return True


def _doctor(folder: Path) -> str:
    said = subprocess.run([PROGRAM, "doctor"], cwd=folder, capture_output=True, text=True, timeout=120).stdout
    return said if "without a record" in said else ""


# --- the command ---------------------------------------------------------------------------------


def test_an_export_is_verified_where_only_the_key_is_known(
    tmp_path: Path, kafka: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop(tmp_path, kafka)
    with headgate(tmp_path, "run") as process:
        ask_many(serving(process), 40)
    export = subprocess.run([PROGRAM, "audit", "export", "-o", "e.jsonl"], cwd=tmp_path, capture_output=True, text=True)
    assert export.returncode == 0, export.stderr
    key = subprocess.run([PROGRAM, "audit", "key"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "headgate.yaml").write_text("pipelines: {}\n")
    (elsewhere / "key.pem").write_text(key)
    file = str(tmp_path / "e.jsonl")
    assert verify(elsewhere, "--export", file, "--public-key", "key.pem")[0] == 0
    assert verify(elsewhere, "--export", file)[0] == 1, "without the key nobody vouches for it"
    assert verify(elsewhere, "--export", str(tmp_path / "missing"))[0] == 2
    assert len([json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]) >= 41
    assert writers(tmp_path / "data" / "outbox") == []
