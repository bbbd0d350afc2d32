"""How often a process that lives long looks for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (20_000, 20, 50)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Spares Python's collector what lives as long as the process, and most of its rounds.

    Neither a call nor a batch of changes leaves cycles, so that each round would look at thousands of objects in use
    and find nothing.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
