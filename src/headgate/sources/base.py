"""Sources: databases whose changes are captured.

A kind is a module with:

- `class Config(pydantic.BaseModel)`: what a pipeline's `source:` block may hold, `kind` left out;
- `open_source(config, pipeline, folder, clock) -> Source`: `folder` is the data folder;
- `decode(key, value) -> Change | None`: a log record of this kind as a change (None: passed over, as a
  tombstone); Undecodable for anything else;
- `decode_rows(values) -> RowRun | Sequence[RowChange]`, if it has one: what many records do to rows, quickly; `decode`
  is asked about those for which it says CLOSER, and about all where a kind has none;
- `CONNECTOR`: its name in envelopes;
- `default_schema(config) -> str`: the schema of a table that is named without one;
- `KEEPS_STATE`, if true: `open_source` also gets `state=`, where the kind notes what must outlast the process;
- `CONNECTIONS`, if it has any: setting → the kinds of connection that it may name.

A kind whose topics others fill has `open_feed(config, pipeline, surroundings) -> Feed` in the place of
`open_source` and `decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from headgate.model.change import Change, RowChange
from headgate.model.change import Sequence as SourceSequence
from headgate.model.entity import Declared
from headgate.model.finding import Finding
from headgate.model.table import Table


class Noted(Protocol):
    """What a notebook holds under a key."""

    @property
    def value(self) -> bytes: ...


class Notebook(Protocol):
    """Where a kind that `KEEPS_STATE` notes what must outlast the process: the part of `State` that it needs."""

    def get(self, key: str) -> Noted | None:
        """What was noted last."""

    def put(self, key: str, value: bytes) -> int:
        """Notes it."""

    def delete(self, key: str) -> bool:
        """Forgets it; answers whether there was something."""


class Head(msgspec.Struct, frozen=True):
    """Where a source stands: every change committed by `time_ms` lies at or before `sequence`."""

    sequence: SourceSequence
    time_ms: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Changes that capture hands over together, in commit order.

    After the last of `changes` is durable on the log, `token` may be confirmed. `head` says up to where
    the source is now covered: a batch without changes still moves it. `tables` is set when a table's
    definition has become known or has changed; it holds for the changes that follow.
    """

    changes: Sequence[Change] = ()
    token: int
    head: Head | None = None
    tables: Sequence[Table] = ()
    snapshot_done: int = 0
    """Rows read so far by the snapshot that is under way; 0 outside one."""
    snapshot_total: int | None = None


class Capture(Protocol):
    """One run of capturing. One thread uses it; `stop` may be called from any.

    The source's lock is held from `start` to `close`; SourceBusy when another process has it.
    """

    def batches(self, timeout_s: float) -> Iterator[Batch]:
        """Endless batches: first the snapshot of the tables that need one, between markers, then changes.

        A batch comes at least every `timeout_s`, if only to move `head`. Ends after `stop`. Changes come
        at least once and in the source's order; what was not confirmed comes again in the next run. An
        interrupted snapshot starts again with a larger generation. SourceError and its kinds when someone
        must act; Unavailable when trying again may help.
        """

    def confirm(self, token: int) -> None:
        """Everything up to this token is durable on the log, so that the source may forget it."""

    def stop(self) -> None:
        """Makes `batches` end soon."""

    def close(self) -> None:
        """Lets go of the source and its lock. Never raises."""


class Source(Protocol):
    """A source, not yet captured. Its methods block."""

    def tables(self) -> Sequence[Table]:
        """The tables that the config names (all that can be captured, if it names none), as they are now."""

    def capture(self, *, resnapshot: Sequence[str] = (), now_ms: Callable[[], int]) -> Capture:
        """Begins to capture, installing what it needs at the source. `resnapshot` tables are read whole again."""

    def detach(self) -> Sequence[str]:
        """Takes everything of ours off the source. Answers what was taken, a line each. Idempotent."""

    def diagnose(self) -> Sequence[Finding]:
        """What stands in the way of capturing, with the mend. Never raises for what it finds."""

    def scan(self, table: str, size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """A table's rows as (key, row), as changes carry them, all as of one moment, up to `size` at a time.

        Takes no lock that capture takes, and needs nothing that it installs. SourceError when the table is not
        there, or when there is no database to ask.
        """

    def now_ms(self) -> int:
        """The time by the clock that gives heads theirs: the source's own, where it has one. May ask the source."""

    def describe(self) -> str:
        """Where it reads, without credentials."""


# --- topics that others fill -------------------------------------------------------------------------


class Decoder(Protocol):
    """Decodes the records of one table's topic. One thread uses it."""

    def change(self, key: bytes | None, value: bytes | None) -> Change | None:
        """A record as a change; None for one that is passed over. ChangeRejected for one that is no change.

        Unavailable when what it takes to read it, as a schema registry, does not answer.
        """

    def rows(self, values: Sequence[bytes | None]) -> Sequence[RowChange]:
        """The same, in short, for many."""

    def key(self, key: bytes | None, value: bytes | None) -> bytes:
        """The key of the row that a record is about, as a JSON object. Undecodable when it has none."""

    def keys(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """The same for many; None for one that has none."""


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """What tells how fresh a feed's topics are.

    Each record of `topic` is a beat: whoever fills the topics had written all that was there at `time_of` it. Without
    a topic the log itself is asked each second, so that the answer is about the topics, and not about who fills them.
    """

    topic: str | None
    time_of: Callable[[bytes | None, bytes | None], int | None] = lambda key, value: None
    """A record's key and value → its time in ms; None for a record that is no beat."""


class Sample(NamedTuple):
    """A record as a sample of its topic."""

    time_ms: int
    key: bytes | None
    value: bytes | None


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a feed is opened with."""

    connections: Mapping[str, Any]
    """The settings of the config's connections, by name."""
    declared: Sequence[Declared]
    """The pipeline's entities, as the config declares them."""
    sample: Callable[[str], Sequence[Sample]]
    """Some of the newest records of a topic, by their times. Empty when it has none, or is not there."""


class Feed(Protocol):
    """A source whose topics others fill. It is not captured, and what it holds is read from its topics' start."""

    def topics(self) -> Mapping[str, str]:
        """Table → the topic that carries its changes."""

    def histories(self) -> Collection[str]:
        """The tables of which every record counts, and not the last one of each key alone."""

    def tables(self, known: Mapping[str, Table] | None = None) -> Sequence[Table]:
        """The tables whose columns and keys are known by now: by schemas, by records, and by what the config declares.

        `known` is what was announced of them before. May ask the log and a registry; cheap when nothing is new.
        """

    def decoder(self, table: str) -> Decoder:
        """The decoder of a table's records, the same one each time."""

    def pulse(self) -> Pulse | None:
        """How its freshness is told; None when nothing tells it."""

    def diagnose(self) -> Sequence[Finding]:
        """What stands in the way, with the mend. Never raises for what it finds."""

    def describe(self) -> str:
        """What it reads, without credentials."""

    def close(self) -> None:
        """Lets go of connections. Never raises."""
