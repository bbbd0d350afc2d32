"""One run of capture: the snapshots that are due, then the binary log."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import msgspec
import pymysql

from headgate.errors import BinlogPurged, HeadgateError, Unavailable
from headgate.model.change import Change, Marker
from headgate.model.change import Sequence as SourceSequence
from headgate.model.table import Table
from headgate.sources._lost import unasked
from headgate.sources.base import Batch, Head
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.confirmations import Confirmations
from headgate.sources.mysql.position import Note, Notes, Place, file_number, sequence_of
from headgate.sources.mysql.rows import RowShape
from headgate.sources.mysql.schema import LEFT_OUT, Relation, wanted
from headgate.sources.mysql.server import Connection, Identity, another, clock_ms, holds, status, translated, unreadable
from headgate.sources.mysql.snapshot import Snapshot
from headgate.sources.mysql.stream import Reached, Rows, Statement, Step, Stream
from headgate.telemetry import Clock, logger

MOST_CHANGES = 1_000
"""In one batch, also within a longer transaction."""

_NOTE_EVERY_S = 1.0
_log = logger("sources.mysql")


class Options(NamedTuple):
    """What a run works with."""

    config: Config
    replica_id: int
    identity: Identity
    notes: Notes
    resnapshot: frozenset[str]
    now_ms: Clock


class _Sample(NamedTuple):
    time_ms: int
    file: str
    position: int


class MysqlCapture:
    """Implements `Capture`. `connection` holds the source's lock and answers questions."""

    def __init__(self, options: Options, connection: Connection) -> None:
        self._options = options
        self._connection = connection
        self._server = options.config.describe()
        self._stopped = threading.Event()
        self._note = options.notes.read()
        self._resnapshot = options.resnapshot
        self._confirmations = Confirmations()
        self._relations: dict[str, Relation] = {}
        self._shapes: dict[str, RowShape] = {}
        self._floors: dict[str, SourceSequence] = {}
        self._news: list[Table] = []
        self._stream: Stream | None = None
        self._place: Place | None = None
        self._sample: _Sample | None = None
        self._row = 0
        self._began = ("", 0)
        self._status_due = self._note_due = 0.0

    def batches(self, timeout_s: float) -> Iterator[Batch]:
        """See `Capture`. A schema change that asks for a snapshot is answered by one, and the stream goes on."""
        try:
            with translated(self._server):
                self._learn()
                while not self._stopped.is_set():
                    yield from self._snapshots(timeout_s)
                    if not self._stopped.is_set():
                        yield from self._follow(timeout_s)
        except BinlogPurged as error:
            raise BinlogPurged(error.message + unasked(self._relations.keys() - self._resnapshot)) from error

    def confirm(self, token: int) -> None:
        """See `Capture`. Noted within a second, or at `close`."""
        self._confirmations.confirm(token)

    def stop(self) -> None:
        """See `Capture`."""
        self._stopped.set()

    def close(self) -> None:
        """See `Capture`. Notes first what was confirmed last."""
        self._stopped.set()
        try:
            self._settle()
        except HeadgateError as error:
            _log.info("the last confirmation could not be noted: %s", error.message)
        self._end_stream()
        try:
            self._connection.close()
        except (pymysql.MySQLError, OSError):
            pass  # it is gone either way

    # --- the owner's schema ----------------------------------------------------------------------

    def _learn(self) -> tuple[list[str], bool]:
        """Reads the schema anew. Answers the tables that are gone, and whether one waits for its snapshot."""
        found = {relation.table.name: relation for relation in wanted(self._connection, self._options.config)}
        self._news += [
            relation.table for name, relation in found.items()
            if name not in self._relations or self._relations[name].table != relation.table
        ]  # fmt: skip
        self._say_what_is_left_out(found)
        gone = sorted(self._relations.keys() - found.keys())
        self._relations = found
        self._shapes = {name: RowShape(relation) for name, relation in found.items()}
        return gone, bool(self._pending())

    def _say_what_is_left_out(self, found: Mapping[str, Relation]) -> None:
        for name, relation in found.items():
            known = self._relations.get(name)
            if relation.left_out and (known is None or known.left_out != relation.left_out):
                _log.warning("%s is captured without %s: %s", name, ", ".join(relation.left_out), LEFT_OUT)

    def _pending(self) -> list[str]:
        done = self._note.tables if self._note else {}
        handed = self._floors.keys()
        return [
            name for name in self._relations if name in self._resnapshot or (name not in done and name not in handed)
        ]

    # --- snapshots -------------------------------------------------------------------------------

    def _snapshots(self, timeout_s: float) -> Iterator[Batch]:
        pending = self._pending()
        if not pending:
            return
        is_whole = set(pending) >= self._relations.keys()
        if self._note is not None and self._stream is None and not is_whole:
            yield from self._require_place(timeout_s)
            if self._stopped.is_set():
                return
        snapshot = Snapshot(self._options.config)
        try:
            self._take_off(pending, is_whole=is_whole)
            total = sum(self._relations[name].estimate for name in pending)
            done = 0
            for name in pending:
                for changes, finished in self._read_table(name, snapshot):
                    done += sum(change.marker is None for change in changes)
                    yield self._batch(changes, finished=finished, done=max(1, done), total=max(total, done))
                    if self._stopped.is_set():
                        return
            self._resnapshot -= set(pending)
            if self._note is None and self._place is None:
                self._place = snapshot.place
        finally:
            snapshot.close()

    def _require_place(self, timeout_s: float) -> Iterator[Batch]:
        """Tables that are read beside others are of no use where the others can't go on.

        BinlogPurged before a row is read, so that whoever asks for one table after the other has asked for all in the
        end.
        """
        stream = self._open_stream()
        try:
            while not self._stopped.is_set() and not stream.goes_on(timeout_s):
                yield self._batch([])
        finally:
            self._end_stream()
            self._place = None

    def _take_off(self, pending: Sequence[str], *, is_whole: bool) -> None:
        """Tables are off the note before their first row is read: an interrupted snapshot begins again.

        Where all are read again the place goes too: the server may no longer have it.
        """
        if self._note is None:
            return
        if is_whole:
            self._options.notes.forget()
            self._note = self._place = None
            return
        kept = {name: generation for name, generation in self._note.tables.items() if name not in pending}
        if kept != self._note.tables:
            self._note = Note(place=self._note.place, tables=kept)
            self._options.notes.write(self._note)

    def _read_table(self, name: str, snapshot: Snapshot) -> Iterator[tuple[list[Change], tuple[tuple[str, int], ...]]]:
        relation = self._relations[name]
        generation = self._options.now_ms()
        at = sequence_of(snapshot.place.file, snapshot.place.position, 0, snapshot.place.timeline)
        yield [self._marker(name, "begin", generation, at)], ()
        for rows in snapshot.read(relation, self._options.config.snapshot_batch):
            time_ms = self._options.now_ms()
            yield (
                [
                    Change(op="r", table=name, key=key, after=row, sequence=at, time_ms=time_ms, snapshot=True)
                    for key, row in rows
                ],
                (),
            )
        self._floors[name] = at
        yield [self._marker(name, "end", generation, at)], ((name, generation),)

    def _marker(self, table: str, phase: str, generation: int, at: SourceSequence) -> Change:
        marker = Marker(phase="begin" if phase == "begin" else "end", generation=generation)
        return Change(op="m", table=table, sequence=at, time_ms=self._options.now_ms(), marker=marker)

    # --- the binary log --------------------------------------------------------------------------

    def _follow(self, timeout_s: float) -> Iterator[Batch]:
        """Changes as they come, until `stop` or until a table waits for its snapshot."""
        stream = self._stream or self._open_stream()
        waiting: list[Change] = []
        place: Place | None = None
        due = monotonic() + timeout_s
        while not self._stopped.is_set():
            step = stream.take(max(0.0, min(due - monotonic(), timeout_s)) if not waiting else 0.0)
            if isinstance(step, Reached):
                place = step.place
            elif step is not None:
                waiting += self._changes(step)
            head = self._tend(place)
            if len(waiting) >= MOST_CHANGES or (step is None and waiting) or head or monotonic() >= due:
                yield self._batch(waiting, place=place, head=head)
                self._place = place or self._place
                waiting, due = [], monotonic() + timeout_s
                if self._pending():
                    return

    def _open_stream(self) -> Stream:
        place = self._place or (self._note.place if self._note else None)
        assert place is not None, "there is a place once the snapshots are through"
        identity = self._options.identity
        by_gtid = place.timeline != identity.timeline
        if by_gtid:
            self._require_history(place)
            place = msgspec.structs.replace(place, timeline=identity.timeline, created_s=0)
        self._place = place
        self._stream = Stream(
            self._options.config, self._options.replica_id, place, by_gtid=by_gtid, is_mariadb=identity.is_mariadb
        )
        return self._stream

    def _require_history(self, place: Place) -> None:
        """Another server must have what was read, and on MariaDB will have to show it (see `Stream`)."""
        identity = self._options.identity
        can_show = bool(place.last and place.last.before) if identity.is_mariadb else bool(place.gtids)
        if not can_show or not holds(self._connection, identity, place.gtids):
            raise another(self._server)

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _changes(self, step: Step) -> list[Change]:
        if isinstance(step, Rows):
            shape = self._shapes.get(step.table)
            return [] if shape is None else self._row_changes(step, shape)
        if isinstance(step, Statement):
            return self._statement(step)
        return []

    def _row_changes(self, step: Rows, shape: RowShape) -> list[Change]:
        if step.unreadable:
            raise unreadable(self._server, step.unreadable)
        changes: list[Change] = []
        for row in step.rows:
            at = self._next(step)
            if at < self._floors.get(step.table, at):
                continue
            if step.kind == "update":
                changes += _updated(
                    step, at, shape.from_binlog(row["before_values"]), shape.from_binlog(row["after_values"])
                )
            else:
                key, values = shape.from_binlog(row["values"])
                changes.append(_inserted(step, at, key, values) if step.kind == "insert" else _deleted(step, at, key))
        return changes

    def _next(self, step: Rows | Statement) -> SourceSequence:
        """The order of the next row of a transaction."""
        if self._began != (step.file, step.began):
            self._began, self._row = (step.file, step.began), 0
        self._row += 1
        return sequence_of(step.file, step.began, self._row, self._options.identity.timeline)

    def _statement(self, step: Statement) -> list[Change]:
        """A truncate, or another schema: what is gone is emptied, what is new is read."""
        at = self._next(step)
        if step.truncates:
            gone = [step.truncates] if step.truncates in self._relations else []
        else:
            gone, _ = self._learn()
        return [
            Change(op="t", table=name, sequence=at, time_ms=step.time_ms)
            for name in gone if not at < self._floors.get(name, at)
        ]  # fmt: skip

    # --- what is due now and then ----------------------------------------------------------------

    def _tend(self, place: Place | None) -> Head | None:
        now = monotonic()
        if now >= self._note_due:
            self._note_due = now + _NOTE_EVERY_S
            self._settle()
        if self._sample is None and now >= self._status_due:
            self._status_due = now + self._options.config.status_interval_s
            self._ask()
        return self._passed(place or self._place)

    def _ask(self) -> None:
        """The server's clock first, so that nothing committed by then can lie behind its log's end."""
        time_ms = clock_ms(self._connection)
        now = status(self._connection, self._options.identity)
        self._sample = _Sample(time_ms, now.file, now.position)

    def _passed(self, place: Place | None) -> Head | None:
        sample = self._sample
        if sample is None or place is None or not place.created_s:  # it may be a place in another server's files
            return None
        if (file_number(place.file), place.position) < (file_number(sample.file), sample.position):
            return None
        self._sample = None
        return Head(sequence_of(sample.file, sample.position, 0, self._options.identity.timeline), sample.time_ms)

    def _settle(self) -> None:
        """Notes what has become durable: a place to go on from, and the snapshots that are whole."""
        confirmed = self._confirmations
        known = self._note
        place = confirmed.place or (known.place if known else None)
        if place is None or (known is not None and place == known.place and not confirmed.finished):
            return
        note = Note(place=place, tables={**(known.tables if known else {}), **confirmed.finished})
        self._options.notes.write(note)
        self._note, confirmed.finished = note, {}

    def _batch(
        self,
        changes: list[Change],
        *,
        place: Place | None = None,
        head: Head | None = None,
        finished: tuple[tuple[str, int], ...] = (),
        done: int = 0,
        total: int | None = None,
    ) -> Batch:
        token = self._confirmations.hand_over(place, finished)
        tables, self._news = tuple(self._news), []
        return Batch(changes=changes, token=token, head=head, tables=tables, snapshot_done=done, snapshot_total=total)


def _inserted(step: Rows, at: SourceSequence, key: bytes, row: bytes) -> Change:
    return Change(op="c", table=step.table, key=key, after=row, sequence=at, time_ms=step.time_ms)


def _deleted(step: Rows, at: SourceSequence, key: bytes) -> Change:
    return Change(op="d", table=step.table, key=key, sequence=at, time_ms=step.time_ms)


def _updated(step: Rows, at: SourceSequence, before: tuple[bytes, bytes], after: tuple[bytes, bytes]) -> list[Change]:
    """A changed key is a delete and a create."""
    if before[0] != after[0]:
        return [_deleted(step, at, before[0]), _inserted(step, at, *after)]
    return [
        Change(op="u", table=step.table, key=after[0], before=before[1], after=after[1], sequence=at,
               time_ms=step.time_ms)
    ]  # fmt: skip


__all__ = ["MOST_CHANGES", "MysqlCapture", "Options", "Unavailable"]
