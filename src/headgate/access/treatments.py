"""Which treatment a rule gives each field of an entity, and how a treated field is described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from headgate.model.access import HIDE, SHOW, Share, Treatment
from headgate.model.entity import Entity, Field

EVERY_FIELD = "*"
NO_CLASS = "none"
"""The class of a field that someone has looked at and found to be fine."""

_WORDS = {"mask": "Masked.", "hash": "A keyed hash of the value.", "hide": ""}


def resolve(entity: Entity, share: Share) -> dict[str, Treatment]:
    """Each field's treatment by one rule.

    What the rule says of the field by its name comes first. Then the class: by the rule, else by the document,
    else as built in. Then, of an entity with any class, a field without one is hidden until someone says; other
    fields show, and so does the key. Where the rule says something of `*`, the stricter of the two counts.
    """
    is_classified = any(field.classification for field in entity.fields)
    return {field.name: _of_field(entity, field, share, is_classified=is_classified) for field in entity.fields}


def _of_field(entity: Entity, field: Field, share: Share, *, is_classified: bool) -> Treatment:
    if field.name in share.fields:
        return share.fields[field.name]
    is_key = field.name in entity.key
    said = _of_class(field.classification, share.classes) or (HIDE if is_classified and not is_key else SHOW)
    every = None if is_key else share.fields.get(EVERY_FIELD)
    return said if every is None else max(said, every, key=lambda treatment: treatment.rank)


def _of_class(name: str, classes: Sequence[Mapping[str, Treatment]]) -> Treatment | None:
    """The treatment of the longest pattern that fits, in the first that has one. None for a field without a class."""
    if not name:
        return None
    if name == NO_CLASS:
        return SHOW
    for known in classes:
        fitting = [pattern for pattern in known if _fits(name, pattern)]
        if fitting:
            return known[max(fitting, key=len)]
    return HIDE


def _fits(name: str, pattern: str) -> bool:
    """`personal.*` fits `personal` and all below it."""
    return pattern in ("*", name) or (pattern.endswith(".*") and f"{name}.".startswith(pattern[:-1]))


def most_permissive(treatments: Iterable[Treatment]) -> Treatment:
    """Of several the one that shows most."""
    return min(treatments, key=lambda treatment: treatment.rank)


def at_least(one: Treatment, other: Treatment) -> bool:
    """Whether `one` lets everything be known that `other` does."""
    return one.rank <= other.rank and (one.finds or not other.finds)


def field_as_seen(field: Field, treatments: Sequence[Treatment]) -> Field:
    """The field as one grant sees it: its type where rows may be looked up by it, else that of what is answered."""
    kinds = set(treatments)
    if kinds == {SHOW}:
        return field
    words = _words(treatments[0]) if len(kinds) == 1 else "Not shown in full in every row."
    description = f"{field.description} {words}".strip()
    is_text = all(_answers_text(treatment) for treatment in kinds) and not any(each.finds for each in kinds)
    type_ = "string" if is_text else field.type
    return msgspec.structs.replace(field, description=description, type=type_)


def _words(treatment: Treatment) -> str:
    if treatment.kind != "generalise":
        return _WORDS.get(treatment.kind, "")
    step = treatment.step
    return f"To the {step} only." if isinstance(step, str) else f"Rounded down to a multiple of {step:g}."


def _answers_text(treatment: Treatment) -> bool:
    return treatment.kind in ("mask", "hash") or isinstance(treatment.step, str)
