"""When lanes tell that rows are others, or that they are fresh: after a claim, a step that readers see, and a switch.

On a real store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.flow.heartbeat import Heartbeat, Heartbeats
from headgate.flow.lanes import Lanes, with_freshness
from headgate.flow.touching import Touching
from headgate.log.sqlite import open_log
from headgate.model.change import Sequence
from headgate.model.entity import Entity, Field
from headgate.model.position import Partition
from headgate.stores.base import Write
from headgate.stores.sqlite import open_writer
from headgate.subscriptions.base import Touched
from headgate.telemetry import wall_clock_ms

TOPIC = "shop.main.customers"
CUSTOMER = Entity(
    name="customer", pipeline="shop", table="main.customers", key=("id",),
    fields=(Field(name="id", type="integer", nullable=False),),
)  # fmt: skip
ALL = {"customer": None}


class Bench:
    """Lanes over an embedded store, and what they tell."""

    def __init__(self, folder: Path) -> None:
        self.said: list[Mapping[str, Collection[str] | None]] = []
        self.writer = open_writer(folder / "store.db", [CUSTOMER])
        self.log = open_log(folder / "log.db", clock=wall_clock_ms)
        self.writer.define([CUSTOMER])
        self.lanes = self.join()

    def join(self) -> Lanes:
        """A process that takes the one partition over."""
        lanes = Lanes(
            [CUSTOMER], self.writer, self.log, topic_of=lambda _: TOPIC, lost=lambda _: None, distrust=False,
            touching=Touching(self.tell),
        )  # fmt: skip
        lanes.assign(frozenset({Partition(TOPIC, 0)}))
        return lanes

    def tell(self, touched: Touched) -> None:
        self.said.append({name: None if keys is None else set(keys) for name, keys in touched.items()})

    def step(self, *puts: str, **progress: Any) -> None:
        """One step of the partition."""
        [lane] = self.lanes.all()
        after = msgspec.structs.replace(lane.progress, **({"offset": lane.progress.offset + 1} | progress))
        rows = {key: b'{"id":%s}' % key.encode() for key in puts}
        write = Write(entity="customer", partition=0, expected=lane.progress, progress=after, puts=rows)
        self.writer.apply([write])
        self.lanes.applied([write])
        self.lanes.show_whole()

    def take(self) -> list[Mapping[str, Collection[str] | None]]:
        """What was told since it was asked last."""
        said, self.said = self.said, []
        return said


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with closing(bench.writer), closing(bench.log):
        yield bench


def test_rows_that_readers_do_not_see_yet_are_told_with_the_switch(bench: Bench) -> None:
    assert bench.take() == [ALL]  # claimed
    bench.step("1", "2", generation=7)
    assert bench.take() == []
    bench.step("3", generation=7, ended=True, complete=True)
    assert bench.take() == [ALL]
    bench.step("4")
    assert bench.take() == [{"customer": {"4"}}]


def test_a_new_snapshot_beside_the_visible_one_is_told_once_it_is_switched_to(bench: Bench) -> None:
    bench.step("1", generation=7, ended=True, complete=True)
    bench.step(generation=8, ended=False, complete=False)
    bench.take()
    bench.step("2")
    assert bench.take() == []
    bench.step("3", ended=True, complete=True)
    assert bench.take() == [ALL]


def test_a_new_snapshot_that_comes_in_one_step_is_as_fresh_as_it_was_until_readers_see_it(bench: Bench) -> None:
    bench.step("1", generation=7, ended=True, complete=True, log="first")
    [lane] = bench.lanes.all()
    beats = Heartbeats()
    beats.add(Heartbeat(head=Sequence(1, 0), time_ms=5, ends={TOPIC: {0: 9}}, logs={TOPIC: "second"}))
    whole = {"generation": 8, "log": "second", "offset": 9}
    assert with_freshness(lane, msgspec.structs.replace(lane.progress, **whole), beats).as_of_ms == 0
    bench.step("2", **whole)
    assert with_freshness(lane, lane.progress, beats).as_of_ms == 5


def test_whoever_takes_over_tells_of_everything(bench: Bench) -> None:
    bench.step("1", generation=7, ended=True, complete=True)
    bench.take()
    bench.lanes = bench.join()
    assert bench.take() == [ALL]
    bench.step("2")
    assert bench.take() == [{"customer": {"2"}}]


def test_a_truncate_is_told_and_a_moved_position_is_not(bench: Bench) -> None:
    bench.step("1", generation=7, ended=True, complete=True)
    bench.take()
    bench.step()
    assert bench.take() == []
    bench.step(epoch=1)
    assert bench.take() == [ALL]
