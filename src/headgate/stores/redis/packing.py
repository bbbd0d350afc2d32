"""Commands that a step sends very many of, packed for the wire column by column.

Packing them one by one costs more than all else that is done with a row. What stands before an argument depends on
nothing but its length, so that it is made once for each length; one call then joins all pieces.

Format: https://redis.io/docs/latest/develop/reference/protocol-spec/#arrays
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

_MOST_LENGTHS = 1_000
_MOST_STARTS = 16


class Packed(NamedTuple):
    """Commands as they are sent."""

    data: bytes
    replies: int
    """How many they bring."""
    queued: int = 0
    """If not 0, they are one transaction of so many commands."""


class Heads(dict[int, bytes]):
    """What stands before an argument, by its length: the end of the argument before it, and its own length.

    `start` is what the argument itself begins with; `before`, what comes first. Bounded.
    """

    def __init__(self, start: bytes = b"", before: bytes = b"\r\n") -> None:
        super().__init__()
        self._start = start
        self._before = before

    def __missing__(self, length: int) -> bytes:
        if len(self) >= _MOST_LENGTHS:
            self.clear()
        made = self[length] = b"%b$%d\r\n%b" % (self._before, len(self._start) + length, self._start)
        return made

    def of(self, arguments: Iterable[bytes]) -> Iterable[bytes]:
        """What stands before each of these."""
        return map(self.__getitem__, map(len, arguments))


class Starts:
    """The heads of arguments that begin alike."""

    def __init__(self, before: bytes = b"\r\n") -> None:
        self._before = before
        self._heads: dict[bytes, Heads] = {}

    def of(self, start: bytes) -> Heads:
        """The heads of arguments that begin with this."""
        heads = self._heads.get(start)
        if heads is None:
            if len(self._heads) >= _MOST_STARTS:
                self._heads.clear()
            heads = self._heads[start] = Heads(start, self._before)
        return heads


_PLAIN = Heads()
_NAMES, _VALUES = Starts(), Starts()
_REMOVED, _ADDED = Starts(b"*3\r\n$4\r\nZREM\r\n"), Starts(b"*4\r\n$4\r\nZADD\r\n")
_SCORED = Heads(before=b"\r\n$1\r\n0\r\n")


def pack_mset(name: bytes, keys: Sequence[bytes], stamp: bytes, values: Collection[bytes]) -> Packed:
    """`MSET`: each key begins with `name`, each value with `stamp`."""
    pieces = [b""] * (4 * len(keys))
    pieces[0::4] = _NAMES.of(name).of(keys)
    pieces[1::4] = keys
    pieces[2::4] = _VALUES.of(stamp).of(values)
    pieces[3::4] = values
    return Packed(b"*%d\r\n$4\r\nMSET%b\r\n" % (1 + 2 * len(keys), b"".join(pieces)), 1)


def pack_zrem(name: bytes, sets: Sequence[bytes], members: Sequence[bytes]) -> Packed:
    """A `ZREM` for each member, from the set whose name begins with `name`."""
    return _pack_each(_REMOVED.of(name), sets, _PLAIN, members)


def pack_zadd(name: bytes, sets: Sequence[bytes], members: Sequence[bytes]) -> Packed:
    """A `ZADD` for each member, to the set whose name begins with `name`. All scores are 0."""
    return _pack_each(_ADDED.of(name), sets, _SCORED, members)


def _pack_each(begun: Heads, sets: Sequence[bytes], between: Heads, members: Sequence[bytes]) -> Packed:
    pieces = [b"\r\n"] * (5 * len(sets))
    pieces[0::5] = begun.of(sets)
    pieces[1::5] = sets
    pieces[2::5] = between.of(members)
    pieces[3::5] = members
    return Packed(b"".join(pieces), len(sets))
