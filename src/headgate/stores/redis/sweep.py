"""Removes from Redis what nobody reads any more, a few hundred rows in a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from headgate.model.entity import Entity
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, decode_progress, is_dead, is_live, kept_builds, retired
from headgate.stores._delta import removal_of
from headgate.stores._index import Indexes
from headgate.stores.redis.keys import Keys, SpaceKeys
from headgate.stores.redis.link import Command, Link
from headgate.stores.redis.steps import commands_of, decode_rows, until_done

_CHUNK = 250


class _Layout(msgspec.Struct, frozen=True):
    """What spaces an entity has, and which of them matter."""

    pointer: Pointer | None
    kept: set[str]
    spaces: list[Space]


class Cleaner:
    """Sweeps on a writer's connection.

    Every chunk is computed and removed under a WATCH of the entity's layout and of the rows themselves, and
    raises the layout, so that a write that has just read one of these rows starts again.
    """

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._reached: dict[tuple[str, Space], str] = {}
        """How far the search for rows of old epochs has come, by key."""

    def sweep(self, entity: Entity, own: str, limit: int) -> int:
        """Removes up to `limit` rows; answers how many. `own` is the caller's build."""
        removed = 0
        while removed < limit:
            chunk = until_done(partial(self._step, entity, own, min(limit - removed, _CHUNK)))
            if chunk == 0:
                break
            removed += chunk
        return removed

    def _step(self, entity: Entity, own: str, limit: int) -> int | None:
        """One chunk; 0 when nothing is left, None when it must be tried again."""
        layout = self._layout(entity.name, own)
        for space in layout.spaces:
            definition = self._definition(entity, own, space.build)
            if definition is None:
                continue
            removed = self._sweep_space(definition, layout, space, limit)
            if removed != 0:
                return removed
        self._link.ask([("UNWATCH",)])
        return 0

    def _layout(self, entity: str, own: str) -> _Layout:
        _, seen, current, spaces = self._link.ask(
            [
                ("WATCH", self._keys.layout(entity)),
                ("GET", self._keys.pointer(entity)),
                ("HGET", self._keys.current, entity),
                ("SMEMBERS", self._keys.spaces(entity)),
            ]
        )
        pointer = Pointer.parse(seen.decode()) if seen else None
        kept = kept_builds(pointer, current.decode() if current else None, own)
        return _Layout(pointer, kept, sorted(Space.parse(text.decode()) for text in spaces))

    def _definition(self, entity: Entity, own: str, build: str) -> Entity | None:
        if build == own:
            return entity
        (packed,) = self._link.ask([("HGET", self._keys.definitions, f"{build}/{entity.name}")])
        return msgspec.json.decode(packed, type=Entity) if packed else None

    def _sweep_space(self, entity: Entity, layout: _Layout, space: Space, limit: int) -> int | None:
        progress_keys = self._keys.progress(entity.name, space.build, range(entity.partitions))
        if space.build not in layout.kept:
            _, stored = self._link.ask([("WATCH", *progress_keys), ("MGET", *progress_keys)])
            return self._empty(entity, layout, space, limit, _retirement(progress_keys, stored))
        (stored,) = self._link.ask([("MGET", *progress_keys)])
        progress = dict(enumerate(map(decode_progress, stored)))
        if is_dead(space, layout.pointer, progress.values()):
            return self._empty(entity, layout, space, limit, [])
        return self._remove_old_epochs(entity, space, progress, limit)

    def _empty(self, entity: Entity, layout: _Layout, space: Space, limit: int, more: list[Command]) -> int | None:
        """Removes rows of a dead space and, in the same step, does what `more` says; at last the space itself."""
        names = self._keys.space(entity.name, space)
        keys = self._keys_after(names, "", limit)
        if keys:
            return self._remove(entity, names, keys, self._watch(names, keys), more)
        builds_left = {other.build for other in layout.spaces if other != space}
        more = [*more, ("UNLINK", names.counts), ("SREM", self._keys.spaces(entity.name), space.text())]
        if space.build not in builds_left | layout.kept:
            more.append(("HDEL", self._keys.definitions, f"{space.build}/{entity.name}"))
        self._link.transact([*more, ("INCR", self._keys.layout(entity.name))])
        return None  # what was watched is so no longer: look again

    def _remove_old_epochs(self, entity: Entity, space: Space, progress: dict[int, Progress], limit: int) -> int | None:
        """Goes through the keys from where it last was, round to there again."""
        names = self._keys.space(entity.name, space)
        (counts,) = self._link.ask([("HGETALL", names.counts)])
        if not _has_old_epochs(counts, progress):
            return 0
        began = reached = self._reached.pop((entity.name, space), "")
        while True:
            keys = self._keys_after(names, reached, limit)
            if not keys and not began:
                return 0
            began, reached = (began, keys[-1]) if keys else ("", "")
            old = [row for row in self._watch(names, keys) if not is_live(row, progress)]
            if old:
                self._reached[entity.name, space] = reached
                return self._remove(entity, names, [row.key for row in old], old, [])

    def _keys_after(self, names: SpaceKeys, key: str, limit: int) -> list[str]:
        low = f"({key}" if key else "-"
        (members,) = self._link.ask([("ZRANGEBYLEX", names.keys, low, "+", "LIMIT", 0, limit)])
        return [member.decode() for member in members]

    def _watch(self, names: SpaceKeys, keys: list[str]) -> list[Row]:
        """These rows, watched from before they are read."""
        if not keys:
            return []
        places = [names.row(key) for key in keys]
        _, found = self._link.ask([("WATCH", *places), ("MGET", *places)])
        return list(decode_rows(keys, found).values())

    def _remove(
        self, entity: Entity, names: SpaceKeys, keys: list[str], rows: list[Row], more: list[Command]
    ) -> int | None:
        indexes = Indexes(entity)
        commands = commands_of(indexes, names, removal_of(indexes, rows))
        commands += [("ZREM", names.keys, *keys), *more, ("INCR", self._keys.layout(entity.name))]
        return len(keys) if self._link.transact(commands) else None


def _retirement(keys: Sequence[bytes], stored: Sequence[bytes | None]) -> list[Command]:
    """Turns away whoever still writes to a dead build, and lets nobody take it for whole."""
    found = [(key, decode_progress(packed)) for key, packed in zip(keys, stored, strict=True) if packed]
    return [
        ("SET", key, msgspec.json.encode(retired(progress)))
        for key, progress in found
        if progress != Progress(fence=progress.fence)
    ]


def _has_old_epochs(counts: Sequence[bytes], progress: dict[int, Progress]) -> bool:
    """Whether any row is stored with an epoch older than its partition's. `counts` is HGETALL's flat reply."""
    for stamp, count in zip(counts[::2], counts[1::2], strict=True):
        partition, epoch = (int(number) for number in stamp.split(b"."))
        if int(count) > 0 and epoch < progress.get(partition, Progress()).epoch:
            return True
    return False
