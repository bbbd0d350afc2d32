"""What a fenced writer remembers of the rows that it alone writes, so that it need not read them again.

Of each row: whether it is there, its stamp, and the JSON of the fields that indexes are made of. It is bounded, and
holds as long as nobody else has changed a row of the space: a sweep raises the entity's layout, and another writer
raises the fence, so that whoever remembers compares both before each step and forgets all when either is another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from headgate.model.entity import Entity
from headgate.model.row import Row

ABSENT = b""
"""What is remembered of a key under which nothing is stored."""
_MOST_BYTES = 48 << 20
_PER_ENTRY = 150
"""Bytes that a dictionary and two objects take beside their contents, about."""
BETWEEN = b"\x00"
"""Stands between the fields' JSON, which holds none."""


class Narrowing:
    """What is remembered of one entity's rows, as bytes: `<partition>.<epoch>.<flaw>|`, then each field's JSON."""

    def __init__(self, entity: Entity) -> None:
        orders = (group.order_by for group in entity.groups if group.order_by)
        fields = (*entity.lookups, *entity.sorted, *(group.field for group in entity.groups), *orders)
        self.fields = tuple(dict.fromkeys((*fields, *(lead.field for lead in entity.leads))))
        self._names = [msgspec.json.encode(name) + b":" for name in self.fields]
        self.narrow = _narrower(self.fields)
        """(stamp, rows' JSON) → what is remembered of each. msgspec.DecodeError for what is no JSON object."""
        self._stamps: dict[bytes, bytes] = {}

    def of_packed(self, packed: bytes | None) -> bytes:
        """What is remembered of a row as it is stored."""
        if packed is None:
            return ABSENT
        stamp, mark, json = packed.partition(b"|")
        return self.narrow(self.stamp(stamp + mark), [json])[0]

    def stamp(self, stamp: bytes) -> bytes:
        """The one object of all equal stamps: where no field is remembered, it is all that a row costs."""
        if len(self._stamps) > 1_000:
            self._stamps.clear()
        return self._stamps.setdefault(stamp, stamp)

    def row(self, key: str, remembered: bytes) -> Row | None:
        """What is remembered, as a row whose JSON has those fields alone."""
        if remembered == ABSENT:
            return None
        stamp, _, values = remembered.partition(b"|")
        partition, epoch, flaw = stamp.split(b".", 2)
        fields = values.split(BETWEEN) if self.fields else []
        json = b"{%s}" % b",".join([name + value for name, value in zip(self._names, fields, strict=True)])
        return Row(key, int(partition), int(epoch), json, flaw.decode())


class Memory:
    """What is remembered of one space. Old entries go when it is full; the rest is as of `layout`."""

    def __init__(self, note_growth: Callable[[int], None]) -> None:
        self._note_growth = note_growth
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self.layout: bytes | None = None
        """The entity's layout when the first of it was learnt; None while there is nothing."""

    def known(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is remembered of each key; None where that is nothing."""
        found = list(map(self._young.get, keys))
        if self._old and None in found:
            again = {
                key: entry
                for key, one in zip(keys, found, strict=True)
                if one is None and (entry := self._old.get(key)) is not None
            }
            self.learn(again)
            found = [again.get(key) if one is None else one for key, one in zip(keys, found, strict=True)]
        return found

    def learn(self, entries: Mapping[str, bytes]) -> None:
        """Remembers these in place of what was known of their keys."""
        before = len(self._young)
        self._young.update(entries)
        if grown := len(self._young) - before:
            size = sum(map(len, entries)) + sum(map(len, entries.values()))
            self._note_growth(grown * _PER_ENTRY + size * grown // len(entries))

    def forget(self) -> None:
        """Forgets all."""
        self._young, self._old, self.layout = {}, {}, None

    def age(self) -> int:
        """Forgets what was not asked for since the last time. Answers how much it still remembers, in entries."""
        self._young, self._old = {}, self._young
        return len(self._old)


class Memories:
    """The memories of one writer, by entity and space; together they take about `most_bytes`."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._memories: dict[tuple[str, str], Memory] = {}

    def of(self, entity: str, space: str) -> Memory:
        """The memory of a space."""
        memory = self._memories.get((entity, space))
        if memory is None:
            memory = self._memories[entity, space] = Memory(self._grew)
        return memory

    def forget(self, entity: str | None = None) -> None:
        """Forgets all, or all of an entity."""
        for (name, _), memory in self._memories.items():
            if entity in (None, name):
                memory.forget()

    def tidy(self) -> None:
        """Makes room. Nothing that was learnt since the last time goes."""
        if self._bytes > self._most_bytes // 2:
            self._bytes = 0
            self._memories = {place: memory for place, memory in self._memories.items() if memory.age()}

    def _grew(self, size: int) -> None:
        self._bytes += size


def _narrower(fields: Sequence[str]) -> Callable[[bytes, Collection[bytes]], list[bytes]]:
    """Takes the JSON of some members of each object as it is; a missing one is null."""
    if not fields:
        return lambda stamp, rows: [stamp] * len(rows)
    null = msgspec.Raw(b"null")
    places = {f"f{place}": name for place, name in enumerate(fields)}
    form = msgspec.defstruct("Narrowed", [(place, msgspec.Raw, null) for place in places], rename=places, gc=False)
    decode, to_tuple = msgspec.json.Decoder(form).decode, msgspec.structs.astuple
    if len(fields) == 1:
        return lambda stamp, rows: [stamp + decode(json).f0 for json in rows]  # type: ignore[attr-defined]  # the form is made here
    return lambda stamp, rows: [stamp + BETWEEN.join(to_tuple(decode(json))) for json in rows]
