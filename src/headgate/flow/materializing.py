"""What materializing one pipeline works with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headgate.flow.catalog import Catalog, Record
from headgate.flow.feeding import FeedBeats
from headgate.flow.folding import Decode, DecodeRows, Keys
from headgate.flow.heartbeat import Beats, ControlTopic
from headgate.flow.refills import Refills
from headgate.flow.status import Reporter
from headgate.flow.stops import want_resnapshot
from headgate.log.base import Log
from headgate.model.entity import Declared, Entity
from headgate.model.pipeline import OnError
from headgate.model.table import topic_of
from headgate.sources.base import Feed
from headgate.state.base import State
from headgate.stores.base import Writer
from headgate.subscriptions.base import Tell
from headgate.telemetry import Clock


class Decoding(NamedTuple):
    """What `Folding` takes to decode a table's records."""

    change: Decode
    rows: DecodeRows | None
    keys: Keys | None


@dataclass(frozen=True)
class Materializing:
    """`declared` is empty when every table is an entity."""

    pipeline: str
    declared: Sequence[Declared]
    decode: Decode | None
    """Of what our own capture has written; None with a `feed`."""
    log: Log
    open_writer: Callable[[Sequence[Entity]], Writer]
    state: State
    reporter: Reporter
    clock: Clock
    jitter: random.Random
    decode_rows: DecodeRows | None = None
    on_error: OnError = "dead_letter"
    retention_ms: int = 7 * 86_400_000
    """For how long the log keeps copies of dead letters."""
    feed: Feed | None = None
    """Where others fill the topics. Then it decodes, and nothing is captured."""
    tell: Tell | None = None
    """Tells those who wait for rows what has changed."""
    record: Record | None = None
    """Writes down what becomes of entities; None where nothing is."""

    def topic_of(self, table: str) -> str:
        """The topic that carries a table's changes."""
        return topic_of(self.pipeline, table) if self.feed is None else self.feed.topics()[table]

    def decoding(self, table: str) -> Decoding:
        """How a table's records are decoded in one run."""
        if self.feed is None:
            assert self.decode is not None  # either there is a feed, or own capture writes what is decoded
            return Decoding(self.decode, self.decode_rows, None)
        decoder = self.feed.decoder(table)
        return Decoding(decoder.change, decoder.rows, decoder)

    def beats(self, tables: Iterable[str]) -> Beats:
        """The heartbeats of these tables' topics."""
        if self.feed is None:
            return ControlTopic(self.log, self.pipeline)
        topics = sorted({self.topic_of(table) for table in tables})
        return FeedBeats(self.log, topics, self.feed.pulse(), self.clock, self.pipeline)

    def refills(self) -> Refills | None:
        """Which generations rows belong to, where no marker says it."""
        return None if self.feed is None else Refills(self.state, self.pipeline)

    def catalog(self) -> Catalog:
        """What tells the record of the entities."""
        return Catalog(self.state, self.pipeline, self.reporter.latest.process, self.clock, self.record)

    def ask_for_snapshot(self, table: str) -> None:
        """The log no longer holds what the store needs: whoever captures reads the table again."""
        want_resnapshot(self.state, self.pipeline, table)
