"""Writes to the embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from headgate.errors import Refused, StoreError
from headgate.failpoints import reach
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, can_switch, is_behind, is_live, may_follow
from headgate.stores._delta import delta_of, touched
from headgate.stores._index import Indexes
from headgate.stores.base import Write, Writer
from headgate.stores.sqlite import letters
from headgate.stores.sqlite.rows import store
from headgate.stores.sqlite.schema import connect_writer, reading, writing
from headgate.stores.sqlite.sweep import sweep
from headgate.stores.sqlite.tables import current_of, pointer_of, progress_of, rows_of, space_of

_encode = msgspec.json.encode
_BUSY_S = 10.0


def open_writer(target: Path, entities: Sequence[Entity]) -> Writer:
    """A writer of these entities. Makes the file if needed. Waits up to 10 s for another writer's turn to end."""
    return SqliteWriter(connect_writer(target, _BUSY_S), entities)


class SqliteWriter:
    """The way into one file. One thread at a time uses it."""

    def __init__(self, connection: sqlite3.Connection, entities: Sequence[Entity]) -> None:
        self._connection = connection
        self._entities = {entity.name: entity for entity in entities}
        self._builds = {entity.name: entity.build for entity in entities}
        self._indexes = {entity.name: Indexes(entity) for entity in entities}

    def define(self, entities: Sequence[Entity]) -> None:
        """Publishes definitions, each as the newest build of its entity."""
        with writing(self._connection):
            for entity in entities:
                build = entity.build
                self._connection.execute(
                    "insert or replace into definitions values (?, ?, ?)", [entity.name, build, _encode(entity)]
                )
                self._connection.execute("insert or replace into current values (?, ?)", [entity.name, build])

    def claim(self, entity: str, partitions: Sequence[int]) -> dict[int, Progress]:
        """Raises the fences of these partitions, in one transaction."""
        build = self._build(entity)
        with writing(self._connection):
            stored = progress_of(self._connection, entity, build)
            claimed = {number: _fenced(stored.get(number, Progress())) for number in partitions}
            for number, progress in claimed.items():
                self._save(entity, build, number, progress)
        return claimed

    def read(self, entity: str, generation: int, keys: Sequence[str]) -> dict[str, Row]:
        """The rows of these keys that no truncate has taken."""
        build = self._build(entity)
        with writing(self._connection):
            progress = progress_of(self._connection, entity, build)
            found = rows_of(self._connection, space_of(self._connection, entity, Space(build, generation)), keys)
        return {key: row for key, row in found.items() if is_live(row, progress)}

    def apply(self, writes: Sequence[Write]) -> None:
        """All writes in one transaction, or none of them."""
        with writing(self._connection):
            for write in writes:
                self._check(write)
            for write in writes:
                self._write(write)
            reach("materialize.before_step")

    def apply_each(self, steps: Iterable[Sequence[Write]]) -> None:
        """One transaction for each step."""
        for writes in steps:
            self.apply(writes)

    def switch(self, entity: str, generation: int) -> bool:
        """Moves the entity's pointer to this build and generation, if that is whole and may be seen."""
        build, partitions = self._build(entity), self._entities[entity].partitions
        wanted = Pointer(Space(build, generation), partitions)
        with writing(self._connection):
            pointer = pointer_of(self._connection, entity)
            if pointer == wanted:
                return True
            stored = progress_of(self._connection, entity, build)
            is_whole = can_switch([stored.get(number) for number in range(partitions)], generation)
            if not is_whole or not may_follow(pointer, current_of(self._connection, entity), build, generation):
                return False
            if pointer is not None and is_behind(stored, progress_of(self._connection, entity, pointer.space.build)):
                return False
            self._connection.execute("insert or replace into pointers values (?, ?)", [entity, wanted.text()])
        return True

    def sweep(self, entity: str, limit: int) -> int:
        """Removes up to `limit` rows and index entries that nobody reads, in one transaction."""
        with writing(self._connection):
            return sweep(self._connection, self._entities[entity], self._build(entity), limit)

    def drop_dead_letters(self, pipeline: str, ids: Sequence[str]) -> int:
        """Removes dead letters."""
        with writing(self._connection):
            return letters.remove(self._connection, pipeline, ids)

    def dead_letter_ids(self, pipeline: str) -> Sequence[str]:
        """The ids of all letters, the oldest first."""
        with reading(self._connection):
            return letters.ids(self._connection, pipeline)

    def dead_letters(self, pipeline: str, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Letters by their ids."""
        with reading(self._connection):
            return letters.of(self._connection, pipeline, ids)

    def uncopied_dead_letters(self, pipeline: str, limit: int) -> Sequence[DeadLetter]:
        """Letters that are not noted as copied."""
        with reading(self._connection):
            return letters.uncopied(self._connection, pipeline, limit)

    def note_copied(self, pipeline: str, ids: Sequence[str]) -> None:
        """Notes that letters are copied."""
        with writing(self._connection):
            letters.note_copied(self._connection, pipeline, ids)

    def close(self) -> None:
        """Closes the file."""
        try:
            self._connection.close()
        except sqlite3.Error:
            pass  # nothing is left to save: every transaction has ended

    def _build(self, entity: str) -> str:
        try:
            return self._builds[entity]
        except KeyError as error:
            raise StoreError(f"this writer was not opened with the entity {entity!r}") from error

    def _check(self, write: Write) -> None:
        found = self._connection.execute(
            "select packed from progress where entity = ? and build = ? and partition = ?",
            [write.entity, self._build(write.entity), write.partition],
        ).fetchone()
        if found is None or msgspec.json.decode(found[0], type=Progress) != write.expected:
            raise Refused(
                f"partition {write.partition} of {write.entity} is not where this writer left it: claim it anew",
                entity=write.entity,
                partition=write.partition,
            )

    def _write(self, write: Write) -> None:
        build = self._build(write.entity)
        keys = touched(write)
        if keys:
            space = self._space(write.entity, Space(build, write.progress.generation))
            stored = rows_of(self._connection, space, keys)
            store(self._connection, space, delta_of(self._indexes[write.entity], write, stored))
        self._save(write.entity, build, write.partition, write.progress)
        letters.keep(self._connection, write.dead_letters)
        if write.settled:
            letters.remove(self._connection, self._entities[write.entity].pipeline, write.settled)

    def _space(self, entity: str, space: Space) -> int:
        number = space_of(self._connection, entity, space)
        if number is not None:
            return number
        columns = "insert into spaces (entity, build, generation) values (?, ?, ?)"
        made = self._connection.execute(columns, [entity, *space]).lastrowid
        assert made is not None
        return made

    def _save(self, entity: str, build: str, partition: int, progress: Progress) -> None:
        self._connection.execute(
            "insert or replace into progress values (?, ?, ?, ?)", [entity, build, partition, _encode(progress)]
        )


def _fenced(progress: Progress) -> Progress:
    return msgspec.structs.replace(progress, fence=progress.fence + 1)
