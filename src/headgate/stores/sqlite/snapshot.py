"""Snapshots of the file: what one transaction shows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from headgate.errors import Unavailable, UnknownEntity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress, Watermark
from headgate.stores._catalog import Catalog, Definition, Pointer, live_epochs, pending, watermark_of
from headgate.stores.sqlite.schema import connect_reader, reading
from headgate.stores.sqlite.tables import pointer_of, progress_of, space_of

_BUSY_S = 5.0
_ASK_EVERY = 10_000
"""Instructions of the engine's: well below a millisecond."""
_decode_letter = msgspec.msgpack.Decoder(DeadLetter).decode


class Visible(msgspec.Struct, frozen=True):
    """What one snapshot shows of an entity."""

    pointer: Pointer
    definition: Definition
    space: int | None
    watermark: Watermark


class Ticket:
    """One reader's turn, which can be taken back from another thread."""

    def __init__(self) -> None:
        self._is_void = False

    @contextmanager
    def used(self, connection: sqlite3.Connection) -> Iterator[None]:
        """The turn is this block. Unavailable when it was taken back before."""
        if self._is_void:
            raise Unavailable("The reader has left.")
        # Asked by the engine itself: `interrupt` would pass over a query that is just about to begin.
        connection.set_progress_handler(self._must_end, _ASK_EVERY)
        try:
            yield
        finally:
            connection.set_progress_handler(None, 0)

    def take_back(self) -> None:
        """Ends the work, if it is under way, and lets none begin. No other reader's work is touched."""
        self._is_void = True

    def _must_end(self) -> bool:
        return self._is_void


class Snapshots:
    """One connection, which shows one snapshot at a time."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._definitions: dict[tuple[str, str], Definition] = {}

    @contextmanager
    def take(self, ticket: Ticket | None = None) -> Iterator[Snapshot | None]:
        """A snapshot, until the block ends; None while there is no file."""
        with self._lock:
            if self._connection is None:
                self._connection = connect_reader(self._target, _BUSY_S)
            if self._connection is None:
                yield None
                return
            with reading(self._connection), (ticket or Ticket()).used(self._connection):
                yield Snapshot(self._connection, self._definitions)

    def close(self) -> None:
        """Closes the connection, after the snapshot that is being read."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


class Snapshot:
    """What one transaction sees."""

    def __init__(self, connection: sqlite3.Connection, definitions: dict[tuple[str, str], Definition]) -> None:
        self.connection = connection
        self._definitions = definitions

    def visible(self, entity: str) -> Visible:
        """What there is to see of an entity. UnknownEntity or SnapshotPending."""
        pointer = pointer_of(self.connection, entity)
        if pointer is None:
            raise self._nothing_of(entity)
        stored = progress_of(self.connection, entity, pointer.space.build)
        progress = [stored.get(number, Progress()) for number in range(pointer.partitions)]
        return Visible(
            pointer,
            self._definition(entity, pointer.space.build),
            space_of(self.connection, entity, pointer.space),
            watermark_of(entity, pointer, progress),
        )

    def catalog(self) -> Catalog:
        """All definitions and pointers."""
        definitions = self.connection.execute("select entity, build, packed from definitions").fetchall()
        pointers = self.connection.execute("select entity, pointer from pointers").fetchall()
        return Catalog(
            {(entity, build): self._decoded(entity, build, packed) for entity, build, packed in definitions},
            dict(self.connection.execute("select entity, build from current").fetchall()),
            {entity: Pointer.parse(text) for entity, text in pointers},
        )

    def count(self, visible: Visible) -> int:
        """How many rows of the visible space no truncate has taken."""
        epochs = live_epochs(list(visible.watermark.partitions.values()))
        counts = self.connection.execute("select partition, epoch, rows from counts where space = ?", [visible.space])
        return sum(rows for partition, epoch, rows in counts if epoch >= epochs.get(partition, 0))

    def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters of a pipeline, and how many there are."""
        newest = self.connection.execute(
            "select packed from dead_letters where pipeline = ? order by time_ms desc, id desc limit ?",
            [pipeline, limit],
        )
        letters = [_decode_letter(packed) for (packed,) in newest]
        total = self.connection.execute("select count(*) from dead_letters where pipeline = ?", [pipeline]).fetchone()
        return letters, total[0]

    def _nothing_of(self, entity: str) -> Exception:
        known = [name for (name,) in self.connection.execute("select entity from current order by entity")]
        return pending(entity) if entity in known else UnknownEntity(entity, known)

    def _definition(self, entity: str, build: str) -> Definition:
        (packed,) = self.connection.execute(
            "select packed from definitions where entity = ? and build = ?", [entity, build]
        ).fetchone()
        return self._decoded(entity, build, packed)

    def _decoded(self, entity: str, build: str, packed: bytes) -> Definition:
        known = self._definitions.get((entity, build))
        if known is None or known.packed != packed:
            known = self._definitions[entity, build] = Definition(packed)
        return known
