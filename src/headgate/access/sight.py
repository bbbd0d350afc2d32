"""What one grant sees by one tool: compiled once, and kept as long as the entities stay as they are."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from headgate.access.lens import Lens
from headgate.access.parts import Outcome, condition_indexes, parts_of
from headgate.model.access import Given, Share, any_fits
from headgate.model.caller import Grant
from headgate.model.entity import Entity, Relation
from headgate.telemetry import logger

_SIGHTS = 4_096
_LENSES = 4_096
_T = TypeVar("_T")
_log = logger("access.policy")
_encode = msgspec.msgpack.Encoder().encode


class Kept(OrderedDict[Any, Any]):
    """The newest so many of what was made, by key."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def take(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What is kept under the key, or what is made for it now."""
        found: _T | None = self.get(key)
        if found is None:
            found = self[key] = make()
            if len(self) > self._most:
                self.popitem(last=False)
        return found


class Sight:
    """The entities and pipelines that the rules for one tool give to one grant."""

    def __init__(self, given: Iterable[Given], entities: Mapping[str, Entity], lenses: Lenses) -> None:
        self._given = tuple(given)
        self._entities = entities
        self._all = lenses
        self._lenses: dict[str, Lens | None] = {}
        self._shown: dict[str, Entity] = {}

    def is_of(self, entities: Mapping[str, Entity]) -> bool:
        """Whether it was made of these definitions."""
        return entities is self._entities or entities == self._entities

    def lens(self, entity: str) -> Lens | None:
        """How rows of the entity are seen; None if there is none such for this grant."""
        if entity not in self._lenses:
            definition = self._entities.get(entity)
            shares = shares_of(self._given, entity) if definition else ()
            self._lenses[entity] = self._all.lens(definition, shares) if definition and shares else None
        return self._lenses[entity]

    def entity(self, name: str) -> Entity | None:
        """The entity as this grant sees it: with the relations that lead from what it sees to what it sees."""
        if name not in self._shown:
            lens = self.lens(name)
            if lens is None:
                return None
            relations = tuple(each for each in lens.entity.relations if self._leads(lens, each))
            self._shown[name] = msgspec.structs.replace(lens.shown, relations=relations)
        return self._shown[name]

    @cached_property
    def entities(self) -> Mapping[str, Entity]:
        """All of them, sorted by name."""
        return {name: seen for name in sorted(self._entities) if (seen := self.entity(name)) is not None}

    def _leads(self, lens: Lens, relation: Relation) -> bool:
        """A relation tells what a field holds here, looks up by it there, and its order tells of another field."""
        target = self.lens(relation.entity)
        return (
            target is not None
            and lens.is_plain_somewhere(relation.field)
            and target.can_find(relation.target_field)
            and (relation.order_by is None or target.is_plain_everywhere(relation.order_by))
            and (relation.target_is_key or not target.is_keyed)
        )


class Lenses:
    """Makes sights, and keeps the newest of them. `key` is what hashes of values are made with.

    Grants that are given the same share their lenses: tenants need one each, whatever the number of callers.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._sights = Kept(_SIGHTS)
        self._lenses = Kept(_LENSES)

    def sight(self, grant: Grant, tool: str, entities: Mapping[str, Entity]) -> Sight:
        """What the grant sees by the tool, of these entities. The grant must come from a policy's document."""
        assert grant.given is not None, "without a document there is nothing to narrow"
        place = (id(grant.given), tool)
        given, sight = self._sights.get(place, (None, None))
        if sight is None or given is not grant.given or not sight.is_of(entities):
            self._sights.pop(place, None)
            mine = [each for each in grant.given if each.gives_tool(tool)]
            _, sight = self._sights.take(place, lambda: (grant.given, Sight(mine, entities, self)))
        seen: Sight = sight
        return seen

    def lens(self, entity: Entity, shares: tuple[tuple[str, Share], ...]) -> Lens | None:
        """The lens of these shares on the entity; None where none of them gives anything."""
        place = hashlib.sha256(_encode([entity, shares])).digest()
        made: Lens | bool = self._lenses.take(place, lambda: self._made(entity, shares) or False)
        return made if isinstance(made, Lens) else None

    def _made(self, entity: Entity, shares: tuple[tuple[str, Share], ...]) -> Lens | None:
        outcome: Outcome = parts_of(entity, shares)
        for rule, reason in outcome.void:
            _log.error("rule %r gives nothing of entity %r: %s", rule, entity.name, reason)
        return Lens(entity, condition_indexes(entity), outcome.parts, self.key) if outcome.parts else None


def shares_of(given: Iterable[Given], entity: str) -> tuple[tuple[str, Share], ...]:
    """What these rules give of an entity: (rule, share). Within one rule the entity's own name beats patterns."""
    found = []
    for each in given:
        own = [share for share in each.shares if share.entity == entity]
        found += [(each.rule, share) for share in own or each.shares if any_fits(entity, (share.entity,))]
    return tuple(found)
