"""What readers are shown of a pipeline's entities: each change of it gets its event in the record.

Several processes define the same entities and switch the same generations. What the record has of a pipeline's
entities stands in `state`; whoever finds it to be another reserves the telling, writes the events, and notes them. A
process that dies in between is stood in for by the next that looks, so that no change is left out, and in that one case
an event may come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from headgate.audit.event import Payload, payload_of
from headgate.audit.journal import CatalogChange
from headgate.audit.kinds import CatalogKind
from headgate.errors import HeadgateError, StateConflict
from headgate.model.entity import Entity
from headgate.state.base import State
from headgate.telemetry import Clock, logger

Record: TypeAlias = Callable[[Sequence[CatalogChange]], None]
"""Returns once the events are durable; OutboxError when they can't be."""

_DEFINITION_KEPT: Final = 256 * 1024
_RESERVED_MS: Final = 10_000
_log = logger("flow.catalog")


class _Shown(msgspec.Struct, frozen=True, array_like=True):
    """What the record has of one entity."""

    definition: str = ""
    build: str = ""
    generation: int = 0


class _Noted(msgspec.Struct, frozen=True):
    """What the record has of a pipeline's entities, and who is about to add to it."""

    entities: dict[str, _Shown] = {}
    by: str = ""
    until_ms: int = 0


_decode = msgspec.json.Decoder(_Noted).decode


class Catalog:
    """Tells the record of one pipeline's entities. The thread that materializes uses it; it outlasts its runs.

    Nothing here stops the flow: what can't be told now is told later.
    """

    def __init__(self, state: State, pipeline: str, process: str, clock: Clock, record: Record | None) -> None:
        """Without `record` nothing is told."""
        self._state = state
        self._pipeline = pipeline
        self._key = f"catalog/{pipeline}"
        self._process = process
        self._clock = clock
        self._record = record
        self._defined: dict[str, tuple[str, Payload]] = {}
        self._seen: dict[str, tuple[str, int]] = {}
        self._has_news = False
        self._fault = ""

    def defined(self, entities: Sequence[Entity]) -> None:
        """These definitions are published, and no others of this pipeline."""
        defined = {
            entity.name: (entity.build, payload_of(msgspec.to_builtins(entity), keep=_DEFINITION_KEPT))
            for entity in entities
        }
        self._has_news |= defined != self._defined
        self._defined = defined

    def switched(self, entity: Entity, generation: int) -> None:
        """Readers see this generation of the entity's build."""
        seen = (entity.build, generation)
        self._has_news |= self._seen.get(entity.name) != seen
        self._seen[entity.name] = seen

    def tell(self) -> None:
        """Has the events written of what the record does not have yet. Blocks until they are durable; never raises."""
        if self._record is None or not self._has_news:
            return
        try:
            self._has_news = not self._told(self._record)
            self._fault = ""
        except StateConflict:
            pass  # another process tells: the next look shows whether of the same
        except HeadgateError as error:
            if error.message != self._fault:
                _log.warning("%s: what entities are is not in the record yet: %s", self._pipeline, error.message)
            self._fault = error.message

    def _told(self, record: Record) -> bool:
        """Whether the record has all now. StateConflict when another process was quicker."""
        entry = self._state.get(self._key)
        noted, version = (_decode(entry.value), entry.version) if entry else (_Noted(), 0)
        changes, shown = self._changes(noted.entities)
        if not changes:
            return True
        if noted.by != self._process and noted.until_ms > self._clock():
            return False
        reserved = msgspec.structs.replace(noted, by=self._process, until_ms=self._clock() + _RESERVED_MS)
        version = self._state.put(self._key, msgspec.json.encode(reserved), expect=version)
        record(changes)
        self._state.put(self._key, msgspec.json.encode(_Noted(shown)), expect=version)
        return True

    def _changes(self, known: Mapping[str, _Shown]) -> tuple[list[CatalogChange], dict[str, _Shown]]:
        """What the record lacks, and what it has afterwards."""
        changes: list[CatalogChange] = []
        shown = dict(known)
        for name, (build, definition) in sorted(self._defined.items()):
            before = shown.get(name, _Shown())
            if before.definition != definition.sha256:
                kind: CatalogKind = "changed" if before.definition else "defined"
                changes.append(CatalogChange(self._pipeline, name, kind, definition, build, before.definition))
                before = msgspec.structs.replace(before, definition=definition.sha256)
            seen = self._seen.get(name)
            if seen is not None and _is_news(seen, before):
                digest = msgspec.structs.replace(definition, json=msgspec.UNSET)
                build, generation = seen
                changes.append(CatalogChange(self._pipeline, name, "switched", digest, build, generation=generation))
                before = _Shown(before.definition, build, generation)
            shown[name] = before
        return changes, shown


def _is_news(seen: tuple[str, int], before: _Shown) -> bool:
    """Generations of one build only grow: an older one was seen by a process that lags behind."""
    build, generation = seen
    return build != before.build or generation > before.generation
