"""What every optimistic step on Redis shares: trying again, rows as replies, a delta as commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from headgate.errors import Unavailable
from headgate.model.row import Row, decode_row, encode_row
from headgate.stores._delta import Delta
from headgate.stores._index import Entry, Indexes
from headgate.stores.redis.keys import SpaceKeys
from headgate.stores.redis.link import Command

_ATTEMPTS = 100
_Done = TypeVar("_Done")


def until_done(attempt: Callable[[], _Done | None]) -> _Done:
    """Tries until something other than None comes of it. Unavailable when others are always faster."""
    for _ in range(_ATTEMPTS):
        done = attempt()
        if done is not None:
            return done
    raise Unavailable("other writers keep changing the same keys: try again")


def pairs(keys: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Keys and values in turn, as MSET and ZADD take them."""
    return [item for pair in zip(keys, values, strict=True) for item in pair]


def decode_rows(keys: Sequence[str], replies: Sequence[bytes | None]) -> dict[str, Row]:
    """The rows among MGET's replies, by key."""
    found = zip(keys, replies, strict=True)
    return {key: decode_row(key, packed) for key, packed in found if packed is not None}


def commands_of(indexes: Indexes, space: SpaceKeys, delta: Delta) -> list[Command]:
    """The commands that apply a delta to a space. To be sent in one transaction."""
    commands: list[Command] = []
    if delta.rows:
        rows = delta.rows
        commands.append(("MSET", *pairs((space.row(row.key) for row in rows), map(encode_row, rows))))
    if delta.gone:
        commands.append(("UNLINK", *map(space.row, delta.gone)))
        commands.append(("ZREM", space.keys, *delta.gone))
    if delta.born:
        commands.append(("ZADD", space.keys, *_scored(delta.born)))
    commands += [("ZREM", name, *members) for name, members in _by_set(indexes, space, delta.removed).items()]
    commands += [("ZADD", name, *_scored(members)) for name, members in _by_set(indexes, space, delta.added).items()]
    commands += [
        ("HINCRBY", space.counts, f"{partition}.{epoch}", more)
        for (partition, epoch), more in delta.counts.items()
        if more
    ]
    return commands


def _scored(members: Sequence[Any]) -> list[Any]:
    return [item for member in members for item in (0, member)]


def _by_set(indexes: Indexes, space: SpaceKeys, entries: Sequence[Entry]) -> dict[bytes, list[bytes]]:
    sets: dict[bytes, list[bytes]] = defaultdict(list)
    for entry in entries:
        name, member = space.member(indexes, entry)
        sets[name].append(member)
    return sets
