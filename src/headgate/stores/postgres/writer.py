"""Writes to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from headgate.connections.postgres import Config
from headgate.errors import Refused, StoreError
from headgate.failpoints import reach
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, can_switch, decode_progress, is_behind, is_live, may_follow
from headgate.stores._delta import delta_of, touched
from headgate.stores._index import Indexes
from headgate.stores.base import Write, Writer
from headgate.stores.postgres import letters
from headgate.stores.postgres.rows import ROW, SPACE, Statement, place_of, store
from headgate.stores.postgres.steps import Found, Step, Steps
from headgate.stores.postgres.sweep import current_of, pointer_of, progress_of, sweep

_encode = msgspec.json.encode
_SNAPSHOT = "isolation level repeatable read read only"
_DEFINE = (
    "insert into definitions (entity, build, packed) values (%(entity)s, %(build)s, %(packed)b)"
    " on conflict (entity, build) do update set packed = excluded.packed"
)
_MAKE_CURRENT = (
    "insert into current (entity, build) values (%(entity)s, %(build)s)"
    " on conflict (entity) do update set build = excluded.build"
)
_SAVE = (
    "insert into progress (entity, build, partition, epoch, packed)"
    " values (%(entity)s, %(build)s, %(partition)s, %(epoch)s, %(packed)b)"
    " on conflict (entity, build, partition) do update set epoch = excluded.epoch, packed = excluded.packed"
)
_LOCK = (
    "select packed from progress where entity = %(entity)s and build = %(build)s and partition = %(partition)s"
    " for update"
)
_MAKE_SPACE = (
    "insert into spaces (entity, build, generation) select %(entity)s, %(build)s, %(generation)s"
    f" where {SPACE} is null on conflict do nothing"
)
_ROWS = f"select {ROW} from rows where space = {SPACE} and key = any(%(key)b::text[])"


def open_writer(target: Config, entities: Sequence[Entity]) -> Writer:
    """A writer of these entities. Connects, and makes the tables if needed, on first use."""
    return PostgresWriter(Steps(target), entities)


class PostgresWriter:
    """The way into one schema, on a connection of its own. One thread at a time uses it."""

    def __init__(self, steps: Steps, entities: Sequence[Entity]) -> None:
        self._steps = steps
        self._entities = {entity.name: entity for entity in entities}
        self._builds = {entity.name: entity.build for entity in entities}
        self._indexes = {entity.name: Indexes(entity) for entity in entities}

    def define(self, entities: Sequence[Entity]) -> None:
        """Publishes definitions, each as the newest build of its entity."""
        with self._steps.begin(alone=(entity.name for entity in entities)) as step:
            for entity in entities:
                given = {"entity": entity.name, "build": entity.build}
                step.send([(_DEFINE, {**given, "packed": _encode(entity)}), (_MAKE_CURRENT, given)])

    def claim(self, entity: str, partitions: Sequence[int]) -> dict[int, Progress]:
        """Raises the fences of these partitions, in one transaction that no crash takes back."""
        build = self._build(entity)
        with self._steps.begin(alone=[entity]) as step:
            step.do("set local synchronous_commit = on")
            stored = progress_of(step, entity, build)
            claimed = {number: _fenced(stored.get(number, Progress())) for number in partitions}
            step.send([_saved(entity, build, number, progress) for number, progress in claimed.items()])
        return claimed

    def read(self, entity: str, generation: int, keys: Sequence[str]) -> dict[str, Row]:
        """The rows of these keys that no truncate has taken."""
        build = self._build(entity)
        given = {**place_of(entity, Space(build, generation)), "key": list(keys)}
        with self._steps.begin(mode=_SNAPSHOT) as step:
            progress = progress_of(step, entity, build)
            found = step.ask(_ROWS, **given) if keys else []
        rows = [Row(*columns) for columns in found]
        return {row.key: row for row in rows if is_live(row, progress)}

    def apply(self, writes: Sequence[Write]) -> None:
        """All writes in one transaction, or none of them."""
        if not writes:
            return
        with self._steps.begin(shared=(write.entity for write in writes)) as step:
            places = [place_of(write.entity, Space(self._build(write.entity), write.progress.generation))
                      for write in writes]  # fmt: skip
            keys = [touched(write) for write in writes]
            stored = self._locked(step, writes, places, keys)
            statements: list[Statement] = []
            for write, place, found in zip(writes, places, stored, strict=True):
                statements += self._statements(write, place, found)
            step.send(statements)
            reach("materialize.before_step")

    def apply_each(self, steps: Iterable[Sequence[Write]]) -> None:
        """One transaction for each step."""
        for writes in steps:
            self.apply(writes)

    def switch(self, entity: str, generation: int) -> bool:
        """Moves the entity's pointer to this build and generation, if that is whole and may be seen."""
        build, partitions = self._build(entity), self._entities[entity].partitions
        wanted = Pointer(Space(build, generation), partitions)
        with self._steps.begin(alone=[entity]) as step:
            pointer = pointer_of(step, entity)
            if pointer == wanted:
                return True
            stored = progress_of(step, entity, build)
            is_whole = can_switch([stored.get(number) for number in range(partitions)], generation)
            if not is_whole or not may_follow(pointer, current_of(step, entity), build, generation):
                return False
            if pointer is not None and is_behind(stored, progress_of(step, entity, pointer.space.build)):
                return False
            step.do(
                "insert into pointers (entity, pointer) values (%(entity)s, %(pointer)s)"
                " on conflict (entity) do update set pointer = excluded.pointer",
                entity=entity,
                pointer=wanted.text(),
            )
        return True

    def sweep(self, entity: str, limit: int) -> int:
        """Removes up to `limit` rows and index entries that nobody reads, in one transaction."""
        with self._steps.begin(alone=[entity]) as step:
            return sweep(step, self._entities[entity], self._build(entity), limit)

    def drop_dead_letters(self, pipeline: str, ids: Sequence[str]) -> int:
        """Removes dead letters."""
        with self._steps.begin() as step:
            return step.send(letters.remove(pipeline, ids))[-1].rowcount if ids else 0

    def dead_letter_ids(self, pipeline: str) -> Sequence[str]:
        """The ids of all letters, the oldest first."""
        with self._steps.begin() as step:
            return letters.ids(step, pipeline)

    def dead_letters(self, pipeline: str, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Letters by their ids."""
        with self._steps.begin() as step:
            return letters.of(step, pipeline, ids)

    def uncopied_dead_letters(self, pipeline: str, limit: int) -> Sequence[DeadLetter]:
        """Letters that are not noted as copied."""
        with self._steps.begin() as step:
            return letters.uncopied(step, pipeline, limit)

    def note_copied(self, pipeline: str, ids: Sequence[str]) -> None:
        """Notes that letters are copied."""
        with self._steps.begin() as step:
            letters.note_copied(step, pipeline, ids)

    def close(self) -> None:
        """Closes the connection."""
        self._steps.close()

    def _build(self, entity: str) -> str:
        try:
            return self._builds[entity]
        except KeyError as error:
            raise StoreError(f"this writer was not opened with the entity {entity!r}") from error

    def _locked(
        self, step: Step, writes: Sequence[Write], places: Sequence[dict[str, Any]], keys: Sequence[Sequence[str]]
    ) -> list[dict[str, Row]]:
        """The stored rows of each write's keys, once every partition is locked and where it is expected to be."""
        locks: list[Statement] = [
            (_LOCK, {"entity": write.entity, "build": place["build"], "partition": write.partition})
            for write, place in sorted(zip(writes, places, strict=True), key=lambda pair: _order_of(pair[0]))
        ]
        asked = [number for number, some in enumerate(keys) if some]
        questions: list[Statement] = [(_MAKE_SPACE, places[number]) for number in asked]
        questions += [(_ROWS, {**places[number], "key": keys[number]}) for number in asked]
        found = step.send([*locks, *questions])
        _check(sorted(writes, key=_order_of), found)
        rows = dict(zip(asked, found[len(locks) + len(asked) :], strict=True))
        return [_rows(rows[number]) if number in rows else {} for number in range(len(writes))]

    def _statements(self, write: Write, place: dict[str, Any], stored: dict[str, Row]) -> Iterable[Statement]:
        yield from store(place, delta_of(self._indexes[write.entity], write, stored))
        yield _saved(write.entity, place["build"], write.partition, write.progress)
        for letter in write.dead_letters:
            yield from letters.keep(letter)
        if write.settled:
            yield from letters.remove(self._entities[write.entity].pipeline, write.settled)


def _order_of(write: Write) -> tuple[str, int]:
    """Locks are taken in one order by all, so that nobody waits for another who waits for him."""
    return write.entity, write.partition


def _check(writes: Sequence[Write], found: Sequence[Found]) -> None:
    for write, one in zip(writes, found, strict=False):
        stored = one.fetchone()
        if stored is None or decode_progress(stored[0]) != write.expected:
            raise Refused(
                f"partition {write.partition} of {write.entity} is not where this writer left it: claim it anew",
                entity=write.entity,
                partition=write.partition,
            )


def _rows(found: Found) -> dict[str, Row]:
    return {columns[0]: Row(*columns) for columns in found}


def _saved(entity: str, build: str, partition: int, progress: Progress) -> Statement:
    given = {"entity": entity, "build": build, "partition": partition}
    return _SAVE, {**given, "epoch": progress.epoch, "packed": _encode(progress)}


def _fenced(progress: Progress) -> Progress:
    return msgspec.structs.replace(progress, fence=progress.fence + 1)
