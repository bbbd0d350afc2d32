"""Where things lie in Redis.

All keys of a shard share one hash tag, so that one transaction or script may touch them; there is one shard.

    {headgate:0}:definitions                     hash: <build>/<entity> → definition
    {headgate:0}:current                         hash: <entity> → the build that was defined last
    {headgate:0}:pointer:E                       <build>/<generation>/<partitions>
    {headgate:0}:layout:E                        counts every change of what spaces there are, and every sweep
    {headgate:0}:spaces:E                        set: <build>/<generation>
    {headgate:0}:p:E:<build>:<partition>         progress
    {headgate:0}:r:E:<build>:<generation>:<key>  a row, packed
    {headgate:0}:k:E:<build>:<generation>        sorted set, all scores 0: the keys
    {headgate:0}:n:E:<build>:<generation>        hash: <partition>.<epoch> → how many rows are stored
    {headgate:0}:z:E:<build>:<generation>:F      sorted set, all scores 0: <value> NUL <key>
    {headgate:0}:l:E:<build>:<generation>:F:<value>  sorted set, all scores 0: the keys
    {headgate:0}:g:E:<build>:<generation>:F:O:<value>  sorted set, all scores 0: <value of O> NUL <key>
    {headgate:0}:t:E:<build>:<generation>:L      sorted set, all scores 0: <key> NUL <what it leads to>
    {headgate:0}:letters:<pipeline>              hash: id → dead letter
    {headgate:0}:letter-times:<pipeline>         sorted set: id by time
    {headgate:0}:letters-uncopied:<pipeline>     set: ids that are not noted as copied

E, F, O and L are percent-encoded names of an entity, a field, an order and a lead (plain in `pointer`, whose key a
script makes).
Sorted sets whose scores are all equal are in the order of their members' bytes.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from headgate.model.entity import Group
from headgate.stores._catalog import Space
from headgate.stores._index import Entry, Indexes, split_group


class Keys:
    """The keys of one installation."""

    def __init__(self, prefix: str) -> None:
        self.base = f"{{{prefix}:0}}:".encode()
        self.definitions = self.base + b"definitions"
        self.current = self.base + b"current"

    def pointer(self, entity: str) -> bytes:
        """The key of an entity's pointer."""
        return self.base + b"pointer:" + entity.encode()

    def layout(self, entity: str) -> bytes:
        """The key of the counter that a sweep and a change of spaces raise."""
        return self.base + b"layout:" + entity.encode()

    def spaces(self, entity: str) -> bytes:
        """The key of the set of an entity's spaces."""
        return self.base + b"spaces:" + entity.encode()

    def progress(self, entity: str, build: str, partitions: range | list[int]) -> list[bytes]:
        """The keys of the progress of these partitions."""
        start = self.base + f"p:{_encoded(entity)}:{build}:".encode()
        return [start + b"%d" % number for number in partitions]

    def letters(self, pipeline: str) -> bytes:
        """The key of a pipeline's dead letters."""
        return self.base + b"letters:" + pipeline.encode()

    def letter_times(self, pipeline: str) -> bytes:
        """The key of their order."""
        return self.base + b"letter-times:" + pipeline.encode()

    def letters_uncopied(self, pipeline: str) -> bytes:
        """The key of the ids of those that are to be copied."""
        return self.base + b"letters-uncopied:" + pipeline.encode()

    def space(self, entity: str, space: Space) -> SpaceKeys:
        """The keys of one generation of one build."""
        return SpaceKeys(self.base, f"{_encoded(entity)}:{space.build}:{space.generation}".encode())


class SpaceKeys:
    """The keys of the rows and indexes of one space."""

    def __init__(self, base: bytes, name: bytes) -> None:
        self.rows = base + b"r:" + name + b":"
        self.keys = base + b"k:" + name
        self.counts = base + b"n:" + name
        self._ordered = base + b"z:" + name + b":"
        self._equal = base + b"l:" + name + b":"
        self._groups = base + b"g:" + name + b":"
        self._leads = base + b"t:" + name + b":"

    def row(self, key: str) -> bytes:
        """The key of one row."""
        return self.rows + key.encode("utf-8", "surrogatepass")

    def ordered(self, field: str) -> bytes:
        """The key of a field's order index."""
        return self._ordered + _encoded(field).encode()

    def equal(self, field: str, value: bytes) -> bytes:
        """The key of the keys under one value of a lookup field."""
        return self._equal + _encoded(field).encode() + b":" + value

    def group(self, group: Group, value: bytes) -> bytes:
        """The key of a group's rows under one value of its field."""
        order = _encoded(group.order_by or "")
        return self._groups + f"{_encoded(group.field)}:{order}:".encode() + value

    def lead(self, name: str) -> bytes:
        """The key of what rows lead to, by their keys."""
        return self._leads + _encoded(name).encode()

    def member(self, indexes: Indexes, entry: Entry) -> tuple[bytes, bytes]:
        """The sorted set that an index entry lies in, and its member."""
        if entry.field in indexes.ordered:
            return self.ordered(entry.field), member_of(entry.value, entry.key)
        if (group := indexes.groups.get(entry.field)) is not None:
            value, order = split_group(entry.value)
            return self.group(group, value), member_of(order, entry.key)
        if entry.field in indexes.leads:
            return self.lead(entry.field), member_of(entry.key.encode(), "") + entry.value
        return self.equal(entry.field, entry.value), entry.key.encode()


@lru_cache(maxsize=4096)
def _encoded(name: str) -> str:
    return quote(name, safe="")


def member_of(value: bytes, key: str) -> bytes:
    """A member of an order index."""
    return value + b"\x00" + key.encode()
