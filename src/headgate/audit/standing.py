"""How the record stands: what `headgate doctor` says of outboxes, and of calls that were answered without a record."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile, writers
from headgate.errors import HeadgateError
from headgate.model.finding import Finding
from headgate.model.pipeline import UNRECORDED
from headgate.state.base import State
from headgate.telemetry import logger

_CROWDED = 0.5
_TOLD_FOR_MS = 7 * 24 * 3_600_000
_log = logger("audit")


async def tell_unrecorded(outbox: Outbox, state: State, *, every_s: float = 2.0) -> None:
    """Keeps in `state` how many calls went unrecorded here, until it is cancelled."""
    told = 0
    while True:
        await asyncio.sleep(every_s)
        if outbox.unrecorded > told:
            try:
                count = outbox.unrecorded
                await asyncio.to_thread(state.put, UNRECORDED + outbox.writer, str(count).encode(), ttl_ms=_TOLD_FOR_MS)
                told = count
            except HeadgateError as error:
                _log.error("that calls go unrecorded is in this log alone: %s", error.message)


def diagnose(folder: Path, max_bytes: int, state: State) -> list[Finding]:
    """What there is to say of the outboxes in a folder, and of calls that went unrecorded. Never raises."""
    try:
        return [*_unrecorded(state), *_outboxes(folder, max_bytes)]
    except HeadgateError as error:
        return [Finding(level="error", part="record", message=error.message)]


def _unrecorded(state: State) -> list[Finding]:
    found = state.scan(UNRECORDED)
    count = sum(int(entry.value) for entry in found.values())
    if not count:
        return []
    message = f"{count} calls were answered without a record within a week, by {len(found)} process(es)"
    return [Finding(level="error", part="record", message=message, mend="give the data folder's disk room")]


def _outboxes(folder: Path, max_bytes: int) -> list[Finding]:
    waiting, fullest = 0, 0.0
    names = writers(folder)
    for writer in names:
        with closing(OutboxFile(folder, writer, max_bytes=max_bytes)) as file:
            waiting += file.backlog()
            fullest = max(fullest, file.room().fill)
    said = f"{waiting} events of {len(names)} outbox(es) wait for the log; the fullest is {fullest:.0%} full"
    if fullest < _CROWDED:
        return [Finding(level="ok", part="record", message=said)]
    mend = "see whether the log takes events, and to the disk's room; calls are refused when it is full"
    return [Finding(level="warning", part="record", message=said, mend=mend)]
