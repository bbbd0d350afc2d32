"""How one grant sees the rows of one entity.

Each rule that gives some of an entity is a *part*: which rows, and how each field of them is treated. A row is
seen where it fits the conditions of at least one part, and each of its fields is treated as the most permissive
of the parts *that this row fits* says: a rule never shows a field of rows that only another rule gives.
A condition on a field (a filter, a look-up) is held against the rows of those parts alone in which the field
may be looked up by, so that what a row hides decides about nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from headgate.access.masks import of_json, treat
from headgate.access.parts import Box, Part, boxes_of, widest
from headgate.access.treatments import field_as_seen, most_permissive
from headgate.errors import StoreError
from headgate.model.access import Treatment
from headgate.model.entity import Entity
from headgate.model.row import Row, key_text
from headgate.model.table import ColumnType
from headgate.stores._index import Indexes, normalise

_MEMORY = 4_096
_LONGEST_REMEMBERED = 256
_decode_value = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder().encode
_UNSET: Any = msgspec.UNSET


class _Change(NamedTuple):
    """What is done to the fields of a row that fits certain parts."""

    hidden: tuple[str, ...]
    treated: tuple[tuple[str, Callable[[Any], Any]], ...]


class Lens:
    """One entity through the parts of one grant. For use by one thread at a time; all it does is deterministic."""

    def __init__(self, entity: Entity, indexes: Indexes, parts: Sequence[Part], key: bytes) -> None:
        self.entity = entity
        self.indexes = indexes
        self.parts = tuple(parts)
        self._key = key
        self._places = {field.name: f"f{number}" for number, field in enumerate(entity.fields)}
        self._decode = _decoder(self._places)
        self._conditions = tuple(dict.fromkeys(name for part in parts for name in part.allowed))
        self._every_part = (1 << len(self.parts)) - 1
        self._fitting: dict[tuple[bytes, ...], int] = {}
        self._changes: dict[int, _Change | None] = {}
        self._boxes: dict[frozenset[str], tuple[Box, ...]] = {}
        self._is_clear = not self._conditions and self._change(self._every_part) is None

    # --- rows -------------------------------------------------------------------------------------

    def see(self, row: Row) -> Row | None:
        """The row as it is answered; None for one that this grant does not see. StoreError: no JSON object."""
        if self._is_clear:
            return row
        try:
            values = self._decode(row.json)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError("a row holds no JSON object: sync must not write such rows") from error
        fitting = self._fits(values) if self._conditions else self._every_part
        if not fitting:
            return None
        change = self._changes[fitting] if fitting in self._changes else self._change(fitting)
        if change is None:
            return row
        for place in change.hidden:
            setattr(values, place, _UNSET)
        for place, treated in change.treated:
            raw = getattr(values, place)
            if raw is not _UNSET:
                setattr(values, place, treated(raw))
        return Row(row.key, row.partition, row.epoch, _encode(values), row.flaw)

    def _fits(self, values: Any) -> int:
        """The parts that a row fits, a bit for each. Remembered by the raw values that decide."""
        raw = tuple(bytes(getattr(values, self._places[name]) or b"") for name in self._conditions)
        known = self._fitting.get(raw)
        if known is not None:
            return known
        bits = self._bits(raw)
        if sum(map(len, raw)) <= _LONGEST_REMEMBERED:
            if len(self._fitting) >= _MEMORY:
                self._fitting.clear()
            self._fitting[raw] = bits
        return bits

    def _bits(self, raw: tuple[bytes, ...]) -> int:
        found = {name: self._indexed(name, value) for name, value in zip(self._conditions, raw, strict=True)}
        return sum(
            1 << number
            for number, part in enumerate(self.parts)
            if all(found[name] in allowed for name, allowed in part.allowed.items())
        )

    def _indexed(self, name: str, raw: bytes) -> bytes:
        """As the index has it. What can't be read equals nothing."""
        try:
            return self.indexes.value(name, _decode_value(raw) if raw else None)
        except msgspec.DecodeError:
            return b""

    def _change(self, fitting: int) -> _Change | None:
        parts = [part for number, part in enumerate(self.parts) if fitting >> number & 1]
        hidden, treated = [], []
        for field in self.entity.fields:
            treatment = most_permissive(part.treatments[field.name] for part in parts)
            if treatment.kind == "hide":
                hidden.append(self._places[field.name])
            elif treatment.kind != "show":
                treated.append((self._places[field.name], of_json(treat(treatment, field, self._key))))
        change = _Change(tuple(hidden), tuple(treated)) if hidden or treated else None
        self._changes[fitting] = change
        return change

    # --- which rows a question is held against ----------------------------------------------------

    def boxes(self, fields: Iterable[str] = ()) -> tuple[Box, ...]:
        """Where the rows lie in which all of these fields may be looked up by: together they hold all of them.

        None of them lies within another; two may overlap.
        """
        asked = frozenset(fields)
        if asked not in self._boxes:
            finding = [part for part in self.parts if all(part.finds(name) for name in asked)]
            self._boxes[asked] = widest(box for part in finding for box in boxes_of(part))
        return self._boxes[asked]

    # --- what there is to see ---------------------------------------------------------------------

    @cached_property
    def shown(self) -> Entity:
        """The entity as this grant sees it, without its relations."""
        seen = {field.name: self._treatments(field.name) for field in self.entity.fields}
        fields = tuple(
            field_as_seen(field, seen[field.name])
            for field in self.entity.fields
            if any(treatment.kind != "hide" for treatment in seen[field.name])
        )
        ordered = tuple(name for name in self.entity.sorted if self.is_plain_everywhere(name))
        others = (*self.entity.lookups, *(name for name in self.entity.sorted if name not in ordered))
        return msgspec.structs.replace(
            self.entity,
            fields=fields,
            lookups=tuple(dict.fromkeys(name for name in others if self.can_find(name))),
            sorted=ordered,
            relations=(),
            groups=(),
        )

    def _treatments(self, name: str) -> list[Treatment]:
        return [part.treatments[name] for part in self.parts if name in part.treatments]

    def can_find(self, name: str) -> bool:
        """Whether some rows may be looked up by the field. The key finds its row always."""
        if self.entity.key == (name,):
            return True
        return any(part.finds(name) for part in self.parts)

    def is_plain_somewhere(self, name: str) -> bool:
        """Whether some rows show the field as it is."""
        return any(treatment.kind == "show" for treatment in self._treatments(name))

    def is_plain_everywhere(self, name: str) -> bool:
        """Whether all rows show the field as it is."""
        treatments = self._treatments(name)
        return bool(treatments) and all(treatment.kind == "show" for treatment in treatments)

    @cached_property
    def has_all_rows(self) -> bool:
        """Whether some part gives every row."""
        return any(not part.allowed for part in self.parts)

    @cached_property
    def is_keyed(self) -> bool:
        """Whether a condition is on the key alone, which no index has: then rows are found by it."""
        return any(self.key_of(box) for part in self.parts for box in boxes_of(part))

    def key_of(self, box: Box) -> str:
        """The key text of the one row that a box can hold, where its condition on the key has no index."""
        (name, *more) = self.entity.key
        if more or name not in box.values or name in (*self.entity.lookups, *self.entity.sorted):
            return ""
        return key_text([normalise(_type_of(self.entity, name), box.values[name])])

    def shows(self, row: Row, field: str) -> bool:
        """Whether a stored row shows the field as it is."""
        if self.is_plain_everywhere(field):
            return True
        values = self._decode(row.json)
        fitting = self._fits(values) if self._conditions else self._every_part
        parts = (part for number, part in enumerate(self.parts) if fitting >> number & 1)
        return any(part.treatments[field].kind == "show" for part in parts if field in part.treatments)


def _decoder(places: Mapping[str, str]) -> Callable[[bytes], Any]:
    """Reads the fields of a JSON object, each still as JSON; a missing one is UNSET, others are left out."""
    fields = [(place, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for place in places.values()]
    rename = {place: name for name, place in places.items()}
    return msgspec.json.Decoder(msgspec.defstruct("Seen", fields, rename=rename, gc=False)).decode


def _type_of(entity: Entity, name: str) -> ColumnType:
    field = entity.field(name)
    return field.type if field else "string"
