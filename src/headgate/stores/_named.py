"""A store as if it held only the entities that a config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from headgate.model.entity import Entity
from headgate.stores.base import Prompt, Reader


def named_reader(reader: Reader, is_named: Callable[[Entity], bool]) -> NamedReader:
    """The reader as if it held these entities alone. It is as prompt as the one that it is made of."""
    return (_PromptNamedReader if isinstance(reader, Prompt) else NamedReader)(reader, is_named)


class NamedReader:
    """Implements `Reader`. An entity that nobody names any more is in the store still, and is there for no caller.

    A relation that leads to one is left out with it. Closing closes the reader that it is made of.
    """

    def __init__(self, reader: Reader, is_named: Callable[[Entity], bool]) -> None:
        self._reader = reader
        self._is_named = is_named
        self._found: Mapping[str, Entity] | None = None
        self._kept: Mapping[str, Entity] = {}
        self.get = reader.get
        self.lookup = reader.lookup
        self.find = reader.find
        self.joined = reader.joined
        self.watermark = reader.watermark
        self.count = reader.count
        self.dead_letters = reader.dead_letters
        self.close = reader.close

    async def entities(self) -> Mapping[str, Entity]:
        """See `Reader`. The same mapping while the store says the same: much is made of it."""
        found = await self._reader.entities()
        if found is not self._found:
            if found != self._found:
                self._kept = self._named(found)
            self._found = found
        return self._kept

    def _named(self, found: Mapping[str, Entity]) -> Mapping[str, Entity]:
        names = {name for name, entity in found.items() if self._is_named(entity)}
        return (
            found
            if len(names) == len(found)
            else {name: _within(found[name], names) for name in found if name in names}
        )


class _PromptNamedReader(NamedReader):
    """Implements `Prompt` too."""

    def __init__(self, reader: Reader, is_named: Callable[[Entity], bool]) -> None:
        super().__init__(reader, is_named)
        assert isinstance(reader, Prompt), "only such a one is made this"
        self._prompt: Prompt = reader
        self.question = self._prompt.question

    def entities_now(self) -> Mapping[str, Entity] | None:
        """See `Prompt`."""
        found = self._prompt.entities_now()
        return self._kept if found is not None and found is self._found else None


def _within(entity: Entity, names: set[str]) -> Entity:
    relations = tuple(relation for relation in entity.relations if relation.entity in names)
    return entity if len(relations) == len(entity.relations) else msgspec.structs.replace(entity, relations=relations)
