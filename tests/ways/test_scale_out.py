"""Several `headgate sync` share the partitions: one is killed, one is frozen and comes back, and nothing is lost."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from os import kill
from pathlib import Path

import pytest

from headgate.stack import Kafka, Postgres
from tests.ways import pgbench
from tests.ways.deployment import connections, headgate, ready, until, write_config
from tests.ways.operating import BASICS, Operator, operator

PARTITIONS = 6
TABLES = 4
ALL = PARTITIONS * TABLES
TRANSACTIONS_PER_S = 100
PATIENCE_S = 120.0
"""A member that was killed or frozen is missed after ten seconds, and a rebalance may follow on another."""


@pytest.fixture
def bench_database(postgres: Postgres, database: str) -> str:
    pgbench.fill(postgres, database)
    return database


def shares(ops: Operator) -> list[int]:
    """How many partitions each process says to have now, the most first."""
    members = ops.detail()["materialize"]["members"]
    return sorted((member["partitions"] or 0 for member in members if member["status"] != "error"), reverse=True)


def are_spread(ops: Operator, processes: int) -> bool:
    """All partitions are somebody's, once, and each of so many processes has its even share."""
    found = shares(ops)
    return len(found) == processes and sum(found) == ALL and min(found) == ALL // processes


async def test_partitions_are_shared_and_a_process_that_died_or_slept_changes_nothing(
    tmp_path: Path, postgres: Postgres, kafka: Kafka, bench_database: str, redis_url: str
) -> None:
    config = write_config(
        tmp_path,
        f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  scaled:
    source: {{kind: postgres, dsn: "{bench_database}"}}
    log: main
    store: cache
    partitions: {PARTITIONS}
{pgbench.entities("scaled")}
""",
    )
    with ExitStack() as running:
        serving = running.enter_context(headgate(tmp_path, "serve"))
        syncs = [running.enter_context(headgate(tmp_path, "sync"))]
        until(lambda: ready(serving.url()))
        ops = running.enter_context(operator(tmp_path, serving.url(), "scaled"))
        until(lambda: are_spread(ops, 1), patience_s=PATIENCE_S)
        with pgbench.Load(postgres, bench_database, TRANSACTIONS_PER_S):
            syncs += [running.enter_context(headgate(tmp_path, "sync")) for _ in range(2)]
            until(lambda: are_spread(ops, 3), patience_s=PATIENCE_S)

            syncs[0].crash()  # it captured too: another one does so from now on
            until(lambda: are_spread(ops, 2), patience_s=PATIENCE_S)
            syncs[0].start()
            until(lambda: are_spread(ops, 3), patience_s=PATIENCE_S)

            kill(syncs[1].pid, signal.SIGSTOP)  # for longer than the group waits for it
            try:
                until(lambda: are_spread(ops, 2), patience_s=PATIENCE_S)
            finally:
                kill(syncs[1].pid, signal.SIGCONT)
            until(lambda: are_spread(ops, 3), patience_s=PATIENCE_S)
        await pgbench.assert_equal(config, bench_database, lookups=True, patience_s=PATIENCE_S)
