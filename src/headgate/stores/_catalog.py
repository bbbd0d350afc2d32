"""What a store serves: definitions by build, and the pointer that says which build and generation is seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from headgate.errors import SnapshotPending, UnknownEntity
from headgate.model.entity import Entity
from headgate.model.position import Progress, Watermark
from headgate.model.row import Row
from headgate.stores._index import Indexes

_decode_entity = msgspec.json.Decoder(Entity).decode
_decode_progress = msgspec.json.Decoder(Progress).decode


class Space(NamedTuple):
    """One generation of one build of an entity: where its rows lie together."""

    build: str
    generation: int

    def text(self) -> str:
        """`<build>/<generation>`."""
        return f"{self.build}/{self.generation}"

    @classmethod
    def parse(cls, text: str) -> Space:
        """The inverse of `text`."""
        build, generation = text.split("/")
        return cls(build, int(generation))


class Pointer(NamedTuple):
    """What readers of an entity see, and in how many partitions its progress is kept."""

    space: Space
    partitions: int

    def text(self) -> str:
        """`<build>/<generation>/<partitions>`."""
        return f"{self.space.text()}/{self.partitions}"

    @classmethod
    def parse(cls, text: str) -> Pointer:
        """The inverse of `text`."""
        space, _, partitions = text.rpartition("/")
        return cls(Space.parse(space), int(partitions))


class Definition:
    """An entity as one build of it was defined, with its indexes."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self.entity = _decode_entity(packed)
        self.indexes = Indexes(self.entity)


class Catalog(msgspec.Struct, frozen=True):
    """All definitions and pointers, from one snapshot of a store."""

    definitions: Mapping[tuple[str, str], Definition] = {}
    """(entity, build) → definition."""
    current: Mapping[str, str] = {}
    """Entity → the build that was defined last."""
    pointers: Mapping[str, Pointer] = {}

    def entities(self) -> dict[str, Entity]:
        """Of each entity the build that readers see, or the newest while there is none; by name."""
        return {name: self._shown(name).entity for name in sorted(self.current)}

    def find(self, entity: str) -> tuple[Pointer, Definition]:
        """What readers see of it. UnknownEntity, or SnapshotPending while that is nothing yet."""
        if entity not in self.current:
            raise UnknownEntity(entity, sorted(self.current))
        pointer = self.pointers.get(entity)
        if pointer is None:
            raise pending(entity)
        return pointer, self.definitions[entity, pointer.space.build]

    def _shown(self, entity: str) -> Definition:
        pointer = self.pointers.get(entity)
        build = pointer.space.build if pointer else self.current[entity]
        return self.definitions[entity, build]


def pending(entity: str) -> SnapshotPending:
    """The error while an entity has no whole generation."""
    return SnapshotPending(
        f"{entity} is still taking its first snapshot: ask again in a few seconds, or check_data_freshness.",
        entity=entity,
    )


def decode_progress(packed: bytes | None) -> Progress:
    """A stored progress; a fresh one where nothing is stored."""
    return Progress() if packed is None else _decode_progress(packed)


def watermark_of(entity: str, pointer: Pointer, progress: Sequence[Progress]) -> Watermark:
    """The watermark of an answer; `progress` holds every partition's, in their order."""
    return Watermark(entity=entity, generation=pointer.space.generation, partitions=dict(enumerate(progress)))


def is_live(row: Row, partitions: Mapping[int, Progress]) -> bool:
    """Whether no truncate of its partition has come after the row."""
    progress = partitions.get(row.partition)
    return progress is None or row.epoch >= progress.epoch


def can_switch(progress: Iterable[Progress | None], generation: int) -> bool:
    """Whether every partition of a build holds that generation whole."""
    return all(one is not None and one.complete and one.generation == generation for one in progress)


def is_behind(progress: Mapping[int, Progress], shown: Mapping[int, Progress]) -> bool:
    """Whether readers would go back in time, from the build that they see now to this one; by partition.

    As after a definition that is taken back: its build is there still, whole as of long ago. Positions compare within
    one log; a newer generation has begun after all that an older one may hold.
    """
    return any(
        mine.log == other.log and mine.generation <= other.generation and mine.offset < other.offset
        for number, mine in progress.items()
        if (other := shown.get(number)) is not None
    )


def may_follow(pointer: Pointer | None, current: str | None, build: str, generation: int) -> bool:
    """Whether a pointer may move there: to a younger generation of its build, or to the build defined last."""
    if pointer is not None and pointer.space.build == build:
        return generation >= pointer.space.generation
    return pointer is None or current in (None, build)


def kept_builds(pointer: Pointer | None, current: str | None, own: str) -> set[str]:
    """The builds that readers see or that someone is to fill; every other one can go."""
    return {own, *([pointer.space.build] if pointer else []), *([current] if current else [])}


def is_dead(space: Space, pointer: Pointer | None, progress: Iterable[Progress]) -> bool:
    """Whether a generation of a kept build is neither seen nor filled; `progress` is its build's, all of it."""
    is_seen = pointer is not None and pointer.space == space
    return not is_seen and all(one.generation != space.generation for one in progress)


def live_epochs(progress: Sequence[Progress]) -> dict[int, int]:
    """Partition → the epoch of its rows that are not gone."""
    return {partition: one.epoch for partition, one in enumerate(progress)}


def retired(progress: Progress) -> Progress:
    """What stands for a partition of a build whose rows are swept: whoever claims it fills it from the start."""
    return Progress(fence=progress.fence + 1)
