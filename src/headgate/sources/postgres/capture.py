"""One run of capture: the snapshots that are due, then the stream."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import NamedTuple

import msgspec
import psycopg

from headgate.connections.postgres import Connection, error_of
from headgate.errors import HeadgateError, PublicationMissing, SlotMissing, SourceBusy, TableWithoutKey
from headgate.model.change import Change
from headgate.sources.base import Batch, Head
from headgate.sources.postgres import slot as slots
from headgate.sources.postgres.confirmations import Confirmations
from headgate.sources.postgres.definitions import Definitions
from headgate.sources.postgres.heads import PUBLICATION_GONE, Heads
from headgate.sources.postgres.lsn import parse_lsn
from headgate.sources.postgres.pgoutput import Decoder, StreamedRelation
from headgate.sources.postgres.publication import Note, read_publication, write_note
from headgate.sources.postgres.rows import RowShape
from headgate.sources.postgres.schema import Relation
from headgate.sources.postgres.setup import Names, Setup, unpublish_keyless
from headgate.sources.postgres.snapshotting import Snapshotting
from headgate.sources.postgres.stream import DATA, KEEPALIVE, Stream, hang_up, open_replication, read_keepalive
from headgate.sources.postgres.values import Types
from headgate.sources.postgres.waiting import Waiting
from headgate.telemetry import Clock, logger

MOST_CHANGES = 1000
"""In one batch, also within a longer transaction."""

_KEYS_EVERY_S = 10.0
_ASK_AGAIN_S = 0.05

_log = logger("sources.postgres")


class Options(NamedTuple):
    """What a run works with."""

    dsn: str
    server: str
    """The server's name, without credentials."""
    names: Names
    snapshot_batch: int
    interval_s: float
    now_ms: Clock


class PostgresCapture:
    """Implements `Capture`. Holds three connections: one streams, one answers questions, one reads snapshots."""

    def __init__(
        self, options: Options, connection: Connection, setup: Setup, relations: list[Relation], types: Types
    ) -> None:
        self._options = options
        self._connection = connection
        self._setup = setup
        self._note: Note = setup.note
        self._types = types
        self._waiting = Waiting()
        self._confirmations = Confirmations()
        self._definitions = Definitions(connection, types, relations, options.server)
        self._decoder = Decoder(self._shape, self._definitions.recover)
        for table, finished in setup.note.tables.items():
            self._decoder.set_floor(table, parse_lsn(finished.lsn))
        self._heads = Heads(connection, options.names.publication, options.server, options.interval_s)
        self._definitions.heads = self._heads
        self._stream: Stream | None = None
        self._status_due = self._keys_due = self._ask_due = 0.0

    def batches(self, timeout_s: float) -> Iterator[Batch]:
        """See `Capture`. Within a long transaction, batches come before its end is known to us."""
        try:
            yield from self._snapshots(timeout_s)
            if not self._waiting.stopped():
                yield from self._open_stream(timeout_s)
                yield from self._changes(timeout_s)
        except psycopg.Error as error:
            raise error_of(error.sqlstate, self._options.server) from error

    def confirm(self, token: int) -> None:
        """See `Capture`. The server is told within the status interval, or at `close`."""
        self._confirmations.confirm(token)

    def stop(self) -> None:
        """See `Capture`."""
        self._waiting.stop()

    def close(self) -> None:
        """See `Capture`. Tells the server first what was confirmed last."""
        try:
            self._settle_snapshots()
            if self._stream is not None:
                self._send_status(reply=False)
        except (psycopg.Error, HeadgateError) as error:
            _log.info("the last confirmation did not reach the source: %s", type(error).__name__)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        hang_up(self._connection)
        self._waiting.stop()
        self._waiting.close()

    # --- snapshots -------------------------------------------------------------------------------

    def _snapshots(self, timeout_s: float) -> Iterator[Batch]:
        if not self._setup.pending and not self._setup.new_slot:
            return
        options = self._options
        snapshots = Snapshotting(
            options.dsn, options.names.slot, self._setup, self._definitions, self._types, self._waiting,
            options.server, self._decoder.set_floor,
        )  # fmt: skip
        try:
            for step in snapshots.steps(options.snapshot_batch, timeout_s):
                if step.ended is not None:
                    self._confirmations.finish(*step.ended)
                yield self._batch(step.changes, done=step.done, total=step.total)
                self._settle_snapshots()
        finally:
            snapshots.close()

    def _settle_snapshots(self) -> None:
        """Notes at the source which snapshots are durable, before the slot may move on."""
        finished = self._confirmations.take_finished()
        if finished:
            self._note = msgspec.structs.replace(self._note, tables={**self._note.tables, **finished})
            self._heads.settle()
            write_note(self._connection, self._options.names.publication, self._note)

    # --- the stream ------------------------------------------------------------------------------

    def _open_stream(self, timeout_s: float) -> Iterator[Batch]:
        """Takes the slot; a walsender whose client is gone is given a moment to notice."""
        deadline = monotonic() + slots.PATIENCE_S
        while self._stream is None and not self._waiting.stopped():
            connection = open_replication(self._options.dsn)
            stream = Stream(connection, *self._options.names, self._options.server)
            try:
                stream.start()
                self._stream = stream
            except SourceBusy:
                if monotonic() > deadline:
                    raise
                self._waiting.wait(min(timeout_s, 0.1))
                yield self._batch([])
            finally:
                if self._stream is None:
                    hang_up(connection)

    def _changes(self, timeout_s: float) -> Iterator[Batch]:
        stream, decoder, waiting = self._stream, self._decoder, self._waiting
        if stream is None:
            return
        receive, fill = stream.receive, stream.fill
        waiting.watch(stream.socket)
        waiting.watch(self._connection.pgconn.socket)
        overdue_at = monotonic() + timeout_s
        unattended = 0
        while not waiting.stopped():
            size, message = receive(1)
            if size == 0:
                fill()
                size, message = receive(1)
            if size > 0:
                self._take(message)
                unattended += 1
                if unattended < MOST_CHANGES and len(decoder.changes) < MOST_CHANGES:
                    continue
            elif size < 0:
                raise self._reason(stream)
            unattended = 0
            head = self._tend()
            if decoder.changes or head is not None or monotonic() >= overdue_at:
                yield self._batch(decoder.take(), head=head)
                overdue_at = monotonic() + timeout_s
            elif size == 0:
                waiting.wait(min(overdue_at, self._next_due()) - monotonic())

    def _take(self, message: memoryview) -> None:
        kind = message[0]
        if kind == DATA:
            self._decoder.decode(message)
        elif kind == KEEPALIVE:
            keepalive = read_keepalive(message)
            self._decoder.position = max(self._decoder.position, keepalive.position)
            if keepalive.reply:
                self._send_status(reply=False)

    def _tend(self) -> Head | None:
        """What is due now and then; answers how far the source is covered, if that is news."""
        now = monotonic()
        self._heads.listen()
        if now >= self._heads.due_at:
            self._heads.ask()
        self._settle_snapshots()  # at once: whoever dies before that reads whole tables again
        if now >= self._status_due:
            self._send_status(reply=False)
        if now >= self._keys_due:
            self._keys_due = now + _KEYS_EVERY_S
            self._check_keys()
        position = self._decoder.position
        if self._heads.waited_for > position and now >= self._ask_due:
            self._ask_due = now + _ASK_AGAIN_S
            self._send_status(reply=True)
        return self._heads.passed(position)

    def _next_due(self) -> float:
        due = min(self._heads.due_at, self._status_due, self._keys_due)
        return min(due, self._ask_due) if self._heads.waited_for else due

    def _send_status(self, *, reply: bool) -> None:
        assert self._stream is not None
        if not self._decoder.changes:
            self._confirmations.reached(self._decoder.position)
        self._status_due = monotonic() + self._options.interval_s
        position = self._decoder.position
        self._stream.send_status(position, self._confirmations.lsn, self._options.now_ms(), reply=reply)

    def _check_keys(self) -> None:
        """A table that loses its key must leave the publication at once: its owner's updates fail."""
        self._heads.settle()
        lost = unpublish_keyless(self._connection, self._options.names.publication, self._types)
        if lost:
            raise TableWithoutKey(
                f"{', '.join(lost)} lost its key and is no longer captured: give it a primary key, or take it out of "
                "the source's `tables`"
            )

    def _shape(self, relation: StreamedRelation) -> RowShape | None:
        name = self._definitions.name_of(relation.oid)
        if name is not None and name != relation.name and self._decoder.precedes_snapshot(name):
            return None  # before it was renamed to what it is captured as
        return self._definitions.streamed(relation)

    def _reason(self, stream: Stream) -> Exception:
        """Why the stream ended. The server says of a slot and a publication alike that there is no such object."""
        error = stream.ended()
        if isinstance(error, SlotMissing):
            self._heads.settle()
            if read_publication(self._connection, self._options.names.publication) is None:
                return PublicationMissing(PUBLICATION_GONE.format(publication=self._options.names.publication))
        return error

    def _batch(
        self, changes: list[Change], *, head: Head | None = None, done: int = 0, total: int | None = None
    ) -> Batch:
        token = self._confirmations.hand_over(self._decoder.position, has_changes=bool(changes))
        tables = self._definitions.take()
        return Batch(changes=changes, token=token, head=head, tables=tables, snapshot_done=done, snapshot_total=total)
