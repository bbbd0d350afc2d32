"""The parts that rules give of an entity, and the boxes in which a part's rows lie.

A *box* is one combination of values that indexed fields equal: what a store can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import msgspec

from headgate.access.treatments import at_least, resolve
from headgate.model.access import Share, Treatment
from headgate.model.entity import Entity
from headgate.stores._index import Indexes

MOST_BOXES = 100
"""That the conditions of one rule on one entity may come to."""


class Part(NamedTuple):
    """What one rule gives of an entity."""

    rule: str
    allowed: Mapping[str, Mapping[bytes, Any]]
    """Field → its values: as the index has them, and as they were given. Empty for all rows."""
    treatments: Mapping[str, Treatment]

    def finds(self, field: str) -> bool:
        """Whether its rows may be looked up by the field."""
        treatment = self.treatments.get(field)
        return treatment is not None and treatment.finds

    def covers(self, other: Part) -> bool:
        """Whether it gives all that the other one does."""
        rows = all(name in other.allowed and other.allowed[name].keys() <= mine.keys()
                   for name, mine in self.allowed.items())  # fmt: skip
        return rows and all(at_least(self.treatments[name], theirs) for name, theirs in other.treatments.items())


class Box(NamedTuple):
    """Rows whose fields equal these values. `values` are as given, `indexed` as the index has them."""

    values: Mapping[str, Any]
    indexed: frozenset[tuple[str, bytes]]

    def holds(self, other: Box) -> bool:
        """Whether every row of the other lies in this one."""
        return self.indexed <= other.indexed

    def excludes(self, field: str, value: bytes) -> bool:
        """Whether none of its rows has that value in that field."""
        return any(name == field and mine != value for name, mine in self.indexed)


class Outcome(NamedTuple):
    """The parts that hold, and why others don't: (rule, reason with its mend)."""

    parts: Sequence[Part]
    void: Sequence[tuple[str, str]]


def parts_of(entity: Entity, shares: Iterable[tuple[str, Share]]) -> Outcome:
    """The parts of an entity by (rule, share). One that can't be enforced gives nothing, for a reason that is told."""
    indexes = condition_indexes(entity)
    parts: list[Part] = []
    void: list[tuple[str, str]] = []
    for rule, share in shares:
        treatments = resolve(entity, share)
        if reason := why_void(entity, share, treatments):
            void.append((rule, reason))
            continue
        allowed = _allowed(indexes, share)
        if _count(allowed) > MOST_BOXES:
            void.append((rule, f"its conditions come to more than {MOST_BOXES} combinations of values: narrow them"))
        elif _count(allowed):
            parts.append(Part(rule, allowed, treatments))
    kept = [part for number, part in enumerate(parts) if not _is_covered(number, parts)]
    return Outcome(kept, void)


def why_void(entity: Entity, share: Share, treatments: Mapping[str, Treatment]) -> str:
    """Why a share can't be enforced on the entity, with its mend; empty if it can."""
    for name in sorted({each.field for each in share.rows}):
        if entity.field(name) is None:
            there = ", ".join(field.name for field in entity.fields)
            return f"its rows are narrowed by {name!r}, which {entity.name!r} has not; it has: {there}"
        if name not in (*entity.lookups, *entity.sorted) and entity.key != (name,):
            return f"its rows are narrowed by {name!r}, which has no index: add it to the lookups of {entity.name!r}"
    for name in entity.key:
        if name in treatments and treatments[name].kind != "show":
            return (
                f"it does not show {name!r}, which is in the key and so in every row's URI: say  {name}: show  under "
                f"its fields, or give {entity.name!r} another key"
            )
    return ""


def condition_indexes(entity: Entity) -> Indexes:
    """Values as the store's indexes have them, for every field that a condition may name: the key's too."""
    keyed = tuple(name for name in entity.key if name not in (*entity.lookups, *entity.sorted))
    return Indexes(msgspec.structs.replace(entity, lookups=(*entity.lookups, *keyed)))


def boxes_of(part: Part) -> Iterable[Box]:
    """One box for each combination of a part's values."""
    names = tuple(part.allowed)
    for combination in product(*(part.allowed[name].items() for name in names)):
        values = {name: given for name, (_, given) in zip(names, combination, strict=True)}
        indexed = frozenset((name, index) for name, (index, _) in zip(names, combination, strict=True))
        yield Box(values, indexed)


def widest(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """The boxes that lie in no other, each once."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: (len(box.indexed), sorted(box.indexed))):
        if not any(other.holds(box) for other in kept):
            kept.append(box)
    return tuple(kept)


def _allowed(indexes: Indexes, share: Share) -> dict[str, dict[bytes, Any]]:
    """Per field the values that all of its conditions allow. Conditions in one order, whatever the rule's."""
    found: dict[str, dict[bytes, Any]] = {}
    for each in sorted(share.rows, key=lambda each: each.field):
        values = {indexes.value(each.field, value): value for value in each.values}
        mine = found.get(each.field)
        found[each.field] = values if mine is None else {index: mine[index] for index in mine if index in values}
    return found


def _count(allowed: Mapping[str, Mapping[bytes, Any]]) -> int:
    count = 1
    for values in allowed.values():
        count *= len(values)
    return count


def _is_covered(number: int, parts: Sequence[Part]) -> bool:
    """Whether another part gives all of this one; of two that give the same the first stays."""
    mine = parts[number]
    return any(
        other.covers(mine) and (place < number or not mine.covers(other))
        for place, other in enumerate(parts)
        if place != number
    )
