"""What a pipeline's entities are, by its config and by the schemas that capture announces."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set

from headgate.errors import ConfigError, ContractBroken, Unavailable
from headgate.flow.materializing import Materializing
from headgate.flow.schemas import announce_fed, announced
from headgate.model.derive import declare_all, derive
from headgate.model.entity import Declared, Entity
from headgate.model.table import Table
from headgate.telemetry import logger

_log = logger("flow.definition")
_LOOK_EVERY_S = 0.1
_PATIENT_LOOKS = 30


def await_tables(rooms: Materializing, stop: threading.Event) -> Mapping[str, Table] | None:
    """The schemas of every table that the entities need, once capture has announced them; None after `stop`.

    A fault of the run before is told until this one is under way: it may fail by the same.
    """
    wanted = {declared.table for declared in rooms.declared}
    _refuse_unknown(rooms, wanted)
    looks = 0
    while not stop.is_set():
        known = announced(rooms.state, rooms.pipeline)
        tables = announce_fed(rooms.state, rooms.pipeline, rooms.feed, known)
        if tables and wanted <= tables.keys():
            return tables
        _say_what_is_missing(rooms, wanted, tables, is_long=bool(tables) and looks > _PATIENT_LOOKS)
        looks += 1
        stop.wait(_LOOK_EVERY_S)
    return None


def _say_what_is_missing(rooms: Materializing, wanted: Set[str], known: Mapping[str, Table], *, is_long: bool) -> None:
    """Capture announces its tables together: one that does not come with the others is not there."""
    missing = ", ".join(sorted(wanted - known.keys())) or "any table"
    _log.debug("%s: waiting for capture to announce %s", rooms.pipeline, missing)
    if is_long:
        there = ", ".join(sorted(known))
        rooms.reporter.fault(
            ContractBroken(
                f"The config makes an entity of {missing}, which capture does not find: it finds {there}. "
                "Make it, with a primary key, and restart the pipeline; or mend the entity in the config."
            )
        )
    else:
        rooms.reporter.state("snapshotting")
    rooms.reporter.tick()


def _refuse_unknown(rooms: Materializing, wanted: Set[str]) -> None:
    unknown = sorted(wanted - rooms.feed.topics().keys()) if rooms.feed is not None else []
    if unknown and rooms.feed is not None:
        known = ", ".join(sorted(rooms.feed.topics()))
        raise ConfigError(f"The source has no table {', '.join(unknown)}: its settings name {known}.")


def define(rooms: Materializing, tables: Mapping[str, Table]) -> list[Entity]:
    """The pipeline's entities, as config and schemas have them now."""
    topics = {table: rooms.topic_of(table) for table in tables}
    counts = rooms.log.partitions(list(topics.values()))
    missing = [topic for topic in topics.values() if topic not in counts]
    if missing:
        raise Unavailable(f"The log has no topic {missing[0]} yet: is capture running?")
    return derive(declared_of(rooms, tables), tables, {table: counts[topic] for table, topic in topics.items()})


def declared_of(rooms: Materializing, tables: Mapping[str, Table]) -> Sequence[Declared]:
    """The declarations of the config, or one for each table where it has none."""
    return rooms.declared or declare_all(rooms.pipeline, [tables[name] for name in sorted(tables)])
