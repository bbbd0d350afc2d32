"""Postgres to Kafka, acknowledged: changes a second of `headgate sync --half capture`, and of Debezium on Connect.

One backlog of single-row changes is written while nobody reads; each subject then has a slot of its own at the same
place, and reads it alone. The broker's end offsets are the clock: the first fifth warms up, the rest counts. The
limit is the same slot's raw stream, read by libpq and thrown away. What arrived is compared with the source: every
change, each key in its order, each row's last values.

Debezium runs three times, as people do run it: as it comes, with the defaults of connector, producer and Connect's JSON
converter, which writes each record's schema beside it; without these schemas, whose envelopes are like ours; and so
tuned too, with the settings for throughput that its documentation names.

    python bench/postgres_to_kafka.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # as documented
from measure import cpu_seconds, line, ratios

from headgate.sources.postgres.stream import open_replication
from headgate.stack import Connect, Kafka, Postgres, Stack

PROGRAM = Path(sys.executable).parent / "headgate"
PARTITIONS = 4
GIVE_UP_S = 120.0
SLOWEST_PER_S = 2_000
"""Changes: who brings fewer is given up."""
WARM = 0.2
TUNED = {
    "poll.interval.ms": "10", "max.batch.size": "8192", "max.queue.size": "32768",
    "producer.override.batch.size": "1000000", "producer.override.linger.ms": "5",
    "producer.override.compression.type": "lz4", "producer.override.buffer.memory": "67108864",
}  # fmt: skip
JSON_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
INLINE_SCHEMAS = {
    f"{part}.converter{name}": said
    for part in ("key", "value")
    for name, said in {"": JSON_CONVERTER, ".schemas.enable": "true"}.items()
}
"""The worker's own default is switched off by `headgate stack`."""
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    "schemas": ("debezium on connect, as it comes", INLINE_SCHEMAS),
    "plain": ("debezium on connect, without inline schemas", {}),
    "peer": ("debezium on connect, tuned", TUNED),
}
"""Connector, slot and prefix of topics → its subject, and what is set beside what the task needs.

One worker runs all, the tuned one last: it finds the worker warm, and the worker's peak of memory is its own."""

TABLE = """
create table orders (
    id bigint primary key, customer_id bigint not null, status text not null, total numeric(10,2) not null,
    note text, placed_at timestamptz not null)
"""
# A fifth are inserts, the rest updates of rows that are there; a hundred changes a transaction.
LOAD = """
create procedure load(changes int) language plpgsql as $$
declare
    statuses text[] := array['placed', 'paid', 'packed', 'shipped', 'delivered', 'returned'];
    rows int := 0;
    target int;
begin
    for number in 1..changes loop
        if number % 5 = 1 then
            rows := rows + 1;
            insert into orders values (rows, 1 + number % 5000, 'placed', (number % 50000)::numeric / 100,
                case when number % 3 = 0 then null else 'leave it at the door, "please"' end, clock_timestamp());
        else
            target := 1 + (number::bigint * 7919) % rows;
            update orders set status = statuses[1 + number % 6], total = (number % 70000)::numeric / 100
            where id = target;
        end if;
        if number % 100 = 0 then commit; end if;
    end loop;
end $$
"""


def prepare(dsn: str, changes: int, start_headgate: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
    """The table, each subject's slot, and then the backlog."""
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(TABLE.encode())
        database.execute(LOAD.encode())
        with start_headgate():
            _until(lambda: _one(database, "select count(*) from pg_stat_replication where state = 'streaming'"))
        database.execute("create publication peer for table orders")
        for slot in ("raw", *PEERS):
            database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        database.execute("call load(%s)", [changes])
        database.execute("checkpoint")


# --- the subjects ---


def raw_stream(dsn: str, changes: int) -> dict[str, Any]:
    """The walsender's stream, read and thrown away."""
    with contextlib.closing(open_replication(dsn)) as connection:
        stream = connection.pgconn
        stream.exec_(b"START_REPLICATION SLOT raw LOGICAL 0/0 (proto_version '1', publication_names 'peer')")
        stream.nonblocking = 1
        seen, began, used = 0, 0.0, 0.0
        while seen < changes:
            size, message = stream.get_copy_data(1)
            if size == 0:
                select.select([stream.socket], [], [], 1.0)
                stream.consume_input()
            elif message[0] == 119 and message[25] in b"IU":
                seen += 1
                if seen == int(changes * WARM):
                    began, used = time.perf_counter(), _own_cpu()
        seconds, cpu = time.perf_counter() - began, _own_cpu() - used
    return line("limit: raw stream", **_rate(changes - int(changes * WARM), seconds, cpu))


def headgate(folder: Path, kafka: Kafka, changes: int) -> dict[str, Any]:
    """Our own capture, as its users run it."""
    with capturing(folder) as process:
        measured = watch(kafka, "bench.public.orders", changes, lambda: cpu_seconds(process.pid))
        return line("headgate", **measured, rss_mib=_peak_mib(process.pid))


@contextlib.contextmanager
def capturing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`headgate sync --half capture`."""
    with (folder / "capture.txt").open("ab") as output:
        process = subprocess.Popen([PROGRAM, "sync", "--half", "capture"], cwd=folder, stdout=output, stderr=output)
        try:
            yield process
        except BaseException:
            print((folder / "capture.txt").read_text(), file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(60)


def debezium(name: str, connect: Connect, kafka: Kafka, postgres: Postgres, changes: int) -> dict[str, Any]:
    """Debezium's connector on Kafka Connect, with the settings of one of `PEERS`."""
    subject, more = PEERS[name]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for made in admin.create_topics([NewTopic(f"{name}.public.orders", PARTITIONS, 1)]).values():
        made.result(30)
    settings = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "127.0.0.1", "database.port": str(postgres.port), "database.user": "postgres",
        "database.password": "x", "database.dbname": "postgres", "topic.prefix": name, "plugin.name": "pgoutput",
        "slot.name": name, "publication.name": "peer", "publication.autocreate.mode": "disabled",
        "table.include.list": "public.orders", "snapshot.mode": "no_data", "decimal.handling.mode": "string",
        "topic.creation.default.partitions": str(PARTITIONS), "topic.creation.default.replication.factor": "1",
        **more,
    }  # fmt: skip
    httpx.put(f"{connect.url}/connectors/{name}/config", json=settings, timeout=60).raise_for_status()
    running = connect.process
    assert running is not None
    measured = watch(kafka, f"{name}.public.orders", changes, lambda: cpu_seconds(running.pid))
    httpx.delete(f"{connect.url}/connectors/{name}", timeout=60).raise_for_status()
    said = line(subject, **measured, rss_mib=_peak_mib(running.pid))
    verify(subject, kafka, f"{name}.public.orders", postgres.dsn(), changes)
    return said


# --- what is measured, and what has arrived ---


def watch(kafka: Kafka, topic: str, changes: int, cpu: Callable[[], float]) -> dict[str, Any]:
    """Waits until the topic has grown by all changes; the rate of what came after the first fifth."""
    ends = Ends(kafka, topic)
    began = warm = used = 0.0
    deadline = time.monotonic() + GIVE_UP_S + changes / SLOWEST_PER_S
    first = 0
    while (arrived := ends.total() - ends.at_first) < changes:
        if not began and arrived >= changes * WARM:
            began, used, warm, first = time.perf_counter(), cpu(), arrived, arrived
        if time.monotonic() > deadline:
            raise SystemExit(f"{topic}: {arrived} of {changes} changes arrived")
        _PAUSE.wait(0.02)
    seconds, spent = time.perf_counter() - began, cpu() - used
    return _rate(changes - first, seconds, spent) if warm else {}


class Ends:
    """The end offsets of a topic, from its broker."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        _until(lambda: topic in self._admin.list_topics(timeout=10).topics)
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library has no types here
        self._asked = {TopicPartition(topic, number): latest for number in range(PARTITIONS)}
        self.at_first = _LEFT.setdefault(topic, self.total())

    def total(self) -> int:
        """Of all partitions."""
        return sum(answer.result(10).offset for answer in self._admin.list_offsets(self._asked).values())


_LEFT: dict[str, int] = {}
"""Per topic, what it held before the backlog: our snapshot's markers."""
_PAUSE = threading.Event()


def verify(subject: str, kafka: Kafka, topic: str, dsn: str, changes: int) -> None:
    """Every change once, each key in the source's order, each row as it is in the source."""
    rows: dict[int, dict[str, Any]] = {}
    order: dict[int, list[int]] = {}
    seen = 0
    for value in _records(kafka, topic):
        envelope = json.loads(value)
        envelope = envelope.get("payload", envelope)  # beside an inline schema
        if envelope["op"] not in "cu":
            continue
        row, at = envelope["after"], [int(part or 0) for part in json.loads(envelope["source"]["sequence"])]
        if at <= order.get(row["id"], [-1, -1]):
            raise SystemExit(f"{subject}: row {row['id']} went back in time")
        rows[row["id"]], order[row["id"]] = row, at
        seen += 1
    with psycopg.connect(dsn) as database:
        found = database.execute("select id, customer_id, status, total::text, note from orders").fetchall()
    ours = sorted(
        tuple(row[name] for name in ("id", "customer_id", "status", "total", "note")) for row in rows.values()
    )
    if seen != changes or ours != sorted(found):
        raise SystemExit(f"{subject}: {seen} of {changes} changes arrived, or rows differ from the source's")
    print(f"{subject}: {seen} changes verified", file=sys.stderr)


def _records(kafka: Kafka, topic: str) -> Iterator[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "bench", "enable.partition.eof": True,
         "fetch.queue.backoff.ms": 5}
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    ended = 0
    while ended < PARTITIONS:
        for message in consumer.consume(10_000, 0.1):
            if message.error():
                ended += 1
            elif (value := message.value()) is not None:
                yield value
    consumer.close()


def _rate(changes: float, seconds: float, cpu: float) -> dict[str, Any]:
    return {
        "changes_per_s": round(changes / seconds),
        "cpu_us": round(cpu / changes * 1e6, 2),
        "changes": changes,
    }


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _one(database: psycopg.Connection[Any], query: str) -> int:
    row = database.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def _until(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not ask():
        if time.monotonic() > deadline:
            raise SystemExit("what the bench waits for never came")
        _PAUSE.wait(0.05)


def config(servers: Stack, dsn: str) -> str:
    """Capture needs no store; the config names one all the same."""
    return f"""\
data: data
{servers.connections_yaml()}pipelines:
  bench:
    source: {{kind: postgres, dsn: "{dsn}", tables: [public.orders]}}
    log: main
    store: cache
    partitions: {PARTITIONS}
"""


def main() -> None:
    """The limit, ours and the peer, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    parser.add_argument("--changes", type=int, help="in the backlog")
    parser.add_argument("--without-peer", action="store_true")
    chosen = parser.parse_args()
    changes = chosen.changes or (100_000 if chosen.quick else 1_000_000)
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o711)  # servers may run as another account
        names = ["kafka", "postgres", "valkey", *([] if chosen.without_peer else ["connect"])]
        servers = Stack(folder / "stack", names, progress=lambda said: print(said, file=sys.stderr))
        servers.up()
        try:
            _compare(servers, folder, changes, peer=not chosen.without_peer)
        finally:
            servers.down(purge=True)


def _compare(servers: Stack, folder: Path, changes: int, *, peer: bool) -> None:
    kafka, postgres = servers.service("kafka"), servers.service("postgres")
    assert isinstance(kafka, Kafka)
    assert isinstance(postgres, Postgres)
    dsn = postgres.dsn()
    (folder / "headgate.yaml").write_text(config(servers, dsn))
    prepare(dsn, changes, lambda: capturing(folder))
    Ends(kafka, "bench.public.orders")
    print(f"load average before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    limit = raw_stream(dsn, changes)
    ours = headgate(folder, kafka, changes)
    verify("headgate", kafka, "bench.public.orders", dsn, changes)
    more: dict[str, float] = {}
    if peer:
        connect = servers.service("connect")
        assert isinstance(connect, Connect)
        for name, (subject, _) in PEERS.items():
            said = debezium(name, connect, kafka, postgres, changes)
            place = subject.removeprefix("debezium on connect, ").replace(" ", "_")
            more[f"headgate_over_debezium_{place}"] = ours["changes_per_s"] / said["changes_per_s"]
    ratios(**more, headgate_over_limit=ours["changes_per_s"] / limit["changes_per_s"])


if __name__ == "__main__":
    main()
