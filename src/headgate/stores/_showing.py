"""What readers see, as far as a process knows: asked for once a second, and again when an answer shows another."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from headgate.errors import InvalidArguments, NotIndexed, SnapshotPending, Unavailable
from headgate.model.entity import Entity
from headgate.stores._catalog import Catalog, Definition, Pointer

_Answer = TypeVar("_Answer")
_CATALOG_S = 1.0
_ATTEMPTS = 5


class Seen(NamedTuple):
    """What readers see of an entity, as far as this process knows."""

    pointer: Pointer
    definition: Definition


class Showing:
    """A store's catalog in this process's memory. `load` asks the store, and may reuse definitions of the last one."""

    def __init__(
        self, load: Callable[[Catalog], Awaitable[Catalog]], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._load_from_store = load
        self._monotonic_s = monotonic_s
        self._catalog = Catalog()
        self._entities: Mapping[str, Entity] = {}
        self._seen: dict[str, Seen] = {}
        self._until_s = 0.0

    async def entities(self) -> Mapping[str, Entity]:
        """The definitions; asked for once a second at most."""
        if self._is_old():
            await self._load()
        return self._entities

    def entities_now(self) -> Mapping[str, Entity] | None:
        """The definitions, unless they are to be asked for."""
        return None if self._is_old() else self._entities

    def find_now(self, entity: str) -> Seen | None:
        """What is known to be seen of an entity, if anything is."""
        return self._seen.get(entity)

    def find(self, entity: str) -> Seen:
        """What is known to be seen of an entity. UnknownEntity or SnapshotPending."""
        seen = self._seen.get(entity)
        if seen is None:
            seen = self._seen[entity] = Seen(*self._catalog.find(entity))
        return seen

    async def read(
        self, entity: str, attempt: Callable[[Seen], Awaitable[_Answer | None]], *, newest_definition: bool = False
    ) -> _Answer:
        """Reads at what is known, and again when `attempt` answers None (a pointer has moved) or refuses.

        What an older definition refuses, the newest may take.
        """
        must_load = newest_definition and self._is_old()
        for _ in range(_ATTEMPTS):
            if is_newest := must_load or entity not in self._catalog.pointers:
                await self._load()
            must_load = True
            try:
                answer = await attempt(self.find(entity))
            except (NotIndexed, InvalidArguments, SnapshotPending):
                if is_newest:
                    raise
                continue
            if answer is not None:
                return answer
        raise Unavailable("what readers see of this entity changes too often: try again")

    def _is_old(self) -> bool:
        return self._monotonic_s() >= self._until_s

    async def _load(self) -> None:
        self._catalog = await self._load_from_store(self._catalog)
        self._seen = {}
        entities = self._catalog.entities()
        if entities != self._entities:  # the same mapping while it says the same: much is made of it
            self._entities = entities
        self._until_s = self._monotonic_s() + _CATALOG_S


def known_or_decoded(catalog: Catalog, place: tuple[str, str], packed: bytes) -> Definition:
    """The definition that the catalog has for (entity, build) if it is the same, else one that is decoded."""
    known = catalog.definitions.get(place)
    return known if known is not None and known.packed == packed else Definition(packed)
