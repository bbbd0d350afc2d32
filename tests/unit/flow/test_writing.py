"""Writing to the log: what a heartbeat says of a topic is of that very topic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate.errors import Unavailable
from headgate.flow.stops import Stops
from headgate.flow.writing import LogWriting
from headgate.log.base import Log
from headgate.log.sqlite import open_log
from headgate.testing import MemoryState
from tests.unit.flow.test_reports import ITEMS, Time


class Replaced:
    """A log whose topics somebody replaces the first time that their ends are asked for."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._suffix = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def identities(self, topics: Sequence[str]) -> dict[str, str]:
        return {topic: f"{identity}{self._suffix}" for topic, identity in self._log.identities(topics).items()}

    def end(self, topics: Sequence[str]) -> Any:
        self._suffix = " made anew"
        return self._log.end(topics)


def test_ends_of_a_topic_that_took_anothers_place_meanwhile_do_not_count(tmp_path: Path) -> None:
    state = MemoryState()
    with closing(open_log(tmp_path / "log.db", clock=Time())) as log:
        replaced: Any = Replaced(log)
        with closing(LogWriting("shop", "sqlite", replaced, state, Stops(state, "shop"), 1, 60_000)) as writing:
            with pytest.raises(Unavailable, match="replaced"):
                writing.learn([ITEMS])
            assert not writing.layouts
            writing.learn([ITEMS])
            assert writing.layouts["main.items"].identity.endswith("made anew")
