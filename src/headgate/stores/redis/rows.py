"""What a write does to rows, indexes and counts, as commands: as few and as cheap as what is remembered allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import compress, repeat
from operator import not_
from typing import TypeAlias

import msgspec

from headgate.errors import StoreError
from headgate.model.entity import Entity
from headgate.model.row import Row, encode_row
from headgate.stores._delta import Delta, after, note
from headgate.stores._index import Indexes
from headgate.stores.base import Write
from headgate.stores.redis.keys import SpaceKeys, member_of
from headgate.stores.redis.link import Command
from headgate.stores.redis.memory import ABSENT, BETWEEN, Narrowing
from headgate.stores.redis.packing import pack_mset, pack_zadd, pack_zrem
from headgate.stores.redis.steps import commands_of

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
Place: TypeAlias = tuple[bytes, bytes]
Changed: TypeAlias = tuple[str, bytes, bytes]
"""A key, what was remembered of it, and what is now."""
_SHORT = 200
"""Bytes up to which a text is surely held by a lookup as it is."""


class Kept:
    """How the rows of one entity's current build are kept."""

    def __init__(self, entity: Entity) -> None:
        self.build = entity.build
        self.pipeline = entity.pipeline
        self.narrowing = Narrowing(entity)
        self._indexes = Indexes(entity)
        self._texts = {field.name for field in entity.fields if field.type == "string"}
        fields = self.narrowing.fields
        self._is_plain = sorted(self._indexes.names) == sorted(fields)
        is_text = self._is_plain and fields == self._indexes.equal and self._texts.issuperset(fields)
        self._text = fields[0] if is_text and len(fields) == 1 else None
        """The field of the one index, where that is a lookup of texts."""

    def remembered(self, write: Write, keys: Sequence[str], stored: Mapping[str, Row]) -> list[bytes]:
        """What is to be remembered after a write of each key that it touches. `stored` has the rows that it flaws."""
        try:
            now = self.narrowing.narrow(self.stamp(write), write.puts.values())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError("a row holds no JSON object: sync must not write such rows") from error
        now += [ABSENT] * (len(keys) - len(now))
        if write.flaws:
            for place, key in enumerate(keys):
                if key in write.flaws:
                    row = after(write, key, stored.get(key))
                    now[place] = self.narrowing.of_packed(encode_row(row) if row else None)
        return now

    def stamp(self, write: Write) -> bytes:
        """The stamp of the rows that a write puts."""
        return self.narrowing.stamp(b"%d.%d.|" % (write.partition, write.progress.epoch))

    def put(self, space: SpaceKeys, write: Write, stored: Mapping[str, Row]) -> list[Command]:
        """Stores the rows themselves."""
        commands: list[Command] = []
        if write.puts:
            keys = list(map(str.encode, write.puts))
            commands.append(pack_mset(space.rows, keys, self.stamp(write), write.puts.values()))
        for key in write.flaws:
            row = after(write, key, stored.get(key))
            if row is not None:
                commands.append(("SET", space.row(key), encode_row(row)))
        return commands

    def move(self, space: SpaceKeys, stamp: bytes, changed: Sequence[Changed]) -> list[Command]:
        """Mends keys, counts and indexes where what is remembered of a key is another than before.

        `stamp` is that of rows that were put.
        """
        if self._is_plain:
            return self._move_plain(space, stamp, changed)
        delta, row = Delta(), self.narrowing.row
        for key, old, new in changed:
            note(delta, self._indexes, row(key, old), row(key, new), key)
        return commands_of(self._indexes, space, delta)

    def _move_plain(self, space: SpaceKeys, stamp: bytes, changed: Sequence[Changed]) -> list[Command]:
        """The same where each index is one field's, at a fourth of the cost."""
        moves, placers = _Moves(), [self._placer(space, field) for field in self.narrowing.fields]
        commands, changed = self._swapped(space, stamp, changed)
        for text, old, new in changed:
            key = text.encode()
            old_stamp, _, old_values = old.partition(b"|")
            new_stamp, _, new_values = new.partition(b"|")
            if old_stamp != new_stamp:
                moves.restamp(key, old_stamp, new_stamp)
            if placers:
                before = old_values.split(BETWEEN) if old else repeat(None)
                now = new_values.split(BETWEEN) if new else repeat(None)
                for place, leaving, coming in zip(placers, before, now, strict=False):
                    if leaving != coming:
                        moves.move(key, place(leaving) if leaving else None, place(coming) if coming else None)
        return commands + moves.commands(space)

    def _swapped(
        self, space: SpaceKeys, stamp: bytes, changed: Sequence[Changed]
    ) -> tuple[list[Command], Sequence[Changed]]:
        """The commands for rows that stay, and whose one looked-up text is another now; and the changes that are left.

        For the commonest index, all columns at once. What it does is what is done with each change alone; it leaves
        them to that where texts are long or need decoding, or where several of these rows share one.
        """
        if self._text is None:
            return [], changed
        begun = stamp + b'"'
        are_texts = [old.startswith(begun) and new.startswith(begun) for _, old, new in changed]
        swapped = list(compress(changed, are_texts))
        bare = slice(len(begun), -1)
        left, came = [old[bare] for _, old, _ in swapped], [new[bare] for _, _, new in swapped]
        if not swapped or not (_are_as_held(left) and _are_as_held(came)):
            return [], changed
        start = space.equal(self._text, b"s")  # as `Indexes.value` has it
        keys = [key.encode() for key, _, _ in swapped]
        commands: list[Command] = [pack_zrem(start, left, keys), pack_zadd(start, came, keys)]
        return commands, list(compress(changed, map(not_, are_texts)))

    def _placer(self, space: SpaceKeys, field: str) -> Callable[[bytes], Place]:
        """A field's JSON → the sorted set in which its index holds it, and what its members begin with."""
        value = partial(self._value, field)
        if field in self._indexes.ordered:
            ordered = space.ordered(field)
            return lambda json: (ordered, member_of(value(json), ""))
        start = space.equal(field, b"")
        if field not in self._texts:
            return lambda json: (start + value(json), b"")

        def place(json: bytes) -> Place:
            if len(json) < _SHORT and json[:1] == b'"' and b"\\" not in json:
                return start + b"s" + json[1:-1], b""  # as `Indexes.value` has it
            return start + value(json), b""

        return place

    def _value(self, field: str, json: bytes) -> bytes:
        try:
            return self._indexes.value(field, _decode(json))
        except msgspec.DecodeError as error:
            raise StoreError("a row holds text that is no Unicode: sync must not write such rows") from error


def _are_as_held(texts: Sequence[bytes]) -> bool:
    """Whether a lookup surely holds these as JSON has them between its quotes, each in a set of its own."""
    return max(map(len, texts)) < _SHORT - 2 and b"\\" not in b"".join(texts) and len(set(texts)) == len(texts)


class _Moves:
    """Changes of keys, counts and sorted sets."""

    def __init__(self) -> None:
        self._born: list[bytes] = []
        self._gone: list[bytes] = []
        self._counts: Counter[bytes] = Counter()
        self._left: dict[bytes, list[bytes]] = {}
        self._came: dict[bytes, list[bytes]] = {}

    def restamp(self, key: bytes, old: bytes, new: bytes) -> None:
        """`<partition>.<epoch>.<flaw>` before and after; empty where there is no row."""
        if new:
            self._counts[new.rpartition(b".")[0]] += 1
            if not old:
                self._born.append(key)
        if old:
            self._counts[old.rpartition(b".")[0]] -= 1
            if not new:
                self._gone.append(key)

    def move(self, key: bytes, left: Place | None, came: Place | None) -> None:
        """A key leaves a sorted set, or comes into one, or both."""
        if left == came:
            return
        if left:
            self._left.setdefault(left[0], []).append(left[1] + key)
        if came:
            self._came.setdefault(came[0], []).append(came[1] + key)

    def commands(self, space: SpaceKeys) -> list[Command]:
        """All of it."""
        commands: list[Command] = []
        if self._gone:
            commands.append(("UNLINK", *[space.rows + key for key in self._gone]))
            commands.append(("ZREM", space.keys, *self._gone))
        if self._born:
            commands.append(_zadd(space.keys, self._born))
        commands += [(b"ZREM", name, *members) for name, members in self._left.items()]
        commands += [_zadd(name, members) for name, members in self._came.items()]
        commands += [("HINCRBY", space.counts, stamp, more) for stamp, more in self._counts.items() if more]
        return commands


def _zadd(name: bytes, members: list[bytes]) -> Command:
    if len(members) == 1:
        return (b"ZADD", name, b"0", members[0])
    return (b"ZADD", name, *[item for member in members for item in (b"0", member)])
