"""What is wrong, or worth knowing, about a policy's document beside the entities that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from headgate.access.document import EntityBlock, PolicyDocument
from headgate.access.parts import why_void
from headgate.access.rules import BUILT_IN_CLASSES
from headgate.access.treatments import EVERY_FIELD, resolve
from headgate.model.access import HIDE, Allowed, Share, Treatment, any_fits
from headgate.model.entity import Entity
from headgate.model.finding import Finding

_TIMES = ("date", "timestamp", "string")
_NUMBERS = ("integer", "number", "decimal")


class _Place(NamedTuple):
    rule: str
    pattern: str
    block: EntityBlock | None
    is_anonymised: bool = False

    def said(self, message: str) -> str:
        return f"rule {self.rule!r}, entity {self.pattern!r}: {message}"


def mistakes_in(document: PolicyDocument, entities: Mapping[str, Entity]) -> list[str]:
    """Each rule that can't be enforced on the entities that it names, with its mend. None while there is no entity."""
    return [message for place in _places(document) for message in _mistakes_at(place, document, entities)]


def findings_of(document: PolicyDocument, entities: Mapping[str, Entity]) -> list[Finding]:
    """The mistakes, then what is hidden by default or names nothing."""
    errors = [Finding(level="error", part="policy", message=message) for message in mistakes_in(document, entities)]
    warnings = [
        Finding(level="warning", part="policy", message=place.said("there is no entity of that name"))
        for place in _places(document)
        if entities and not _fitting(place, entities)
    ]
    return [*errors, *warnings, *_unsaid(entities)]


def _unsaid(entities: Mapping[str, Entity]) -> Iterator[Finding]:
    """Fields that nobody has classified in entities where others are."""
    for entity in entities.values():
        if not any(field.classification for field in entity.fields):
            continue
        unsaid = [each.name for each in entity.fields if not each.classification and each.name not in entity.key]
        if unsaid:
            yield Finding(
                level="warning",
                part="policy",
                message=f"fields of {entity.name!r} are hidden, as they have no class: {', '.join(unsaid)}",
                mend="headgate classify --write  proposes one for each; class: none says that a field is fine",
            )


def _places(document: PolicyDocument) -> Iterator[_Place]:
    for rule in document.rules:
        for pattern, block in rule.entities.items():
            yield _Place(rule.name, pattern, block)
    for pattern, block in document.anonymised.items():
        yield _Place("anonymised", pattern, block, is_anonymised=True)


def _fitting(place: _Place, entities: Mapping[str, Entity]) -> list[Entity]:
    return [entity for name, entity in entities.items() if any_fits(name, (place.pattern,))]


def _mistakes_at(place: _Place, document: PolicyDocument, entities: Mapping[str, Entity]) -> Iterator[str]:
    for entity in _fitting(place, entities):
        share = _share(place, document)
        void = why_void(entity, share, resolve(entity, share))
        if void:
            yield place.said(void)
        yield from (place.said(message) for message in _unfit_fields(entity, share, place))


def _share(place: _Place, document: PolicyDocument) -> Share:
    """As the rule would give it, whatever a caller's claims hold."""
    block = place.block or EntityBlock()
    own, general = ({name: said.said() for name, said in each.items()} for each in (block.classes, document.classes))
    fields = {name: said.said() for name, said in block.fields.items()}
    return Share(
        entity=place.pattern,
        rows=tuple(Allowed(each.field, ()) for each in block.conditions),
        fields={**fields, EVERY_FIELD: HIDE} if place.is_anonymised else fields,
        classes=(own, general, BUILT_IN_CLASSES),
    )


def _unfit_fields(entity: Entity, share: Share, place: _Place) -> Iterator[str]:
    """A field that is misspelled would show what it was to hide."""
    for name, treatment in share.fields.items():
        field = entity.field(name)
        if field is not None:
            yield from _unfit(name, field.type, treatment)
        elif name != EVERY_FIELD and place.pattern == entity.name:
            there = ", ".join(each.name for each in entity.fields)
            yield f"it treats the field {name!r}, which the entity has not; it has: {there}"


def _unfit(name: str, kind: str, treatment: Treatment) -> Iterator[str]:
    if treatment.kind != "generalise":
        return
    able = _TIMES if isinstance(treatment.step, str) else _NUMBERS
    if kind not in able:
        yield f"{name!r} can't be generalised so, as it is of type {kind}: mask or hide it"
