"""Refusals in aggregate: counted by reason, door and network, bounded, and never lost to a full disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from headgate.audit import outbox_file
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile
from headgate.audit.refusals import OTHER, REFUSALS_TYPE, RefusalCount, Refusals, RefusalsEvent
from headgate.errors import OutboxError


class Hand:
    now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 0)) as opened:
        yield opened


def recorded(folder: Path) -> list[RefusalsEvent]:
    with closing(OutboxFile(folder, "w-1")) as file:
        read = [JSONFormat().read(CloudEvent, event.body) for event in file.unpublished(100)]
    assert {event.get_type() for event in read} <= {REFUSALS_TYPE}
    return [msgspec.convert(event.get_data(), RefusalsEvent) for event in read]


async def test_refusals_of_an_interval_are_one_event(outbox: Outbox, tmp_path: Path) -> None:
    clock = Hand()
    refusals = Refusals(outbox, "/shop", clock=clock, random_bytes=bytes)
    for _ in range(3):
        refusals.count("expired", "http", "192.0.2.0/24")
    clock.now_ms = 4_000
    refusals.count("bad_signature", "http")
    await refusals.record()
    await refusals.record()
    (event,) = recorded(tmp_path)
    assert (event.writer, event.from_ms, event.to_ms) == ("w-1", 1_000, 4_000)
    assert event.counts == (
        RefusalCount(reason="bad_signature", door="http", network="", count=1),
        RefusalCount(reason="expired", door="http", network="192.0.2.0/24", count=3),
    )


async def test_the_memory_is_bounded_and_the_count_is_not(outbox: Outbox, tmp_path: Path) -> None:
    refusals = Refusals(outbox, "/shop", clock=Hand())
    for number in range(5_000):
        refusals.count("missing", "http", f"10.{number // 256}.{number % 256}.0/24")
    await refusals.record()
    (event,) = recorded(tmp_path)
    assert len(event.counts) == 1_001
    assert sum(count.count for count in event.counts) == 5_000
    assert {count.network: count.count for count in event.counts}[OTHER] == 4_000


async def test_each_interval_has_an_event_and_the_end_has_one_too(outbox: Outbox, tmp_path: Path) -> None:
    refusals = Refusals(outbox, "/shop", clock=Hand(), interval_s=0.01)
    running = asyncio.create_task(refusals.run())
    refusals.count("missing", "http")
    assert await asyncio.to_thread(outbox.committed.wait, 30)
    refusals.count("expired", "http")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [count.reason for event in recorded(tmp_path) for count in event.counts] == ["missing", "expired"]


async def test_counts_that_could_not_be_written_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 0)) as outbox:
        refusals = Refusals(outbox, "/shop", clock=Hand())
        refusals.count("missing", "http")
        with monkeypatch.context() as full:
            full.setattr(outbox_file, "RESERVE", 1 << 60)
            with pytest.raises(OutboxError):
                await refusals.record()
        refusals.count("missing", "http")
        await refusals.record()
    (event,) = recorded(tmp_path)
    assert [count.count for count in event.counts] == [2]
