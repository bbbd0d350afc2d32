"""How far snapshots are: a bar for each on a terminal, elsewhere a line every few seconds. On standard error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headgate.model.pipeline import Report
from headgate.telemetry import Clock

_LOOK_EVERY_S = 0.25
_LINE_EVERY_MS = 5_000


class Display(Protocol):
    """Shows snapshots."""

    def look(self, reports: Iterable[Report]) -> None:
        """Takes capture's newest reports, one a pipeline."""

    def close(self) -> None:
        """Takes down what is shown."""


class Lines:
    """A line when a snapshot begins, every five seconds, and when it has ended."""

    def __init__(self, say: Callable[[str], None], clock: Clock, *, only_ends: bool = False) -> None:
        self._say = say
        self._clock = clock
        self._only_ends = only_ends
        self._under_way: dict[str, _Snapshot] = {}

    def look(self, reports: Iterable[Report]) -> None:
        """See `Display`."""
        for report in reports:
            known = self._under_way.get(report.pipeline)
            if report.state == "snapshotting":
                self._note(report, known or self._begin(report.pipeline))
            elif known is not None and report.state == "running":
                del self._under_way[report.pipeline]
                seconds = (self._clock() - known.began_ms) / 1000
                self._say(f"{report.pipeline}: the snapshot is read, in {seconds:.1f} s")

    def close(self) -> None:
        """See `Display`."""

    def _begin(self, pipeline: str) -> _Snapshot:
        begun = self._under_way[pipeline] = _Snapshot(self._clock())
        return begun

    def _note(self, report: Report, known: _Snapshot) -> None:
        known.done = report.snapshot_done
        if self._only_ends or self._clock() < known.due_ms:
            return
        known.due_ms = self._clock() + _LINE_EVERY_MS
        total = report.snapshot_total
        of = "" if not total else f" of about {total:,} ({min(99, 100 * known.done // total)} %)"
        self._say(f"{report.pipeline}: reading a snapshot: {known.done:,} rows{of}")


class _Snapshot:
    """One that is under way."""

    def __init__(self, now_ms: int) -> None:
        self.began_ms = now_ms
        self.due_ms = now_ms
        self.done = 0


class Bars:
    """A bar for each snapshot that is under way; a line stays of each that has ended."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:,} rows"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._lines = Lines(lambda line: console.print(line, highlight=False), clock, only_ends=True)
        self._bars: dict[str, TaskID] = {}

    def look(self, reports: Iterable[Report]) -> None:
        """See `Display`."""
        told = list(reports)
        for report in told:
            if report.state == "snapshotting":
                self._draw(report)
            elif report.pipeline in self._bars:
                self._progress.remove_task(self._bars.pop(report.pipeline))
                self._progress.refresh()
        self._lines.look(told)
        if not self._bars:
            self._progress.stop()

    def close(self) -> None:
        """See `Display`."""
        self._progress.stop()

    def _draw(self, report: Report) -> None:
        if report.pipeline not in self._bars:
            self._progress.start()
            self._bars[report.pipeline] = self._progress.add_task(f"{report.pipeline}: snapshot", total=None)
        bar = self._bars[report.pipeline]
        self._progress.update(bar, completed=report.snapshot_done, total=report.snapshot_total)
        self._progress.refresh()


def display(console: Console, clock: Clock) -> Display:
    """Bars on a terminal, lines elsewhere."""
    if console.is_terminal:
        return Bars(console, clock)
    return Lines(lambda line: console.print(line, highlight=False, soft_wrap=True), clock)


async def show_snapshots(reports: Callable[[], Sequence[Report]], shown: Display, stop: asyncio.Event) -> None:
    """Shows what `reports` tell of snapshots until `stop`."""
    try:
        while not stop.is_set():
            shown.look(report for report in reports() if report.half == "capture")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
    finally:
        shown.close()
