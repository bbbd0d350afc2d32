"""The fault matrix: each fault at each numbered step of capture and materialize. See docs/reliability.md.

A process runs to the step, where it is killed or freezes. While it is frozen the fault happens; then it goes on. All
the while pgbench changes the source, and a reader checks that no key goes back in time. In the end the store holds
what the source holds, each row once, and each lookup finds what the source's own rows say.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headgate.stack import Kafka, Postgres
from tests.services import throwaway_folder
from tests.ways.deployment import Process, reader_of, until, until_async
from tests.ways.faults import items
from tests.ways.faults.site import PATIENCE_S, Site, caches, filled, fired, is_frozen
from tests.ways.pgbench import Load, source_clock_ms

TRANSACTIONS_PER_S = 150
ASLEEP_MS = 30_000
CUTS = 5
"""How often the connections to Kafka are cut once the process goes on."""
STEPS = {
    "capture.learned": 1,
    "capture.read": 5,
    "snapshot.begin": 1,
    "snapshot.end": 1,
    "capture.appended": 5,
    "capture.acknowledged": 5,
    "capture.confirmed": 5,
    "capture.beaten": 2,
    "materialize.claimed": 1,
    "materialize.polled": 5,
    "materialize.folded": 5,
    "materialize.before_step": 5,
    "materialize.sent": 5,
    "materialize.stepped": 5,
    "materialize.switched": 1,
    "materialize.committed": 5,
    "materialize.freshened": 2,
}
"""Each numbered step, and the how manieth time it is reached the fault happens."""
LATE = ("materialize.polled", "materialize.folded", "materialize.before_step")
"""Where a process that slept through its own replacement goes on with a write, which the store must refuse."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong while a process is frozen at a step."""

    happen: Callable[[Site, Process], None]
    before: Callable[[Site], None] = lambda site: None
    """What is arranged a while earlier."""
    after: Callable[[Site, Process], None] = lambda site, process: None
    """What the operator does once the process goes on."""
    loses_writes: bool = False
    """Whether the store comes back with an older position."""


def _sleep_through_a_takeover(site: Site, sleeper: Process) -> None:
    """Another process takes everything over, and is as fresh as now."""
    site.sync()
    site.end_sessions()  # or else PostgreSQL waits for the sleeper for a minute before it lets the slot go
    _wait_until_fresh(site)


def _sleep_alone(site: Site, sleeper: Process) -> None:
    """Nobody is there to take over. Kafka misses the sleeper after ten seconds."""
    awake_ms = source_clock_ms(site.dsn) + ASLEEP_MS
    until(lambda: source_clock_ms(site.dsn) >= awake_ms)


def _mend_a_dropped_slot(site: Site, process: Process) -> None:
    until(lambda: "slot" in _said_after(process, "failpoint"))
    site.resnapshot()


def _lift_once_refused(site: Site, process: Process) -> None:
    until(lambda: "materialize stands still" in _said_after(process, "failpoint"))
    site.fill_store(0)


FAULTS = {
    "zombie": Fault(_sleep_through_a_takeover),
    "asleep": Fault(_sleep_alone),
    "cut": Fault(lambda site, _: site.cut()),
    "log_cut": Fault(lambda site, _: site.cut_log(), after=lambda site, _: site.cut_log_again(CUTS)),
    "failover": Fault(lambda site, _: site.promote(), before=Site.replicate, loses_writes=True),
    "older_copy": Fault(lambda site, _: site.restart_store(), before=Site.save, loses_writes=True),
    "emptied": Fault(lambda site, _: site.restart_store()),
    "kafka": Fault(lambda site, _: site.restart_kafka()),
    "topic": Fault(lambda site, _: site.recreate_topic()),
    "slot": Fault(lambda site, _: site.drop_slot(), after=_mend_a_dropped_slot),
    "store_full": Fault(lambda site, _: site.fill_store(1), after=_lift_once_refused),
}
IN_MAKE_TEST = {
    "zombie": "materialize.before_step",
    "cut": "materialize.sent",
    "log_cut": "capture.appended",
    "failover": "materialize.committed",
    "older_copy": "materialize.stepped",
    "emptied": "materialize.folded",
    "kafka": "capture.appended",
    "topic": "capture.read",
    "slot": "capture.acknowledged",
    "store_full": "materialize.polled",
}
"""To sleep alone takes its time: there is its other half, `zombie`."""


CASES = [
    pytest.param(fault, step, id=f"{fault}-{step}", marks=[] if step == IN_MAKE_TEST.get(fault) else [pytest.mark.soak])
    for fault in FAULTS
    for step in STEPS
]


@pytest.fixture
def site(tmp_path: Path, postgres: Postgres, kafka: Kafka, database: str, topic_prefix: str) -> Iterator[Site]:
    pipeline = topic_prefix.rstrip(".")
    with (
        throwaway_folder() as folder,
        caches(folder, 2) as valkeys,
        Site(tmp_path, pipeline, postgres, kafka, filled(database), valkeys).open() as opened,
    ):
        yield opened


@pytest.mark.parametrize("step", [
    pytest.param(step, id=step, marks=[] if step == "materialize.sent" else [pytest.mark.soak]) for step in STEPS
])  # fmt: skip
async def test_kill_9_at_a_step(site: Site, step: str) -> None:
    with _loaded(site), items.Watching(site.config) as watching:
        process = await _running(site, items.ROWS)
        _restart_armed(site, process, step, "kill")
        assert process.ended() == -signal.SIGKILL
        assert fired(process, step, "kill")
        process.start()
        _wait_until_fresh(site)
    await items.assert_equal(site.config, site.dsn, PATIENCE_S)
    _assert_watched(watching)


@pytest.mark.parametrize(("fault", "step"), CASES)
async def test_a_fault_at_a_step(site: Site, fault: str, step: str) -> None:
    chosen = FAULTS[fault]
    with _loaded(site), items.Watching(site.config, writes_may_be_lost=chosen.loses_writes) as watching:
        process = await _running(site, items.ROWS)
        chosen.before(site)
        _wait_until_fresh(site, source_clock_ms(site.dsn) + 1_000)
        _restart_armed(site, process, step, "stop")
        until(lambda: is_frozen(process))
        assert fired(process, step, "stop")
        chosen.happen(site, process)
        os.kill(process.pid, signal.SIGCONT)
        chosen.after(site, process)
        if fault == "zombie" and step in LATE:
            until(lambda: "another process has taken over" in _said_after(process, "failpoint"))
        _wait_until_fresh(site)
    await items.assert_equal(site.config, site.dsn, PATIENCE_S)
    _assert_watched(watching)


def _loaded(site: Site) -> Load:
    return items.load(site.folder, site.postgres, site.dsn, TRANSACTIONS_PER_S)


async def _running(site: Site, rows: int) -> Process:
    """A sync whose snapshot is done."""
    process = site.sync()
    reader, app = reader_of(site.config)
    try:
        await until_async(lambda: reader.watermark("item"))
    finally:
        await reader.close()
        app.close()
    return process


def _restart_armed(site: Site, process: Process, step: str, action: str) -> None:
    assert process.stop() == 0
    process.start(f"{step}={action}@{STEPS[step]}")
    if step.startswith("snapshot"):
        site.resnapshot()


def _said_after(process: Process, word: str) -> str:
    return process.text().rpartition(word)[2]


def _wait_until_fresh(site: Site, since_ms: int = 0) -> None:
    """Until the store is as of now, or of the time that is named."""
    site.until_fresh(since_ms or source_clock_ms(site.dsn), PATIENCE_S)


def _assert_watched(watching: items.Watching) -> None:
    assert watching.failures == []
    assert watching.reads > 20
