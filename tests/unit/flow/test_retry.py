"""Between two tries there is time for what processes do seldom."""

from __future__ import annotations

import gc
import random
import threading
import weakref

from headgate.flow.retry import Backoff


class _Run:
    """What refers to itself, as a reader and its callbacks do."""

    def __init__(self) -> None:
        self.itself = self


def test_a_failed_run_leaves_nothing_behind() -> None:
    gc.disable()
    try:
        left = weakref.ref(_Run())
        assert left() is not None
        Backoff(random.Random(1), first_s=0.001).wait(threading.Event())
        assert left() is None
    finally:
        gc.enable()


def test_nothing_holds_up_an_end() -> None:
    stop = threading.Event()
    stop.set()
    Backoff(random.Random(1), first_s=3_600.0, most_s=3_600.0).wait(stop)
