"""Python's collector while a process lives long, and after."""

from __future__ import annotations

import gc

from headgate.collecting import collecting_rarely


def test_what_is_there_is_spared_and_the_rest_is_looked_at_rarely() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with collecting_rarely():
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] > 5_000 > before[0], "a batch's thousands of objects start no round"
        assert gc.isenabled(), "garbage is still found, only later"
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
