"""What running processes say of a pipeline, and what anyone may read of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from headgate.model.change import Sequence

PipelineState = Literal["snapshotting", "running", "paused", "error", "stopped"]
Half = Literal["capture", "materialize"]
OnError = Literal["dead_letter", "stop"]
"""What an entity does with a change that can't be applied: keep it aside and go on, or stand still before it."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why half of a pipeline stands still: a stable code and a sentence with the mend."""

    code: str
    message: str
    since_ms: int
    entity: str = ""
    """The one entity that stands still, where the others go on."""
    letter: str = ""
    """The id of the change before which it stands still."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One process's word on its half of a pipeline, renewed each second; it vanishes soon after the process."""

    pipeline: str
    half: Half
    process: str
    state: PipelineState
    time_ms: int
    events_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag_records: int | None = None
    lag_ms: int | None = None
    last_event_ms: int | None = None
    batch_size: int = 0
    flush_interval_ms: float = 0.0
    snapshot_done: int = 0
    snapshot_total: int | None = None
    fault: Fault | None = None
    """Why this half stands still as a whole."""
    tables: tuple[Fault, ...] = ()
    """Why single tables or entities stand still while the others go on; each message names its own."""
    partitions: int | None = None
    """How many partitions of the log are this process's, of those that feed the pipeline; capture has none."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A change that could not be applied, kept whole with its reason."""

    pipeline: str
    entity: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    code: str
    message: str
    time_ms: int
    """When it was first not applied."""
    row: str | None = None
    """The key text of the row that it flawed; None where its key can't be read."""
    generation: int = 0
    epoch: int = 0
    high_water: Sequence | None = None
    """Where its partition stood when it came: what a retry is judged by, so that a row never goes back."""
    tried_ms: int = 0
    """When it was last tried again; 0 if never."""

    @property
    def id(self) -> str:
        """`entity/topic/partition/offset`: a change that fails again replaces its own letter."""
        return f"{lane_of_letters(self.entity, self.topic, self.partition)}{self.offset}"


def lane_of_letters(entity: str, topic: str, partition: int) -> str:
    """What the ids of one entity's dead letters from one partition begin with; the offset follows."""
    return f"{entity}/{topic}/{partition}/"


class PipelineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the config says of a pipeline, for whoever lists it; no secret in it."""

    name: str
    source_kind: str
    source: str
    """Where it reads, without credentials."""
    log_kind: str
    store_kind: str
    tables: tuple[str, ...]
    entities: tuple[str, ...]
    bound_ms: int = 30_000
    captured: bool = True
    """False where others fill the topics."""
    connector: str = ""
    """The pipeline that the connector which fills the topics is listed as, where the config names it."""


REPORTS = "report/"
"""Where reports live in `state`: `report/<pipeline>/<half>/<process>`, with a time to live of twenty seconds."""

REPORT_TTL_MS = 20_000
"""What a process that died has said is gone after so long; a living one repeats it at least every three seconds."""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What people want of a pipeline. Its processes look each half second, and obey."""

    paused: bool = False
    restarts: int = 0
    """Grows with each wish to start anew: each half ends its run when it sees another number."""


UNRECORDED = "unrecorded/"
"""Where `state` holds, by writer, how many calls it answered within a week that there was no room to record."""

DESIRED = "desired/"
"""Where `Desired` lives in `state`: `desired/<pipeline>`, for ever. What is not there is the default."""


class LetterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that someone wants retried or dropped."""

    action: Literal["retry", "drop"]
    asked_ms: int
    ids: tuple[str, ...] = ()
    every: bool = False
    """All that there were when it was asked, beside `ids`."""


LETTER_REQUEST_TTL_MS = 86_400_000
"""A request that no process could see for a day is forgotten."""


def dead_letter_topic(pipeline: str) -> str:
    """The topic that a pipeline's dead letters are copied to."""
    return f"headgate.dead-letters.{pipeline}"


def group_of(pipeline: str) -> str:
    """The consumer group in which the processes that materialize a pipeline share its topics' partitions."""
    return f"headgate.{pipeline}"


def letter_requests(pipeline: str) -> str:
    """What the keys of a pipeline's letter requests in `state` begin with."""
    return f"letters/{pipeline}/"


def resnapshot_requests(pipeline: str) -> str:
    """What the keys of wanted snapshots in `state` begin with; the table's name follows."""
    return f"resnapshot/{pipeline}/"


def announced_tables(pipeline: str) -> str:
    """What the keys of a pipeline's table schemas in `state` begin with; the table's name follows."""
    return f"table/{pipeline}/"


def report_key(report: Report) -> str:
    """The key of a report in `state`."""
    return f"{REPORTS}{report.pipeline}/{report.half}/{report.process}"
