"""`list_pipelines`, `get_pipeline_detail`, `get_pipeline_errors`: how data flows, and why it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import Field

from headgate.access.connectors import ConnectorStatus
from headgate.access.status import HalfStatus, Member, PipelineStatus
from headgate.access.view import PIPELINES, View
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter, Fault
from headgate.model.position import Freshness
from headgate.tools._answers import (
    MAX_BYTES,
    decoded,
    framed,
    freshness_answer,
    freshness_note,
    instant,
    instant_or_none,
    lines,
    span,
    truncated,
)
from headgate.tools._arguments import Arguments
from headgate.tools._connectors import connector_answer, connector_text
from headgate.tools._pipeline_schemas import DETAIL_OUTPUT, ERRORS_OUTPUT, LIST_OUTPUT
from headgate.tools.base import Result, Tool, TypedTool

MAX_ERRORS = 200

_SHOWN_KEY = 1_024

StatusFilter = Literal["running", "paused", "error", "snapshotting", "stopped", "all"]


class ListArguments(Arguments):
    """Which pipelines."""

    status_filter: StatusFilter = Field(default="all", description="Only pipelines in this status.")


class DetailArguments(Arguments):
    """Which pipeline."""

    pipeline_id: str = Field(description="The pipeline's name; list_pipelines lists them.")


class ErrorsArguments(Arguments):
    """Which pipeline, and how many of its dead letters."""

    pipeline_id: str = Field(description="The pipeline's name; list_pipelines lists them.")
    limit: int = Field(default=20, ge=1, le=MAX_ERRORS, description="How many dead letters at most.")


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The tools of this family."""
    scopes = frozenset({PIPELINES})
    return [
        TypedTool(
            name="list_pipelines",
            title="List pipelines",
            description="Lists the pipelines that feed the data, with status, source, destination, throughput and lag.",
            scopes=scopes,
            arguments=ListArguments,
            output_schema=LIST_OUTPUT,
            answer=_list,
        ),
        TypedTool(
            name="get_pipeline_detail",
            title="Show a pipeline",
            description=(
                "Says how one pipeline is doing: source, destination, the source's throughput beside ours, lag in "
                "records and ms, batch size and flush interval, last event, snapshot, faults and freshness."
            ),
            scopes=scopes,
            arguments=DetailArguments,
            output_schema=DETAIL_OUTPUT,
            answer=_detail,
        ),
        TypedTool(
            name="get_pipeline_errors",
            title="Show a pipeline's errors",
            description=(
                "Says why a pipeline stands still, and which changes could not be applied (dead letters), each with "
                "a code that docs://troubleshooting explains."
            ),
            scopes=scopes,
            arguments=ErrorsArguments,
            output_schema=ERRORS_OUTPUT,
            answer=_errors,
        ),
    ]


# --- list_pipelines -------------------------------------------------------------------------------


async def _list(view: View, given: ListArguments) -> Result:
    every = await view.pipelines()
    kept = [status for status in every if given.status_filter in ("all", status.state)]
    unrecorded = await view.unrecorded()
    structured: dict[str, Any] = {
        "status_filter": given.status_filter, "pipelines": [_summary(status) for status in kept]
    }  # fmt: skip
    said = [_summary_line(status) for status in kept] or [_none_of(given.status_filter, every)]
    if unrecorded:
        structured["unrecorded_calls"] = unrecorded
        said.append(f"WITHOUT A RECORD: {unrecorded} calls of the last week were answered while a disk was full.")
    return Result(structured=structured, text=lines(*said))


def _summary(status: PipelineStatus) -> dict[str, Any]:
    return {
        "pipeline_id": status.info.name,
        "status": status.state,
        "desired": desired_of(status),
        "source": f"{status.info.source_kind}: {status.info.source}",
        "destination": status.info.store_kind,
        "entities": sorted(status.info.entities),
        "events_per_s": status.materialize.events_per_s,
        "lag_ms": _lag_ms(status),
        "faults": [fault.code for _, fault in status.faults],
    }


def desired_of(status: PipelineStatus) -> str:
    """What was asked of a pipeline."""
    return "paused" if status.desired.paused else "running"


def _lag_ms(status: PipelineStatus) -> int | None:
    known = [lag for lag in (status.capture.lag_ms, status.materialize.lag_ms) if lag is not None]
    return max(known, default=None)


def _summary_line(status: PipelineStatus) -> str:
    lag = _lag_ms(status)
    faults = ", ".join(fault.code for _, fault in status.faults)
    return (
        f"{status.info.name}: {status.state}; {status.info.source_kind} ({status.info.source}) to "
        f"{status.info.store_kind}; {status.materialize.events_per_s:g} changes/s applied; "
        f"lag {'not known' if lag is None else span(lag)}{f'; faults: {faults}' if faults else ''}"
    )


def _none_of(wanted: str, every: Sequence[PipelineStatus]) -> str:
    if not every:
        return "There is no pipeline."
    counts = sorted(Counter(status.state for status in every).items())
    return f"No pipeline is {wanted}. There are: {', '.join(f'{count} {state}' for state, count in counts)}."


# --- get_pipeline_detail --------------------------------------------------------------------------


async def _detail(view: View, given: DetailArguments) -> Result:
    status = await view.pipeline(given.pipeline_id)
    watermarks = await view.pipeline_watermarks(given.pipeline_id)
    freshness = await view.freshness(watermarks)
    _, letters = await view.dead_letters(given.pipeline_id, 1)
    info = status.info
    structured = {
        "pipeline_id": info.name,
        "status": status.state,
        "desired": desired_of(status),
        "source": {"kind": info.source_kind, "where": info.source, "tables": sorted(info.tables)},
        "log": {"kind": info.log_kind},
        "destination": {"kind": info.store_kind, "entities": sorted(info.entities)},
        "capture": _flow(status.capture),
        "materialize": _flow(status.materialize),
        "snapshot": _snapshot(status),
        "faults": [_fault(half, fault) for half, fault in status.faults],
        "freshness": freshness_answer(freshness),
        "dead_letters": letters,
    }
    text = _detail_text(status, freshness, letters)
    if isinstance(status, ConnectorStatus):
        structured["connector"] = connector_answer(status)
        text = connector_text(status)
    return Result(structured=structured, text=text, freshness=freshness, watermarks=watermarks)


def _flow(half: HalfStatus) -> dict[str, Any]:
    return {
        "status": half.state,
        "processes": half.processes,
        "members": [_member(member) for member in half.members],
        "events_per_s": half.events_per_s,
        "bytes_per_s": half.bytes_per_s,
        "lag_records": half.lag_records,
        "lag_ms": half.lag_ms,
        "batch_size": half.batch_size,
        "flush_interval_ms": half.flush_interval_ms,
        "last_event": instant_or_none(half.last_event_ms),
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "process": member.process,
        "status": member.state,
        "partitions": member.partitions,
        "events_per_s": member.events_per_s,
        "lag_records": member.lag_records,
        "lag_ms": member.lag_ms,
    }


def _snapshot(status: PipelineStatus) -> dict[str, Any] | None:
    for half in (status.capture, status.materialize):
        if half.state == "snapshotting" or half.snapshot_done:
            return {"rows_done": half.snapshot_done, "rows_total": half.snapshot_total}
    return None


def _detail_text(status: PipelineStatus, freshness: Freshness, letters: int) -> str:
    info = status.info
    return lines(
        freshness_note(freshness),
        f"{info.name} is {status.state}: {info.source_kind} ({info.source}) through {info.log_kind} "
        f"to {info.store_kind}.",
        "It is asked to be paused: resume_pipeline lets it go on." if status.desired.paused else "",
        _flow_line("capture (source to log)", status.capture),
        _flow_line("materialize (log to store)", status.materialize),
        *_shares(status.materialize),
        _snapshot_line(status),
        *(_fault_line(half, fault) for half, fault in status.faults),
        f"Dead letters: {letters}; get_pipeline_errors shows them." if letters else "",
    )


def _flow_line(name: str, half: HalfStatus) -> str:
    if not half.processes:
        return f"{name}: no process runs it."
    records = "not known" if half.lag_records is None else f"{half.lag_records} records"
    behind = "" if half.lag_ms is None else f", {span(half.lag_ms)}"
    last = "none yet" if half.last_event_ms is None else instant(half.last_event_ms)
    return (
        f"{name}: {half.state}, {half.events_per_s:g} events/s, {half.bytes_per_s:g} bytes/s, lag {records}{behind}, "
        f"batches of {half.batch_size} every {half.flush_interval_ms:g} ms, last event {last}."
    )


def _shares(half: HalfStatus) -> list[str]:
    """A line for each of several processes that share the partitions."""
    if half.processes < 2:
        return []
    return [
        f"  {member.process}: {member.state}, {member.partitions or 0} partitions, {member.events_per_s:g} events/s"
        for member in half.members
    ]


def _snapshot_line(status: PipelineStatus) -> str:
    snapshot = _snapshot(status)
    if snapshot is None:
        return ""
    total = "" if snapshot["rows_total"] is None else f" of about {snapshot['rows_total']}"
    return f"Snapshot under way: {snapshot['rows_done']}{total} rows read."


# --- get_pipeline_errors --------------------------------------------------------------------------


async def _errors(view: View, given: ErrorsArguments) -> Result:
    status = await view.pipeline(given.pipeline_id)
    found, total = await view.dead_letters(given.pipeline_id, given.limit)
    letters = _bounded([_letter(letter) for letter in found])
    structured: dict[str, Any] = {
        "pipeline_id": given.pipeline_id,
        "status": status.state,
        "faults": [_fault(half, fault) for half, fault in status.faults],
        "dead_letters": letters,
        "dead_letters_total": total,
    }
    if len(letters) < total:
        structured["truncated"] = truncated("bytes" if len(letters) < len(found) else "rows", len(letters))
    return Result(structured=structured, text=_errors_text(status, letters, total))


def _bounded(letters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    left, kept = MAX_BYTES, []
    for letter in letters:
        left -= len(msgspec.json.encode(letter))
        if left < 0:
            break
        kept.append(letter)
    return kept


def _fault(half: str, fault: Fault) -> dict[str, Any]:
    said = {"half": half, "code": fault.code, "message": fault.message, "since": instant(fault.since_ms)}
    if fault.entity:
        said["entity"] = fault.entity
    if fault.letter:
        said["dead_letter"] = fault.letter
    return said


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "entity": letter.entity,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": _key(letter.key),
        "code": letter.code,
        "message": letter.message,
        "time": instant(letter.time_ms),
        "tried_again": instant_or_none(letter.tried_ms or None),
    }


def _key(key: bytes | None) -> Any:
    """The key as JSON; a key that is none as text, for it may be the very thing that did not fit."""
    if key is None:
        return None
    try:
        return decoded(key)
    except ValueError:
        return key[:_SHOWN_KEY].decode("utf-8", "replace")


def _errors_text(status: PipelineStatus, letters: Sequence[Mapping[str, Any]], total: int) -> str:
    faults = [_fault_line(half, fault) for half, fault in status.faults]
    if not faults and not total:
        return f"{status.info.name} is {status.state} and has no errors."
    count = f"{total} dead letter{'' if total == 1 else 's'}"
    return lines(
        f"{status.info.name} is {status.state}.",
        *faults,
        f"{count}: changes that could not be applied; the newest {len(letters)} follow." if total else "",
        framed(letters) if letters else "",
        "docs://troubleshooting explains each code.",
    )


def _fault_line(half: str, fault: Fault) -> str:
    return f"{half} stands still since {instant(fault.since_ms)} ({fault.code}): {fault.message}"
