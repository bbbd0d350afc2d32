"""A clock that jumps and a disk that is full, at each numbered step: what stands still goes on, and nothing is lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate import failpoints
from headgate.app import App
from headgate.config import load
from headgate.stack import Kafka, Postgres
from headgate.telemetry import wall_clock_ms
from headgate.testing import view_of
from tests.services import throwaway_folder
from tests.ways.deployment import headgate, reader_of, ready, until, write_config
from tests.ways.faults import items
from tests.ways.faults.site import PATIENCE_S, Site, caches, filled, fired, is_frozen
from tests.ways.pgbench import source_clock_ms
from tests.ways.test_fault_matrix import STEPS, TRANSACTIONS_PER_S
from tests.ways.workload import SqliteTables, assert_tables_equal, run_workload

DAY_MS = 86_400_000
ONCE_A_RUN = ("capture.learned", "materialize.claimed", "materialize.switched")
EMBEDDED = [step for step in STEPS if step != "materialize.sent"]
"""SQLite writes a step in one go: what Redis is sent and has not answered yet is a step of Redis alone."""


class JumpingClock:
    """The app's clock, which somebody sets."""

    def __init__(self) -> None:
        self.offset_ms = 0
        self.jumped = threading.Event()

    def __call__(self) -> int:
        return wall_clock_ms() + self.offset_ms

    def jump(self, offset_ms: int) -> None:
        """From now on it is so much off."""
        self.offset_ms = offset_ms
        self.jumped.set()


@pytest.fixture
def site(tmp_path: Path, postgres: Postgres, kafka: Kafka, database: str, topic_prefix: str) -> Iterator[Site]:
    with throwaway_folder() as folder, caches(folder, 1) as valkeys:
        made = Site(tmp_path, topic_prefix.rstrip("."), postgres, kafka, filled(database), valkeys)
        with made.open() as opened:
            yield opened


def _steps(short: str, steps: list[str]) -> list[object]:
    return [pytest.param(step, id=step, marks=[] if step == short else [pytest.mark.soak]) for step in steps]


@pytest.mark.parametrize("days", [pytest.param(-1, id="back"), pytest.param(1, id="ahead", marks=pytest.mark.soak)])
@pytest.mark.parametrize("step", _steps("materialize.freshened", [s for s in STEPS if not s.startswith("snapshot")]))
async def test_a_clock_that_jumps_at_a_step(site: Site, step: str, days: int) -> None:
    """In one process: the app's clock is an argument. What it is for is told by intervals, which go on at once."""
    clock = JumpingClock()
    with (
        items.load(site.folder, site.postgres, site.dsn, TRANSACTIONS_PER_S),
        items.Watching(site.config) as watching,
        App(load(site.config, os.environ), clock=clock) as app,
    ):
        app.start_flow()
        site.until_fresh(source_clock_ms(site.dsn), PATIENCE_S)
        failpoints.arm_with(step, lambda: clock.jump(days * DAY_MS), STEPS[step])
        try:
            if step in ONCE_A_RUN:
                site.restart_pipeline()
            until(clock.jumped.is_set)
            site.until_fresh(source_clock_ms(site.dsn) + 2_000, PATIENCE_S)
            assert await _freshness_of_an_answer(site, clock) in (("unknown",) if days < 0 else ("stale", "stopped"))
        finally:
            failpoints.arm("")
        clock.jump(0)
        site.until_fresh(source_clock_ms(site.dsn) + 2_000, PATIENCE_S)
        assert await _freshness_of_an_answer(site, clock) == "fresh"
    with headgate(site.folder, "sync"):
        await items.assert_equal(site.config, site.dsn, PATIENCE_S)
    assert watching.failures == []
    assert watching.reads > 20


async def _freshness_of_an_answer(site: Site, clock: JumpingClock) -> str:
    """What a process that serves says of its rows by this clock."""
    reader, app = reader_of(site.config)
    try:
        view = view_of(reader, state=app.state, pipelines=app.pipelines(), clock=clock)
        return (await view.freshness([await reader.watermark("item")])).state
    finally:
        await reader.close()
        app.close()


@pytest.mark.parametrize("step", _steps("materialize.before_step", [s for s in EMBEDDED if "snapshot" not in s]))
async def test_a_full_disk_at_a_step(tmp_path: Path, step: str) -> None:
    """On the embedded default, whose log and store are files: no file of the process may grow, nor most be written."""
    path = tmp_path / "source.db"
    config = write_config(
        tmp_path,
        f"data: data\nserver: {{port: 0}}\naccess: {{local: true}}\n"
        f"pipelines:\n  full:\n    source: {{kind: sqlite, path: '{path}'}}\n",
    )
    tables = SqliteTables(path)
    run_workload(tables, random.Random(1), 1_500)
    with headgate(tmp_path, "run") as process:
        until(lambda: ready(process.url()))
        await assert_tables_equal(config, tables, wall_clock_ms())
        assert process.stop() == 0
        process.start(f"{step}=stop@{STEPS[step]}")
        with _Writing(path):
            until(lambda: is_frozen(process))
            assert fired(process, step, "stop")
            limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (process.output.stat().st_size + 65_536, limits[1]))
            os.kill(process.pid, signal.SIGCONT)
            until(lambda: "stands still" in process.text().rpartition("failpoint")[2])
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        await assert_tables_equal(config, tables, wall_clock_ms())
    tables.close()


class _Writing:
    """The owner changes a row again and again, for the length of a block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        while not self._stop.wait(0.02):
            connection.execute("update things set note = hex(randomblob(500)) where id = (select min(id) from things)")
        connection.close()
