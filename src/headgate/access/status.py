"""What running processes say of pipelines now, put together to one status each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import anyio.to_thread
import msgspec

from headgate.model.pipeline import DESIRED, REPORTS, Desired, Fault, Half, PipelineInfo, PipelineState, Report
from headgate.state.base import State
from headgate.telemetry import Clock, logger

_REPORTS_AGE_MS = 1_000
_PROCESS_RANK: Sequence[PipelineState] = ("error", "snapshotting", "paused", "running", "stopped")
"""Which process speaks for its half: one that stands by does not stop a half that another one runs."""
_HALF_RANK: Sequence[PipelineState] = ("error", "snapshotting", "paused", "stopped", "running")
"""Which half speaks for its pipeline: the worst."""

_log = logger("access.status")
_decode_report = msgspec.json.Decoder(Report).decode
_decode_desired = msgspec.json.Decoder(Desired).decode


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One process's part in its half of a pipeline."""

    process: str
    state: PipelineState
    partitions: int | None
    """How many of the log's partitions are its own; None for capture, which one process does alone."""
    events_per_s: float
    lag_records: int | None
    lag_ms: int | None


class HalfStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All live processes of one half of a pipeline, taken together. None: nobody has said."""

    state: PipelineState = "stopped"
    processes: int = 0
    events_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag_records: int | None = None
    lag_ms: int | None = None
    last_event_ms: int | None = None
    batch_size: int = 0
    flush_interval_ms: float = 0.0
    snapshot_done: int = 0
    snapshot_total: int | None = None
    faults: tuple[Fault, ...] = ()
    """The oldest first."""
    members: tuple[Member, ...] = ()
    """Its processes, sorted by name."""


class PipelineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the config says of a pipeline and what its running processes say now."""

    info: PipelineInfo
    state: PipelineState
    """The worse half's: error, snapshotting, paused, stopped, running. A half that nobody runs is stopped."""
    capture: HalfStatus
    """The source's side: from the source into the log."""
    materialize: HalfStatus
    """Our side: from the log into the store."""
    desired: Desired = Desired()
    """What people want of it, whether or not a process runs that could obey."""

    def stands_still(self, entity: str) -> bool:
        """Whether this entity stands still while others may go on."""
        return any(fault.entity == entity for _, fault in self.faults)

    @property
    def faults(self) -> tuple[tuple[Half, Fault], ...]:
        """The faults of both halves, capture's first."""
        return (
            *(("capture", fault) for fault in self.capture.faults),
            *(("materialize", fault) for fault in self.materialize.faults),
        )


class Live(msgspec.Struct, frozen=True):
    """What running processes say, and what is wanted of them."""

    reports: Sequence[Report] = ()
    desired: Mapping[str, Desired] = {}
    """By pipeline."""


class LiveReports:
    """The reports of running processes and what is wanted of them, asked for at most once a second."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._read_ms: int | None = None
        self._live = Live()

    async def read(self) -> Live:
        """The live reports, in the order of their keys, and wishes. Unavailable when the state does not answer."""
        now = self._clock()
        if self._read_ms is None or not 0 <= now - self._read_ms < _REPORTS_AGE_MS:
            self._live = await anyio.to_thread.run_sync(self._scan)
            self._read_ms = now
        return self._live

    def _scan(self) -> Live:
        reports = (_report(entry.value) for entry in self._state.scan(REPORTS).values())
        wishes = self._state.scan(DESIRED).items()
        return Live(
            [report for report in reports if report is not None],
            {key.removeprefix(DESIRED): _decode_desired(entry.value) for key, entry in wishes},
        )


def _report(value: bytes) -> Report | None:
    try:
        return _decode_report(value)
    except msgspec.DecodeError as error:
        _log.warning("a report of another release is passed over: %s", error)
        return None


def status_of(info: PipelineInfo, live: Live) -> PipelineStatus:
    """The status of one pipeline by what is said of it."""
    mine = [report for report in live.reports if report.pipeline == info.name]
    capture = _half([report for report in mine if report.half == "capture"])
    materialize = _half([report for report in mine if report.half == "materialize"])
    if not info.captured and not capture.processes:  # others fill the topics, and how they are doing, they say
        capture = HalfStatus(state="running")
    state = next(state for state in _HALF_RANK if state in (capture.state, materialize.state))
    desired = live.desired.get(info.name, Desired())
    return PipelineStatus(info=info, state=state, capture=capture, materialize=materialize, desired=desired)


def _half(reports: Sequence[Report]) -> HalfStatus:
    if not reports:
        return HalfStatus()
    faults = {fault for report in reports for fault in (report.fault, *report.tables) if fault is not None}
    return HalfStatus(
        state=next(state for state in _PROCESS_RANK if any(report.state == state for report in reports)),
        processes=len(reports),
        events_per_s=round(sum(report.events_per_s for report in reports), 1),
        bytes_per_s=round(sum(report.bytes_per_s for report in reports), 1),
        lag_records=_sum(report.lag_records for report in reports),
        lag_ms=_max(report.lag_ms for report in reports),
        last_event_ms=_max(report.last_event_ms for report in reports),
        batch_size=max(report.batch_size for report in reports),
        flush_interval_ms=max(report.flush_interval_ms for report in reports),
        snapshot_done=sum(report.snapshot_done for report in reports),
        snapshot_total=_sum(report.snapshot_total for report in reports),
        faults=tuple(sorted(faults, key=lambda fault: (fault.since_ms, fault.code, fault.message))),
        members=tuple(sorted(map(_member, reports), key=lambda member: member.process)),
    )


def _member(report: Report) -> Member:
    return Member(
        process=report.process,
        state=report.state,
        partitions=report.partitions,
        events_per_s=report.events_per_s,
        lag_records=report.lag_records,
        lag_ms=report.lag_ms,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _max(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def snapshot_progress(status: PipelineStatus) -> tuple[int, int | None]:
    """Capture counts the rows of a snapshot; a process that only materializes may know of none."""
    half = status.capture if status.capture.snapshot_done else status.materialize
    return half.snapshot_done, half.snapshot_total
