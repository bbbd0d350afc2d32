"""One run of snapshots: a slot's exact point in the log, and every pending table as it was there.

With a new slot, the stream begins at the point. Beside a slot that is already there, a temporary one gives
the point: this run's stream is then read from before it, and what it repeats of these tables is left out.
Nothing is read from the stream meanwhile, so that nothing of what comes after the point is told before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from headgate.connections.postgres import Connection, connect
from headgate.errors import Unavailable
from headgate.model.change import Change, Marker, Sequence
from headgate.sources.postgres.definitions import Definitions
from headgate.sources.postgres.lsn import format_lsn
from headgate.sources.postgres.publication import Finished
from headgate.sources.postgres.schema import Relation, named_tables
from headgate.sources.postgres.setup import Setup
from headgate.sources.postgres.snapshot import TableRead, enter_snapshot, hold_tables
from headgate.sources.postgres.stream import ExportedSlot, created_slot, hang_up, open_replication, send_create_slot
from headgate.sources.postgres.values import SESSION, Types
from headgate.sources.postgres.waiting import Waiting


class Step(NamedTuple):
    """Changes of the snapshot to hand over; none where only time has passed."""

    changes: list[Change]
    done: int = 0
    total: int | None = None
    ended: tuple[str, Finished] | None = None
    """The table whose last change this is."""


class Snapshotting:
    """Reads the pending tables of one setup. `batches` is called once; `close` always."""

    def __init__(
        self, dsn: str, slot: str, setup: Setup, definitions: Definitions, types: Types, waiting: Waiting,
        server: str, on_point: Callable[[str, int], None],
    ) -> None:  # fmt: skip
        self._dsn = dsn
        self._slot = slot
        self._setup = setup
        self._definitions = definitions
        self._types = types
        self._waiting = waiting
        self._server = server
        self._on_point = on_point
        self._maker: Connection | None = None
        self._reader: Connection | None = None
        self._watched: list[int] = []
        self._done = 0
        self._total: int | None = None

    def steps(self, size: int, timeout_s: float) -> Iterator[Step]:
        """The snapshot's changes between markers, table by table, at most `size` rows a step."""
        yield from self._make_slot(timeout_s)
        if self._waiting.stopped():
            return
        assert self._maker is not None
        point = created_slot(self._maker, self._server)
        relations = self._enter(point)
        for relation in relations:
            if self._waiting.stopped():
                return
            yield from self._read(relation, point, size, timeout_s)

    def close(self) -> None:
        """Hangs up; a temporary slot goes with its connection. Never raises."""
        while self._watched:
            self._waiting.forget(self._watched.pop())
        for connection in (self._reader, self._maker):
            if connection is not None:
                hang_up(connection)
        self._reader = self._maker = None

    def _watch(self, connection: Connection) -> None:
        self._watched.append(connection.pgconn.socket)
        self._waiting.watch(connection.pgconn.socket)

    def _make_slot(self, timeout_s: float) -> Iterator[Step]:
        self._maker = connection = open_replication(self._dsn)
        name = self._slot
        if not self._setup.new_slot:
            name = f"{self._slot[:40]}_snapshot_{connection.info.backend_pid}"
        send_create_slot(connection, name, temporary=not self._setup.new_slot)
        self._watch(connection)
        while connection.pgconn.is_busy() and not self._waiting.stopped():
            if self._waiting.wait(timeout_s):
                connection.pgconn.consume_input()
            else:
                yield Step([])
        self._waiting.forget(self._watched.pop())

    def _enter(self, point: ExportedSlot) -> list[Relation]:
        """Opens the snapshot and reads the tables' definitions as they stay for its duration."""
        assert self._maker is not None
        self._reader = reader = connect(self._dsn, settings=SESSION)
        enter_snapshot(reader, point.snapshot)
        hang_up(self._maker)  # the snapshot lives on in its reader; a temporary slot has done its work
        relations = named_tables(reader, self._types, self._setup.pending)
        if {relation.table.name for relation in relations} != set(self._setup.pending):
            raise Unavailable("a table went away while its snapshot was to begin: starting again")
        hold_tables(reader, relations)
        relations = named_tables(reader, self._types, self._setup.pending)
        estimates = [relation.estimate for relation in relations]
        self._total = sum(estimates) if min(estimates) >= 0 else None
        self._watch(reader)
        return relations

    def _read(self, relation: Relation, point: ExportedSlot, size: int, timeout_s: float) -> Iterator[Step]:
        assert self._reader is not None
        table, sequence, time_ms = relation.table.name, Sequence(point.lsn, 0), _clock(self._reader)
        generation = self._setup.note.generation
        self._on_point(table, point.lsn)
        read = TableRead(self._reader, relation, self._definitions.shape_of(relation), self._waiting, self._server)
        yield self._step([_mark(table, "begin", generation, sequence, time_ms)])
        for changes in read.batches(size, sequence, time_ms, timeout_s):
            self._done += len(changes)
            yield self._step(changes)
        if not self._waiting.stopped():
            end = _mark(table, "end", generation, sequence, time_ms)
            finished = Finished(generation=generation, lsn=format_lsn(point.lsn))
            yield self._step([end])._replace(ended=(table, finished))

    def _step(self, changes: list[Change]) -> Step:
        total = None if self._total is None else max(self._total, self._done)
        return Step(changes, self._done, total)


def _mark(table: str, phase: Literal["begin", "end"], generation: int, sequence: Sequence, time_ms: int) -> Change:
    marker = Marker(phase=phase, generation=generation)
    return Change(op="m", table=table, sequence=sequence, time_ms=time_ms, marker=marker)


def _clock(connection: Connection) -> int:
    row = connection.execute("select floor(extract(epoch from clock_timestamp()) * 1000)::int8").fetchone()
    assert row is not None  # a select without a table
    return int(row[0])
