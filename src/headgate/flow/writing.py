"""How captured changes become records of the log: topics, keys, tombstones, markers and heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from headgate.errors import HeadgateError, RecordTooLarge, Unavailable
from headgate.failpoints import reach
from headgate.flow.heartbeat import encode_heartbeat
from headgate.flow.layout import Layout, layouts
from headgate.flow.schemas import announce, announced
from headgate.flow.stops import Stops
from headgate.log.base import Appender, Log, Record, Topic
from headgate.model.change import Change
from headgate.model.envelope import encode_change, source_prefix
from headgate.model.position import Partition
from headgate.model.table import Table, heartbeat_topic, topic_of
from headgate.sources.base import Batch, Head
from headgate.state.base import State
from headgate.telemetry import is_due, logger

_log = logger("flow.capture")
_HEARTBEAT_EVERY_MS = 1_000
_REMIND_EVERY_MS = 3_000
_DURABLE_WITHIN_S = 30.0


class _Checkpoint(msgspec.Struct, frozen=True):
    token: int
    head: Head | None


class LogWriting:
    """One run of writing a pipeline's changes. One thread uses it."""

    def __init__(
        self, pipeline: str, connector: str, log: Log, state: State, stops: Stops, partitions: int, retention_ms: int
    ) -> None:
        self._pipeline = pipeline
        self._connector = connector
        self._log = log
        self._state = state
        self._stops = stops
        self._new_topics = {"partitions": partitions, "retention_ms": retention_ms}
        self._appender: Appender = log.appender()
        self._places: dict[str, tuple[str, bytes]] = {}
        """Per table, its topic and what its envelopes have in common."""
        self._tables: dict[str, Table] = {}
        self._reminded_ms = 0
        self._topics: dict[str, Layout] = {}
        self._ends: dict[Partition, int] = {}
        self._covered: Head | None = None
        self._beat_ms = 0
        self._written = [0, 0]
        self._newest_token = 0
        self._waiting_since_ms = 0
        self.layouts: dict[str, Layout] = {}
        """Per table, how this run found its topic."""

    def learn(self, tables: Sequence[Table]) -> None:
        """Makes the topics of tables that are new here, and announces every schema."""
        topics = {table.name: topic_of(self._pipeline, table.name) for table in tables}
        for table in tables:
            self._tables[table.name] = table
            prefix = source_prefix(self._connector, self._pipeline, "", table.name)
            self._places[table.name] = topics[table.name], prefix
        new = [topic for topic in topics.values() if topic not in self._topics]
        if new:
            self._log.ensure([Topic(name=topic, compacted=True, **self._new_topics) for topic in new])
            self._find(new)
            self.layouts |= {table: self._topics[topic] for table, topic in topics.items() if topic in self._topics}
        for table in tables:  # last, so that whoever learns a schema finds its topic
            announce(self._state, self._pipeline, table)

    def _find(self, topics: Sequence[str]) -> None:
        """How topics lie, and where they end. Unavailable while one is being replaced: its ends are another's."""
        found, ends = layouts(self._log, topics), self._log.end(topics)
        if layouts(self._log, topics) != found:
            raise Unavailable("A topic of this pipeline is being replaced by another one: it is looked at again.")
        self._topics |= found
        self._ends |= ends

    def write(self, batch: Batch, now_ms: int) -> None:
        """Hands a batch over, in order."""
        if batch.tables:
            self.learn(batch.tables)
        self._write_changes(batch.changes)
        self._appender.checkpoint(_Checkpoint(batch.token, batch.head))
        self._newest_token = batch.token
        self._waiting_since_ms = self._waiting_since_ms or now_ms

    def acknowledged(self, now_ms: int) -> int | None:
        """The newest batch token that is durable, if there is a new one."""
        checkpoint = self._appender.acknowledged(0.0)
        if not isinstance(checkpoint, _Checkpoint):
            return None
        self._covered = checkpoint.head or self._covered
        self._waiting_since_ms = 0 if checkpoint.token == self._newest_token else now_ms
        return checkpoint.token

    def is_outdated(self) -> bool:
        """Whether a topic is another one by now, or spreads its keys over more partitions. Any thread may ask.

        A log that does not answer, and a topic that is gone, are passed over: who writes there will know.
        """
        known = dict(self._topics)
        try:
            found = layouts(self._log, list(known))
        except HeadgateError as error:
            _log.debug("%s: the topics could not be looked at: %s", self._pipeline, error.message)
            return False
        return any(known[topic] != layout for topic, layout in found.items())

    def silent_ms(self, now_ms: int) -> int:
        """For how long the log has acknowledged nothing of what waits for it."""
        return max(0, now_ms - self._waiting_since_ms) if self._waiting_since_ms else 0

    def beat(self, now_ms: int) -> None:
        """Writes a heartbeat when a second has passed since the last one and the log covers a head."""
        if self._covered is None or not is_due(now_ms, self._beat_ms, _HEARTBEAT_EVERY_MS):
            return
        self._beat_ms = now_ms
        ends = {**self._ends, **self._appender.ends()}
        self._refuse_strays(ends)
        trusted = {place: end for place, end in ends.items() if self._is_trusted(place)}
        logs = {topic: layout.identity for topic, layout in self._topics.items()}
        record = encode_heartbeat(self._covered.sequence, self._covered.time_ms, trusted, logs)
        self._appender.append(heartbeat_topic(self._pipeline), record, 0)
        reach("capture.beaten")

    def remind(self, now_ms: int) -> None:
        """Every few seconds, announces again what `state` has lost: its server may have come back empty.

        A state that does not answer is passed over until the next time.
        """
        if not is_due(now_ms, self._reminded_ms, _REMIND_EVERY_MS):
            return
        self._reminded_ms = now_ms
        try:
            known = announced(self._state, self._pipeline)
            for name, table in self._tables.items():
                if known.get(name) != table:
                    announce(self._state, self._pipeline, table)
            self._stops.remind()
        except HeadgateError as error:
            _log.debug("%s: the schemas could not be announced: %s", self._pipeline, error.message)

    def take_written(self) -> tuple[int, int]:
        """Records and bytes handed over since the last take."""
        records, size = self._written
        self._written = [0, 0]
        return records, size

    def flush(self, timeout_s: float) -> None:
        """Waits until all is durable."""
        self._appender.flush(timeout_s)

    def close(self) -> None:
        """Lets go. Never raises."""
        self._appender.close()

    def _write_changes(self, changes: Sequence[Change]) -> None:
        """Row changes take a short path: there are many."""
        append, stops = self._appender.append, self._stops
        size = 0
        for change in changes:
            table = change.table
            if change.op in "mt":
                self._write_mark(change)
            elif not stops.is_stopped(table):
                topic, prefix = self._places[table]
                value = encode_change(change, prefix)
                size += len(value)
                try:
                    append(topic, Record(change.key, value))
                    if change.op == "d":
                        append(topic, Record(change.key, None))
                except RecordTooLarge as error:
                    self._stop_table(change, error)
        self._written[0] += len(changes)
        self._written[1] += size

    def _write_mark(self, change: Change) -> None:
        """A truncate, or where a snapshot begins or ends."""
        table, phase = change.table, change.marker.phase if change.marker else None
        if phase == "begin":
            self._stops.restart(table)
        if self._stops.is_stopped(table):
            return
        topic, prefix = self._places[table]
        if phase == "end":
            self._settle_rows()
        change = _spread(change, self._topics[topic])
        self._write_everywhere(topic, change, encode_change(change, prefix))
        if phase:
            reach(f"snapshot.{phase}")
        if phase == "end":
            self._stops.snapshotted(table, self.layouts[table])

    def _settle_rows(self) -> None:
        """Before a snapshot ends: all of its rows are where its readers look for them."""
        self._appender.flush(_DURABLE_WITHIN_S)
        self._refuse_strays(self._appender.ends())

    def _refuse_strays(self, ends: Iterable[Partition]) -> None:
        """No record may lie in a partition that this run does not know of: it has no marks, and nobody reads it yet.

        Unavailable; the next run knows it, and reads the table anew.
        """
        for place in ends:
            layout = self._topics.get(place.topic)
            if layout is not None and place.number >= layout.partitions:
                raise Unavailable(f"The topic {place.topic} has got more partitions: its table is read anew.")

    def _stop_table(self, change: Change, error: RecordTooLarge) -> None:
        _log.error("%s: table %s stops: %s", self._pipeline, change.table, error.message)
        self._stops.stop(change.table, error, change.time_ms)

    def _write_everywhere(self, topic: str, change: Change, value: bytes) -> None:
        """A truncate or a marker has no key: each partition gets one, under a key of its own.

        Compacted topics refuse records without keys, and must keep each of these.
        """
        sequence = change.sequence or (change.time_ms, 0)
        kind = change.marker.phase if change.marker else "truncate"
        generation = change.marker.generation if change.marker else 0
        for number in range(self._topics[topic].partitions):
            place = {"headgate": kind, "at": list(sequence), "generation": generation, "partition": number}
            self._appender.append(topic, Record(msgspec.json.encode(place), value), number)

    def _is_trusted(self, place: Partition) -> bool:
        return not self._stops.is_stopped(place.topic.removeprefix(f"{self._pipeline}."))


def _spread(change: Change, layout: Layout) -> Change:
    """A snapshot's marks say over how many partitions its rows are spread."""
    if change.marker is None:
        return change
    marker = msgspec.structs.replace(change.marker, partitions=layout.partitions)
    return msgspec.structs.replace(change, marker=marker)
