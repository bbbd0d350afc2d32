"""Which entities can be kept: one that its table does not fit, or whose keys lost their order, stands still alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headgate.errors import ContractBroken, HeadgateError, KeysMoved, Unavailable
from headgate.flow.definition import declared_of
from headgate.flow.materializing import Materializing
from headgate.flow.standing import Standing
from headgate.model.derive import derive_each
from headgate.model.entity import Entity
from headgate.model.table import Table
from headgate.telemetry import logger

_log = logger("flow.contract")


class Defined(NamedTuple):
    """A pipeline's entities by its config and the schemas of one moment."""

    entities: list[Entity]
    broken: dict[str, HeadgateError]
    """Entity → why it stands still. It is not among `entities`."""

    @property
    def has_moved(self) -> bool:
        """Whether an entity stands still as its keys have moved, so that only the log can say when it may go on."""
        return any(isinstance(error, KeysMoved) for error in self.broken.values())

    @property
    def form(self) -> tuple[dict[str, str], set[str]]:
        """What needs another run when it changes: the builds of those that fit, and who does not fit."""
        return {entity.name: entity.build for entity in self.entities}, set(self.broken)


def define_each(rooms: Materializing, tables: Mapping[str, Table]) -> Defined:
    """As `definition.define`, entity by entity."""
    topics = {table: rooms.topic_of(table) for table in tables}
    counts = rooms.log.partitions(list(topics.values()))
    missing = [topic for topic in topics.values() if topic not in counts]
    if missing:
        raise Unavailable(f"The log has no topic {missing[0]} yet: is capture running?")
    partitions = {table: counts[topic] for table, topic in topics.items()}
    entities, unfit = derive_each(declared_of(rooms, tables), tables, partitions)
    moved = _moved(rooms, entities)
    return Defined([entity for entity in entities if entity.name not in moved], {**unfit, **moved})


def _moved(rooms: Materializing, entities: Sequence[Entity]) -> dict[str, KeysMoved]:
    """Entities of topics that others fill, whose keys lay in fewer partitions when they were first read."""
    refills = rooms.refills()
    if refills is None:
        return {}
    identities = rooms.log.identities(sorted({rooms.topic_of(entity.table) for entity in entities}))
    moved = {}
    for entity in entities:
        topic = rooms.topic_of(entity.table)
        before = refills.spread(entity.table, identities.get(topic, ""))
        if before not in (None, entity.partitions):
            moved[entity.name] = KeysMoved(
                f"its topic {topic} had {before} partitions and has {entity.partitions}, so that the versions of a row "
                "lie in two of them and nothing tells their order. Let the topic be deleted, made anew and filled from "
                "the beginning; the entity is then built from it"
            )
    return moved


def define_sound(rooms: Materializing, tables: Mapping[str, Table], standing: Standing) -> Defined:
    """What a run that begins now does, with those that stand still noted. ContractBroken when nothing is left to do."""
    defined = define_each(rooms, tables)
    standing.clear()
    for entity, error in defined.broken.items():
        _log.error("%s: entity %s stands still: %s", rooms.pipeline, entity, error.message)
        standing.break_off(entity, error, rooms.clock())
    if not defined.entities:
        rooms.reporter.note(tables=standing.faults())
        raise ContractBroken("No entity of this pipeline can be kept: each stands still for a reason of its own.")
    return defined
