"""Room: an outbox has a bound, says when it fills, and refuses calls or serves them as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate.audit import outbox as outbox_module
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile
from headgate.audit.publisher import Publisher
from headgate.audit.standing import diagnose, tell_unrecorded
from headgate.errors import OutboxFull
from headgate.log.base import Log
from headgate.log.sqlite import open_log
from headgate.model.pipeline import UNRECORDED
from headgate.state.sqlite import open_state
from tests.unit.audit.test_publisher import until

BOUND = 400_000
EVENT = b"x" * 2_000


def opened(folder: Path, **more: Any) -> Outbox:
    return Outbox(folder, "w-1", clock=lambda: 0, max_bytes=BOUND, **more)


async def fill(outbox: Outbox) -> int:
    """Appends until it is refused; answers how many were kept."""
    for number in range(10_000):
        try:
            await outbox.append(EVENT, str(number))
        except OutboxFull:
            return number
    raise AssertionError("it was never full")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(open_log(tmp_path / "log.db", clock=lambda: 0)) as made:
        yield made


async def test_the_bound_holds_and_calls_are_refused_until_there_is_room(tmp_path: Path, log: Log) -> None:
    with closing(opened(tmp_path / "outbox")) as outbox:
        kept = await fill(outbox)
        assert 50 < kept < BOUND / len(EVENT)
        with pytest.raises(OutboxFull) as refused:
            await outbox.append(EVENT, "one more")
        assert str(tmp_path) not in refused.value.message and outbox.fault is not None
        publisher = Publisher(log, tmp_path / "outbox", clock=lambda: 0, outbox=outbox, max_bytes=BOUND)
        publisher.start()
        await asyncio.to_thread(until, lambda: publisher.backlog() == 0)
        # What is published makes room, though it is not old.
        await asyncio.to_thread(until, lambda: outbox_room(tmp_path / "outbox") < 0.5)
        await outbox.append(EVENT, "after")
        assert outbox.recorded == kept + 1
        publisher.close()


def outbox_room(folder: Path) -> float:
    with closing(OutboxFile(folder, "w-1", max_bytes=BOUND)) as file:
        return file.room().fill


async def test_levels_are_said_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "_LOOK_EVERY_S", 0.0)
    with closing(opened(tmp_path)) as outbox:
        await fill(outbox)
    said = [record.getMessage() for record in caplog.records if "full" in record.getMessage()]
    found = [int(text.split()[3]) for text in said]
    assert len(found) == 3 and found[0] >= 50 and found[1] >= 80 and found[2] >= 95
    assert found[0] < 80 and found[1] < 95, "each is said as it is reached"


async def test_calls_are_served_where_that_is_wanted_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        closing(open_state(tmp_path / "state.db", clock=lambda: 0)) as state,
        closing(opened(tmp_path / "outbox", serves_when_full=True)) as outbox,
    ):
        while not outbox.unrecorded:
            await outbox.append(EVENT, "x")
        await outbox.append(EVENT, "y")
        assert outbox.unrecorded == 2
        with pytest.raises(OutboxFull):
            await outbox.append(EVENT, "an intent", required=True)
        telling = asyncio.create_task(tell_unrecorded(outbox, state, every_s=0.0))
        await asyncio.to_thread(until, lambda: bool(state.scan(UNRECORDED)))
        telling.cancel()
        found = diagnose(tmp_path / "outbox", BOUND, state)
    assert caplog.text.count("WITHOUT a record") == 1
    assert [(each.level, each.part) for each in found] == [("error", "record"), ("warning", "record")]
    assert found[0].message.startswith("2 calls were answered without a record")


def test_an_outbox_with_room_is_fine(tmp_path: Path) -> None:
    with closing(open_state(tmp_path / "state.db", clock=lambda: 0)) as state:
        (finding,) = diagnose(tmp_path / "outbox", BOUND, state)
    assert (finding.level, finding.message[:10]) == ("ok", "0 events o")
