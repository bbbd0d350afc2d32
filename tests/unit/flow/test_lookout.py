"""What is asked beside the work: newest answers, errors passed on, and no waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count

import pytest

from headgate.errors import Unavailable
from headgate.flow.lookout import Lookout

DEADLINE_S = 30.0
OFTEN_S, SELDOM_S = 0.001, 3_600.0
_moment = threading.Event()
"""Never set."""


def until(take: Callable[[], int | None]) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while (found := take()) is None:
        assert time.monotonic() < deadline
        _moment.wait(0.005)
    return found


def test_each_answer_is_newer_and_none_comes_twice() -> None:
    with closing(Lookout(count(1).__next__, OFTEN_S, "test")) as lookout:
        answers = [until(lookout.take) for _ in range(5)]
    assert answers == sorted(set(answers))


def test_an_answer_is_taken_once() -> None:
    with closing(Lookout(lambda: 7, SELDOM_S, "test")) as lookout:
        assert until(lookout.take) == 7
        assert lookout.take() is None


def test_who_takes_does_not_wait_for_a_question_that_is_under_way() -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def ask() -> int:
        asked.set()
        assert may_answer.wait(DEADLINE_S)
        return 1

    lookout = Lookout(ask, SELDOM_S, "test")
    assert asked.wait(DEADLINE_S)
    assert lookout.take() is None
    may_answer.set()
    assert until(lookout.take) == 1
    lookout.close()


def test_what_asking_raised_is_raised_and_it_is_asked_again() -> None:
    is_well = threading.Event()

    def ask() -> int:
        if not is_well.is_set():
            raise Unavailable("not now")
        return 1

    with closing(Lookout(ask, OFTEN_S, "test")) as lookout:
        with pytest.raises(Unavailable):
            until(lookout.take)
        is_well.set()
        assert until(lambda: taken_if_any(lookout)) == 1


def taken_if_any(lookout: Lookout[int]) -> int | None:
    try:
        return lookout.take()
    except Unavailable:  # from before it was well
        return None


def test_nothing_is_asked_after_the_end() -> None:
    numbers = count(1)
    lookout = Lookout(numbers.__next__, OFTEN_S, "test")
    until(lookout.take)
    lookout.close()
    reached = next(numbers)
    assert lookout.take() in (None, reached - 1)
