"""What is said of snapshots, on a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io

from rich.console import Console

from headgate.cli.progress import Bars, Lines, display, show_snapshots
from headgate.model.pipeline import PipelineState, Report


class Clock:
    """Stands still until it is told otherwise."""

    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def report(state: PipelineState, done: int = 0, total: int | None = None, pipeline: str = "shop") -> Report:
    return Report(
        pipeline=pipeline, half="capture", process="p", state=state, time_ms=0, snapshot_done=done, snapshot_total=total
    )


def test_lines_tell_the_beginning_then_every_five_seconds_then_the_end() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock)
    lines.look([report("running")])
    for done, seconds in ((1_000, 0), (2_000, 2), (3_000, 2), (9_000, 2)):
        clock.now_ms += seconds * 1_000
        lines.look([report("snapshotting", done, 8_000)])
    clock.now_ms += 500
    lines.look([report("running")])
    lines.look([report("running")])
    assert said == [
        "shop: reading a snapshot: 1,000 rows of about 8,000 (12 %)",
        "shop: reading a snapshot: 9,000 rows of about 8,000 (99 %)",
        "shop: the snapshot is read, in 6.5 s",
    ]


def test_a_total_that_nobody_knows_is_left_out() -> None:
    said = list[str]()
    Lines(said.append, Clock()).look([report("snapshotting", 10)])
    assert said == ["shop: reading a snapshot: 10 rows"]


def test_pipelines_are_told_apart_and_a_fault_ends_nothing() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock)
    lines.look([report("snapshotting", 10), report("snapshotting", 20, pipeline="other")])
    lines.look([report("error"), report("running", pipeline="other")])
    lines.look([report("snapshotting", 30)])
    lines.look([report("running")])
    assert said[2:] == [
        "other: the snapshot is read, in 0.0 s",
        "shop: the snapshot is read, in 0.0 s",
    ]


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    bars = display(console, Clock())
    assert isinstance(bars, Bars)
    bars.look([report("snapshotting", 2_500, 10_000)])
    assert "shop: snapshot" in output.getvalue()
    assert "25%" in output.getvalue()
    assert "2,500 rows" in output.getvalue()
    bars.look([report("running")])
    bars.close()
    assert "shop: the snapshot is read, in 0.0 s" in output.getvalue()


def test_what_is_no_terminal_gets_lines() -> None:
    output = io.StringIO()
    shown = display(Console(file=output), Clock())
    shown.look([report("snapshotting", 5)])
    assert output.getvalue() == "shop: reading a snapshot: 5 rows\n"


def test_materialize_is_not_looked_at_and_stop_ends_it() -> None:
    said = list[str]()
    both = [
        report("snapshotting", 5),
        Report(pipeline="shop", half="materialize", process="p", state="running", time_ms=0),
    ]

    async def shows() -> None:
        stop = asyncio.Event()

        def say(line: str) -> None:
            said.append(line)
            stop.set()

        await asyncio.wait_for(show_snapshots(lambda: both, Lines(say, Clock()), stop), 60)

    asyncio.run(shows())
    assert said == ["shop: reading a snapshot: 5 rows"]
