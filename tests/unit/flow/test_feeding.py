"""Beats of topics that others fill, on a real log."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from headgate.flow.feeding import FeedBeats
from headgate.log.base import Record, Topic
from headgate.log.sqlite import open_log
from headgate.sources.base import Pulse
from headgate.telemetry import wall_clock_ms

_DEADLINE_S = 60.0
_pause = threading.Event()
"""Never set."""


def test_beats_are_heard_although_their_topic_is_made_later(tmp_path: Path) -> None:
    """Headgate may be started before the connector has sent its first."""
    with closing(open_log(tmp_path / "log", clock=wall_clock_ms)) as log:
        log.ensure([Topic(name="rows")])
        pulse = Pulse(topic="beats", time_of=lambda key, value: int(value or b"0"))
        with closing(FeedBeats(log, ["rows"], pulse, wall_clock_ms, "shop")) as beats:
            assert _times(beats, at_least=0) == {0}, "what the topics are is told all the same"
            log.ensure([Topic(name="beats")])
            appender = log.appender()
            appender.append("beats", Record(b"k", b"1795243140337"))
            appender.checkpoint(1)
            assert appender.acknowledged(_DEADLINE_S) == 1
            appender.close()
            assert 1795243140337 in _times(beats, at_least=1)


def _times(beats: FeedBeats, at_least: int) -> set[int]:
    """The times of the beats, once one is so late."""
    found: set[int] = set()
    deadline = time.monotonic() + _DEADLINE_S
    while max(found, default=-1) < at_least:
        assert time.monotonic() < deadline
        found |= {beat.time_ms for beat in beats.take()}
        _pause.wait(0.05)
    return found
