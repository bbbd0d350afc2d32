"""How one half of a pipeline obeys what is wanted of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.access.control import Control
from headgate.errors import Unavailable
from headgate.flow.desired import Wishes
from headgate.flow.status import Reporter
from headgate.model.pipeline import DESIRED
from headgate.state.base import Entry, State
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from headgate.testing import MemoryState

DEADLINE_S = 60.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path / "state.db", clock=wall_clock_ms)
    yield opened
    opened.close()


@pytest.fixture
def control(state: State) -> Control:
    return Control(state, "shop", wall_clock_ms)


def test_a_run_ends_when_it_is_to_pause_and_the_half_waits_until_it_is_to_go_on(state: State, control: Control) -> None:
    wishes, stop = Wishes(state, "shop"), threading.Event()
    ending = wishes.run(stop)
    assert not ending.wait(0.0)
    control.pause()
    assert ending.wait(DEADLINE_S)
    reporter = Reporter(state, "shop", "capture", "here", wall_clock_ms)
    standing = threading.Thread(target=wishes.stand_by, args=(reporter, stop))
    standing.start()
    _until(lambda: reporter.latest.state == "paused")
    assert standing.is_alive()
    control.resume()
    standing.join(DEADLINE_S)
    assert not standing.is_alive()
    assert not wishes.run(stop).is_set()


def test_a_paused_half_ends_with_its_process(state: State, control: Control) -> None:
    control.pause()
    stop = threading.Event()
    stop.set()
    Wishes(state, "shop").stand_by(Reporter(state, "shop", "capture", "here", wall_clock_ms), stop)


def test_each_restart_ends_the_run_of_each_half_once(state: State, control: Control) -> None:
    stop = threading.Event()
    halves = [Wishes(state, "shop"), Wishes(state, "shop")]
    runs = [half.run(stop) for half in halves]
    control.restart()
    assert all(run.wait(DEADLINE_S) for run in runs)
    assert not any(half.run(stop).wait(0.0) for half in halves)


def test_the_end_of_the_process_ends_every_run(state: State) -> None:
    stop = threading.Event()
    ending = Wishes(state, "shop").run(stop)
    stop.set()
    assert ending.is_set() and ending.wait()


def test_a_state_that_came_back_empty_is_told_again_what_is_wanted(state: State, control: Control) -> None:
    control.pause()
    wishes = Wishes(state, "shop")
    assert wishes.now().paused
    state.delete(DESIRED + "shop")
    _until(lambda: wishes.now().paused and state.get(DESIRED + "shop") is not None)
    assert control.desired().paused


class Silent(MemoryState):
    """Answers until it is told not to."""

    is_silent = False

    def get(self, key: str) -> Entry | None:
        if self.is_silent:
            raise Unavailable("the state does not answer")
        return super().get(key)


def test_a_state_that_does_not_answer_changes_nothing() -> None:
    state = Silent()
    Control(state, "shop", wall_clock_ms).pause()
    wishes = Wishes(state, "shop")
    assert wishes.now().paused
    state.is_silent = True
    ending = wishes.run(threading.Event())
    assert not ending.wait(1.2)
    assert wishes.now().paused


_moment = threading.Event()
"""Never set."""


def _until(ask: object) -> None:
    assert callable(ask)
    deadline = time.monotonic() + DEADLINE_S
    while not ask():
        assert time.monotonic() < deadline
        _moment.wait(0.02)
