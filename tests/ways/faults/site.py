"""What the faults happen to: PostgreSQL, Kafka and a Valkey behind wires, and the processes of `headgate sync`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
import redis
from confluent_kafka.admin import AdminClient

from headgate.stack import Kafka, Postgres, Valkey
from tests.services import started
from tests.ways.deployment import BASICS, Process, caught_up, connections, headgate, reader_of, until, write_config
from tests.ways.faults import items
from tests.ways.faults.wire import BrokerWire, Wire
from tests.ways.operating import command

PARTITIONS = 3
PATIENCE_S = 120.0
"""A member of a group that was killed or frozen is missed after ten seconds, and its successor may be another one."""


class Site:
    """One deployment, with all that a fault needs of it."""

    def __init__(
        self, folder: Path, pipeline: str, postgres: Postgres, kafka: Kafka, dsn: str, caches: Sequence[Valkey]
    ) -> None:
        self.folder = folder
        self.pipeline = pipeline
        self.postgres = postgres
        self.kafka = kafka
        self.dsn = dsn
        self.cache, *self.others = caches
        self.wire = Wire(self.cache.port)
        self.broker_wire = BrokerWire(kafka.port)
        url = f"redis://127.0.0.1:{self.wire.port}/0"
        self.config = write_config(
            folder,
            f"""
{BASICS}{connections(self.broker_wire, url)}pipelines:
  {pipeline}:
    source: {{kind: postgres, dsn: "{dsn}"}}
    log: main
    store: cache
    partitions: {PARTITIONS}
entities:
  item: {{from: {pipeline}.public.items, lookups: [code, part]}}
""",
        )

    def sync(self) -> Process:
        """One more `headgate sync`, to be stopped by its caller."""
        return self._opened.enter_context(headgate(self.folder, "sync"))

    @contextmanager
    def open(self) -> Iterator[Site]:
        """For the length of a block."""
        with self.wire, self.broker_wire, ExitStack() as self._opened:
            yield self

    def until_fresh(self, since_ms: int, patience_s: float) -> None:
        """Waits until the store says that it is whole as of that time of the source's."""

        async def wait() -> None:
            reader, app = reader_of(self.config)
            try:
                await caught_up(reader, "item", since_ms, patience_s)
            finally:
                await reader.close()
                app.close()

        with ThreadPoolExecutor(1) as pool:  # its caller may have a loop of its own
            pool.submit(asyncio.run, wait()).result()

    # --- faults ----------------------------------------------------------------------------------

    def cut(self) -> None:
        """The connections to the store and to the source end, in the middle of whatever they carry."""
        self.wire.cut()
        self.end_sessions()

    def cut_log(self) -> None:
        """The connections to Kafka end, in the middle of whatever they carry."""
        self.broker_wire.cut()
        assert self.broker_wire.cuts

    def cut_log_again(self, times: int) -> None:
        """And so do the new ones, so many times, each as soon as there is one: it may not have said a word yet."""
        for _ in range(times):
            until(lambda: self.broker_wire.carries)
            self.broker_wire.cut()

    def end_sessions(self) -> None:
        """PostgreSQL ends our sessions."""
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'pgbench'"
            )

    def replicate(self) -> None:
        """The other Valkey copies the store, up to now: its link to the store is slow, and brings nothing more."""
        with redis.Redis.from_url(self.others[0].url()) as replica:
            replica.replicaof("127.0.0.1", str(self.cache.port))
            until(lambda: replica.info("replication").get("master_link_status") == "up")
            with redis.Redis.from_url(self.cache.url()) as primary:
                assert primary.wait(1, 60_000) == 1
            replica.execute_command("REPLICAOF", "NO", "ONE")

    def promote(self) -> None:
        """The store dies, and its replica is the store, without what it had not got yet."""
        self.cache.kill()
        self.wire.lead_to(self.others[0].port)

    def save(self) -> None:
        """The store keeps a copy of itself on its disk."""
        with redis.Redis.from_url(self.cache.url()) as client:
            client.save()

    def restart_store(self) -> None:
        """kill -9: it comes back with its newest copy, or empty if it never kept one."""
        self.cache.kill()
        self.cache.start()
        self.wire.cut()

    def restart_kafka(self) -> None:
        """kill -9 of the broker."""
        self.kafka.kill()
        self.kafka.start()

    def recreate_topic(self) -> None:
        """The table's topic is deleted; capture makes it anew."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        for answer in admin.delete_topics([f"{self.pipeline}.public.items"]).values():
            answer.result()

    def drop_slot(self) -> None:
        """The replication slot is dropped, and what it kept is lost."""
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            mine = "from pg_replication_slots where database = current_database()"
            owner.execute(f"select pg_terminate_backend(active_pid, 60000) {mine} and active_pid is not null")
            dropped = owner.execute(f"select pg_drop_replication_slot(slot_name) {mine}")
            assert dropped.rowcount == 1

    def fill_store(self, bytes_: int) -> None:
        """The store takes no more than so many bytes; 0 lifts that."""
        with redis.Redis.from_url(self.cache.url()) as client:
            client.config_set("maxmemory", bytes_)

    def resnapshot(self) -> None:
        """The operator asks for the table to be read again."""
        command(self.folder, "pipeline", "resnapshot", self.pipeline, "items")

    def restart_pipeline(self) -> None:
        """The operator asks both halves to begin anew."""
        command(self.folder, "pipeline", "restart", self.pipeline)


def fired(process: Process, step: str, action: str) -> bool:
    """Whether a process has said that its failpoint acted."""
    return bool(re.search(rf"failpoint {re.escape(step)}: {action}$", process.text(), re.MULTILINE))


def is_frozen(process: Process) -> bool:
    """Whether it is stopped by SIGSTOP."""
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


@contextmanager
def caches(folder: Path, count: int) -> Iterator[list[Valkey]]:
    """Servers of this test's own, in memory alone."""
    with ExitStack() as stack:
        yield [stack.enter_context(started(Valkey(folder / f"valkey-{number}"))) for number in range(count)]


def filled(dsn: str) -> str:
    """The same DSN, when its database holds the table."""
    items.fill(dsn)
    return dsn
