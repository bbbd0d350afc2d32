"""Dead letters in Redis: the commands that a writer's transactions hold, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headgate.model.pipeline import DeadLetter
from headgate.stores.redis.keys import Keys
from headgate.stores.redis.link import Command, Link

_decode = msgspec.msgpack.Decoder(DeadLetter).decode


def keep(keys: Keys, letter: DeadLetter) -> list[Command]:
    """Keeps a letter in place of one with its id; unless it was tried again, it is due to be copied."""
    commands: list[Command] = [
        ("HSET", keys.letters(letter.pipeline), letter.id, msgspec.msgpack.encode(letter)),
        ("ZADD", keys.letter_times(letter.pipeline), letter.time_ms, letter.id),
    ]
    if not letter.tried_ms:
        commands.append(("SADD", keys.letters_uncopied(letter.pipeline), letter.id))
    return commands


def remove(keys: Keys, pipeline: str, ids: Sequence[str]) -> list[Command]:
    """Removes letters; the first reply says how many there were."""
    return [
        ("HDEL", keys.letters(pipeline), *ids),
        ("ZREM", keys.letter_times(pipeline), *ids),
        ("SREM", keys.letters_uncopied(pipeline), *ids),
    ]


def ids(link: Link, keys: Keys, pipeline: str) -> list[str]:
    """All ids, the oldest first."""
    (found,) = link.ask([("ZRANGE", keys.letter_times(pipeline), 0, -1)])
    return [id_.decode() for id_ in found]


def of(link: Link, keys: Keys, pipeline: str, ids: Sequence[str | bytes]) -> list[DeadLetter]:
    """The letters of these ids that are there, in their order."""
    if not ids:
        return []
    (found,) = link.ask([("HMGET", keys.letters(pipeline), *ids)])
    return [_decode(packed) for packed in found if packed]


def uncopied(link: Link, keys: Keys, pipeline: str, limit: int) -> list[DeadLetter]:
    """Letters that are not noted as copied."""
    (some,) = link.ask([("SRANDMEMBER", keys.letters_uncopied(pipeline), limit)])
    return of(link, keys, pipeline, some)
