"""Writes to Redis.

Everything is optimistic: WATCH, read, compute, MULTI … EXEC. How steps of rows go is in stepping.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from headgate.connections.redis import Config
from headgate.errors import StoreError
from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, can_switch, decode_progress, is_behind, is_live, may_follow
from headgate.stores.base import Write, Writer
from headgate.stores.redis import letters
from headgate.stores.redis.keys import Keys
from headgate.stores.redis.link import Command, Link
from headgate.stores.redis.rows import Kept
from headgate.stores.redis.stepping import Stepping
from headgate.stores.redis.steps import decode_rows, pairs, until_done
from headgate.stores.redis.sweep import Cleaner

_encode = msgspec.json.encode


def open_writer(target: Config, entities: Sequence[Entity]) -> Writer:
    """A writer of these entities. Connects on first use."""
    return RedisWriter(Link(target.connect()), Keys(target.prefix), entities)


class RedisWriter:
    """The way into one Redis, on a connection of its own. One thread at a time uses it."""

    def __init__(self, link: Link, keys: Keys, entities: Sequence[Entity]) -> None:
        self._link = link
        self._keys = keys
        self._entities = {entity.name: entity for entity in entities}
        self._kept = {entity.name: Kept(entity) for entity in entities}
        self._stepping = Stepping(link, keys, self._kept)
        self._cleaner = Cleaner(link, keys)

    def define(self, entities: Sequence[Entity]) -> None:
        """Publishes definitions, each as the newest build of its entity."""
        commands: list[Command] = []
        for entity in entities:
            build = entity.build
            commands.append(("HSET", self._keys.definitions, f"{build}/{entity.name}", _encode(entity)))
            commands.append(("HSET", self._keys.current, entity.name, build))
            commands.append(("INCR", self._keys.layout(entity.name)))
        if commands:
            self._link.write(commands)

    def claim(self, entity: str, partitions: Sequence[int]) -> dict[int, Progress]:
        """Raises the fences of these partitions, in one transaction."""
        keys = self._keys.progress(entity, self._build(entity), list(partitions))
        if not keys:
            return {}

        self._stepping.forget(entity)

        def attempt() -> dict[int, Progress] | None:
            _, stored = self._link.ask([("WATCH", *keys), ("MGET", *keys)])
            claimed = [_fenced(decode_progress(packed)) for packed in stored]
            done = self._link.transact([("MSET", *pairs(keys, [_encode(one) for one in claimed]))])
            return dict(zip(partitions, claimed, strict=True)) if done else None

        return until_done(attempt)

    def read(self, entity: str, generation: int, keys: Sequence[str]) -> dict[str, Row]:
        """The rows of these keys that no truncate has taken."""
        build, count = self._build(entity), self._entities[entity].partitions
        space = self._keys.space(entity, Space(build, generation))
        wanted = [*self._keys.progress(entity, build, range(count)), *map(space.row, keys)]
        (found,) = self._link.ask([("MGET", *wanted)])
        progress = {number: decode_progress(packed) for number, packed in enumerate(found[:count])}
        rows = decode_rows(keys, found[count:])
        return {key: row for key, row in rows.items() if is_live(row, progress)}

    def apply(self, writes: Sequence[Write]) -> None:
        """All writes in one transaction, or none of them."""
        self.apply_each([writes])

    def apply_each(self, steps: Iterable[Sequence[Write]]) -> None:
        """One transaction for each step; the next one is made ready while it is under way."""
        self._stepping.apply(writes for writes in steps if writes)

    def switch(self, entity: str, generation: int) -> bool:
        """Moves the entity's pointer to this build and generation, if that is whole and may be seen."""
        return until_done(lambda: self._switch_once(entity, generation))

    def sweep(self, entity: str, limit: int) -> int:
        """Removes up to `limit` rows, with their index entries, that nobody reads; a few hundred at a time."""
        return self._cleaner.sweep(self._entities[entity], self._build(entity), limit)

    def drop_dead_letters(self, pipeline: str, ids: Sequence[str]) -> int:
        """Removes dead letters."""
        if not ids:
            return 0
        dropped: int = self._link.write(letters.remove(self._keys, pipeline, ids))[0]
        return dropped

    def dead_letter_ids(self, pipeline: str) -> Sequence[str]:
        """The ids of all letters, the oldest first."""
        return letters.ids(self._link, self._keys, pipeline)

    def dead_letters(self, pipeline: str, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Letters by their ids."""
        return letters.of(self._link, self._keys, pipeline, ids)

    def uncopied_dead_letters(self, pipeline: str, limit: int) -> Sequence[DeadLetter]:
        """Letters that are not noted as copied."""
        return letters.uncopied(self._link, self._keys, pipeline, limit)

    def note_copied(self, pipeline: str, ids: Sequence[str]) -> None:
        """Notes that letters are copied."""
        if ids:
            self._link.write([("SREM", self._keys.letters_uncopied(pipeline), *ids)])

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()

    def _build(self, entity: str) -> str:
        try:
            return self._kept[entity].build
        except KeyError as error:
            raise StoreError(f"this writer was not opened with the entity {entity!r}") from error

    def _switch_once(self, entity: str, generation: int) -> bool | None:
        build, count = self._build(entity), self._entities[entity].partitions
        place, progress = self._keys.pointer(entity), self._keys.progress(entity, build, range(count))
        layout = self._keys.layout(entity)
        wanted = Pointer(Space(build, generation), count)
        _, seen, current, stored = self._link.ask(
            [
                ("WATCH", place, layout, *progress),
                ("GET", place),
                ("HGET", self._keys.current, entity),
                ("MGET", *progress),
            ]
        )
        pointer = Pointer.parse(seen.decode()) if seen else None
        held = _by_partition(stored)
        newest = current.decode() if current else None
        if (
            pointer == wanted
            or not can_switch([held.get(number) for number in range(count)], generation)
            or not may_follow(pointer, newest, build, generation)
            or (pointer is not None and is_behind(held, self._watched_progress(entity, pointer)))
        ):
            self._link.ask([("UNWATCH",)])
            return pointer == wanted
        return True if self._link.transact([("SET", place, wanted.text()), ("INCR", layout)]) else None

    def _watched_progress(self, entity: str, pointer: Pointer) -> dict[int, Progress]:
        """How far the build is that readers see, watched from now on."""
        keys = self._keys.progress(entity, pointer.space.build, range(pointer.partitions))
        _, stored = self._link.ask([("WATCH", *keys), ("MGET", *keys)])
        return _by_partition(stored)


def _by_partition(stored: Sequence[bytes | None]) -> dict[int, Progress]:
    return {number: decode_progress(one) for number, one in enumerate(stored) if one}


def _fenced(progress: Progress) -> Progress:
    return msgspec.structs.replace(progress, fence=progress.fence + 1)
