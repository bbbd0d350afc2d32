"""Whatever is killed, and whenever: the store becomes the source, and no answer is without its event.

A load runs, and a client asks without a pause, while processes are killed with -9 at random points and started
again. In the end every row is there once, as it is in the source, and every answer that the client got has
exactly one event on the log.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple

import psycopg
import pytest
import redis

from headgate.stack import Kafka, Postgres, Valkey
from headgate.stack.ports import free_port
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways import pgbench
from tests.ways.asking import Asking, assert_each_recorded_once, undrained
from tests.ways.deployment import connections, headgate, ready, until, write_config
from tests.ways.workload import SqliteTables, assert_tables_equal, run_workload

ACCOUNTS = 100_000
TRANSACTIONS_PER_S = 150
PATIENCE_S = 120.0
"""A member of a consumer group that was killed is missed after ten seconds; a few of them may queue up."""

_moment = threading.Event()
"""Never set: between two faults the load just runs."""


class Part(NamedTuple):
    """Something that is killed with -9, and started again."""

    name: str
    kill: Callable[[], None]
    start: Callable[[], None]


def kill_each(parts: Sequence[Part], times: int, dice: random.Random) -> None:
    """Each part so many times, in a random order, at random points, for a random while."""
    order = [part for part in parts for _ in range(times)]
    dice.shuffle(order)
    for part in order:
        _moment.wait(dice.uniform(0.1, 1.5))
        part.kill()
        _moment.wait(dice.uniform(0.0, 1.0))
        part.start()


@pytest.fixture(scope="module")
def durable_valkey(services_folder: Path) -> Iterator[Valkey]:
    """A Valkey whose data outlive it."""
    with started(Valkey(services_folder / "valkey-durable", append_only=True)) as server:
        yield server


@pytest.fixture
def durable_redis_url(durable_valkey: Valkey) -> str:
    with redis.Redis.from_url(durable_valkey.url()) as client:
        client.flushall()
    return durable_valkey.url()


@pytest.fixture
def bench_database(postgres: Postgres, database: str) -> str:
    pgbench.fill(postgres, database)
    return database


def on_servers(folder: Path, pipeline: str, database: str, kafka: Kafka, redis_url: str, port: int) -> Path:
    """Postgres → Kafka → Valkey, served at a port that a restart keeps."""
    return write_config(
        folder,
        f"""
data: data
server: {{port: {port}}}
access: {{local: true}}
{connections(kafka, redis_url)}pipelines:
  {pipeline}:
    source: {{kind: postgres, dsn: "{database}"}}
    log: main
    store: cache
    partitions: 3
{pgbench.entities(pipeline)}
""",
    )


def kill_walsender(postgres: Postgres) -> None:
    """Which makes PostgreSQL end every session and recover: returns once it has begun to."""
    with psycopg.connect(postgres.dsn()) as session:
        oldest, *_ = until(postgres.walsenders)
        oldest.signal(SIGKILL)
        until(lambda: _has_ended(session))


def _has_ended(session: psycopg.Connection) -> bool:
    try:
        session.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def asks_for_accounts(url: str) -> Asking:
    dice = random.Random(3)
    return Asking(url, "lookup_pgbench_account", lambda _: {"aid": dice.randint(1, ACCOUNTS)})


def assert_answered_what_was_asked(asking: Asking, key: str) -> None:
    rows = asking.rows
    assert rows
    assert all(row[key] == asked[key] for asked, row in rows)


@pytest.mark.parametrize(
    ("times", "seed"),
    [pytest.param(2, 1121, id="short"), pytest.param(12, 2026, id="long", marks=pytest.mark.soak)],
)
async def test_every_process_of_the_way_through_servers_may_be_killed(
    tmp_path: Path,
    postgres: Postgres,
    kafka: Kafka,
    bench_database: str,
    durable_valkey: Valkey,
    durable_redis_url: str,
    times: int,
    seed: int,
) -> None:
    port = free_port()
    config = on_servers(tmp_path, f"faults{times}", bench_database, kafka, durable_redis_url, port)
    with ExitStack() as running:
        syncs = [running.enter_context(headgate(tmp_path, "sync")) for _ in range(2)]
        with headgate(tmp_path, "serve") as serving:
            until(lambda: ready(serving.url()))
            parts = [
                *(Part(f"sync {number}", sync.crash, sync.start) for number, sync in enumerate(syncs)),
                Part("serve", serving.crash, serving.start),
                Part("kafka", kafka.kill, kafka.start),
                Part("valkey", durable_valkey.kill, durable_valkey.start),
                Part("walsender", lambda: kill_walsender(postgres), postgres.start),
            ]
            with pgbench.Load(postgres, bench_database, TRANSACTIONS_PER_S), asks_for_accounts(serving.url()) as asking:
                kill_each(parts, times, random.Random(seed))
            await pgbench.assert_equal(config, bench_database, lookups=True, patience_s=PATIENCE_S)
        until(lambda: len(undrained(tmp_path / "data")) == len(syncs))  # the living processes' own
    assert not undrained(tmp_path / "data")
    assert_answered_what_was_asked(asking, "aid")
    assert_each_recorded_once(config, asking.request_ids)


async def test_a_store_that_comes_back_empty_heals_by_replay(
    tmp_path: Path, postgres: Postgres, kafka: Kafka, bench_database: str, valkey: Valkey, redis_url: str
) -> None:
    config = on_servers(tmp_path, "emptied", bench_database, kafka, redis_url, free_port())
    with headgate(tmp_path, "sync"), headgate(tmp_path, "serve") as serving:
        until(lambda: ready(serving.url()))
        pgbench.run(postgres, bench_database, 100)
        await pgbench.assert_equal(config, bench_database)
        valkey.kill()
        pgbench.run(postgres, bench_database, 100)
        valkey.start()
        with redis.Redis.from_url(redis_url) as client:  # whatever is in it by now was written since
            kept = client.info("persistence")
        assert (kept["rdb_last_load_keys_loaded"], kept["aof_enabled"]) == (0, 0)
        pgbench.run(postgres, bench_database, 100)
        await pgbench.assert_equal(config, bench_database, lookups=True, patience_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("times", "seed"),
    [pytest.param(6, 77, id="short"), pytest.param(80, 78, id="long", marks=pytest.mark.soak)],
)
async def test_the_one_process_of_the_embedded_way_may_be_killed(tmp_path: Path, times: int, seed: int) -> None:
    path = tmp_path / "source.db"
    config = write_config(
        tmp_path,
        f"""
data: data
server: {{port: {free_port()}}}
access: {{local: true}}
pipelines:
  faults:
    source: {{kind: sqlite, path: "{path}"}}
""",
    )
    with SqliteWriter(path) as writer:
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            with Asking(process.url(), "lookup_part", lambda number: {"thing": number % 50, "place": "a"}) as asking:
                kill_each([Part("run", process.crash, process.start)], times, random.Random(seed))
            writer.stop()
            await assert_tables_equal(config, writer.tables, wall_clock_ms())
            until(lambda: len(undrained(tmp_path / "data")) == 1)  # the living process's own
        assert not undrained(tmp_path / "data")
    assert_each_recorded_once(config, asking.request_ids)


class SqliteWriter:
    """The owner of a database, who writes without a pause and gives up on a lock after five seconds."""

    def __init__(self, path: Path) -> None:
        self.tables = SqliteTables(path, timeout_s=5.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> SqliteWriter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.tables.close()

    def stop(self) -> None:
        """Ends the writing. Raises what went wrong with any write."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            run_workload(self.tables, random.Random(5), 10**9, ended=lambda: self._stop.wait(0.01))
        except Exception as error:
            self._failure = error
