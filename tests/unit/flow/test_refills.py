"""Which generation the rows of a topic that others fill belong to: one for all processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.errors import Unavailable
from headgate.flow.refills import Refills
from headgate.flow.stops import want_resnapshot
from headgate.state.base import State
from headgate.state.sqlite import open_state


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(tmp_path / "state.db", clock=lambda: 1)
    yield opened
    opened.close()


def test_all_partitions_come_to_one_generation_whoever_reads_them(state: State) -> None:
    one, other = Refills(state, "shop"), Refills(state, "shop")
    assert one.generation("t", "A", 0, 2) == other.generation("t", "A", 0, 2) == 1
    assert one.generation("t", "A", 1, 2) == 1
    assert other.generation("else", "A", 0, 2) == 1


def test_another_topic_under_the_name_begins_a_newer_one_once(state: State) -> None:
    refills = Refills(state, "shop")
    refills.generation("t", "A", 0, 2)
    assert refills.generation("t", "B", 1, 2) == 2
    assert refills.generation("t", "B", 1, 2) == 2
    assert refills.generation("t", "B", 2, 2) == 2
    assert refills.is_outdone("t", 1) and not refills.is_outdone("t", 2)


def test_a_lost_position_begins_a_newer_one_and_a_second_loss_of_the_same_does_not(state: State) -> None:
    refills = Refills(state, "shop")
    refills.generation("t", "A", 0, 2)
    assert refills.begin("t", "A", 1, 2) == 2
    assert refills.begin("t", "A", 1, 2) == 2
    assert refills.begin("t", "A", 2, 2) == 3


def test_a_wish_begins_a_newer_one_and_is_then_done(state: State) -> None:
    refills = Refills(state, "shop")
    refills.generation("t", "A", 0, 2)
    assert not refills.is_outdone("t", 1)
    want_resnapshot(state, "shop", "t")
    assert refills.is_outdone("t", 1)
    assert refills.generation("t", "A", 1, 2) == 2
    assert not refills.is_outdone("t", 2)


def test_a_state_that_came_back_empty_goes_on_from_what_the_store_holds(state: State) -> None:
    refills = Refills(state, "shop")
    assert refills.generation("t", "A", 5, 2) == 5
    assert refills.begin("t", "A", 5, 2) == 6


def test_more_partitions_are_known_until_the_topic_is_another_one(state: State) -> None:
    refills = Refills(state, "shop")
    assert refills.spread("t", "A") is None
    refills.generation("t", "A", 0, 2)
    with pytest.raises(Unavailable):
        refills.generation("t", "A", 1, 4)
    want_resnapshot(state, "shop", "t")
    assert refills.is_outdone("t", 1)
    assert refills.spread("t", "A") == 2, "a wish puts nothing in order"
    assert refills.spread("t", "B") is None
    assert refills.generation("t", "B", 2, 4) == 3
    assert refills.spread("t", "B") == 4
