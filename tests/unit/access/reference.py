"""What a policy gives, worked out the plain way from the document's own words: what the code is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from headgate.access.masks import treat
from headgate.model.access import Treatment
from headgate.model.caller import Caller
from tests.unit.access.governed import ENTITIES, KEY, ROWS, key_of

ORDER = ("show", "generalise", "mask", "hash", "hide")
STEPS = ("hour", "day", "month", "year")
CLASSES = {"personal.email": "mask", "secret": "hide", "none": "show"}
"""As they are where a document says nothing of classes."""

Said = dict[str, Any]


def rules_for(document: Mapping[str, Any], who: Caller, tool: str) -> list[Said]:
    """The rules that give a caller something by a tool."""
    if who.method == "anonymous":
        return []
    return [
        rule for rule in document["rules"]
        if all(who.claims.get(name) == value for name, value in rule["to"]["claims"].items())
        and any(fnmatchcase(tool, pattern) for pattern in rule["tools"])
    ]  # fmt: skip


def giving(document: Mapping[str, Any], who: Caller, tool: str, entity: str) -> list[Said]:
    """What each of these rules says of an entity, as far as some row could be one that it gives this caller."""
    said = [rule["entities"][entity] or {} for rule in rules_for(document, who, tool) if entity in rule["entities"]]
    return [each for each in said if _gives_some(each.get("rows", []), who)]


def _gives_some(texts: list[str], who: Caller) -> bool:
    allowed: dict[str, set[str]] = {}
    for text in texts:
        field, values = text.split(" ", 1)[0], {str(value) for value in _values(text, who)}
        allowed[field] = allowed.get(field, values) & values
    return all(allowed.values())


def _values(text: str, who: Caller) -> list[Any]:
    _, how, source = text.split(" ", 2)
    if source == "caller.subject":
        return [who.subject]
    is_claim = source.startswith("claims.")
    value = who.claims.get(source.removeprefix("claims.")) if is_claim else json.loads(source)
    if value is None or (how == "=" and isinstance(value, list)):
        return []
    return list(value) if isinstance(value, list) else [value]


def fits(said: Said, row: Mapping[str, Any], who: Caller) -> bool:
    """Whether a row is one that a rule gives."""
    for text in said.get("rows", []):
        field = text.split(" ", 1)[0]
        if str(row[field]) not in [str(value) for value in _values(text, who)]:
            return False
    return True


def treatment(said: Said, entity: str, field: str) -> Said:
    """How a rule treats a field, whatever the row."""
    definition = ENTITIES[entity]
    own = said.get("fields", {}).get(field)
    if own is not None:
        return own if isinstance(own, dict) else {"treatment": own}
    known = definition.field(field)
    assert known is not None
    if field in definition.key:
        return {"treatment": "show"}
    is_classified = any(each.classification for each in definition.fields)
    kind = CLASSES[known.classification] if known.classification else "hide" if is_classified else "show"
    every = said.get("fields", {}).get("*")
    return {"treatment": kind if every is None else max(kind, every, key=ORDER.index)}


def _rank(said: Said) -> tuple[int, float]:
    kind = said.get("treatment", "generalise")
    step = said.get("generalise", 0)
    return ORDER.index(kind), STEPS.index(step) if step in STEPS else step


def shown(entity: str, field: str, value: Any, said: Said) -> Any:
    """The value as it is answered under a treatment."""
    kind = said.get("treatment", "generalise")
    if kind == "show":
        return value
    known = ENTITIES[entity].field(field)
    assert known is not None
    return treat(Treatment(kind=kind, step=said.get("generalise", "")), known, KEY)(value)


class Expected:
    """What a caller sees of an entity by a tool."""

    def __init__(self, document: Mapping[str, Any], who: Caller, tool: str, entity: str) -> None:
        self._entity = entity
        self._who = who
        self._said = giving(document, who, tool, entity)
        self.exists = bool(self._said)
        self.rows = {
            key_of(entity, row): self._answer(row)
            for row in ROWS[entity]
            if any(fits(one, row, who) for one in self._said)
        }

    def _fitting(self, row: Mapping[str, Any]) -> list[Said]:
        return [one for one in self._said if fits(one, row, self._who)]

    def _answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for field, value in row.items():
            best = min((treatment(one, self._entity, field) for one in self._fitting(row)), key=_rank)
            if best.get("treatment") != "hide":
                found[field] = shown(self._entity, field, value, best)
        return found

    def _finds(self, said: Said, field: str) -> bool:
        how = treatment(said, self._entity, field)
        return how.get("treatment") == "show" or bool(how.get("lookup"))

    def findable(self, field: str) -> bool:
        """Whether rows may be asked for by the field at all."""
        return any(self._finds(one, field) for one in self._said)

    def shows_by_every_rule(self, field: str) -> bool:
        """Whether each rule shows the field as it is: then it must give an order."""
        return self.exists and all(treatment(one, self._entity, field).get("treatment") == "show" for one in self._said)

    def shows_in_every_row(self, field: str) -> bool:
        """Whether each row that is seen shows the field as it is: only then may it give an order."""
        return all(self.plain(field, row) for row in ROWS[self._entity] if self._fitting(row))

    def plain(self, field: str, row: Mapping[str, Any]) -> bool:
        """Whether the row shows the field as it is."""
        return any(treatment(one, self._entity, field).get("treatment") == "show" for one in self._fitting(row))

    def having(self, field: str, value: Any) -> list[str]:
        """The keys of the rows that are found by a field's value."""
        return [
            key_of(self._entity, row) for row in ROWS[self._entity]
            if row[field] == value and any(self._finds(one, field) for one in self._fitting(row))
        ]  # fmt: skip
