"""Rows that other rows lead to: read along with them, in the one round trip that reads the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate.access.view import View
from headgate.model.entity import Entity, Relation
from headgate.stores.base import Join, Joined
from headgate.tools._answers import Allowance, row_answer, truncated
from headgate.tools._arguments import invalid, shown


async def relations_of(view: View, entity: Entity) -> dict[str, Relation]:
    """The entity's relations by name, those left out that lead to what the caller can't see."""
    seen = await view.entities()
    return {each.name: each for each in sorted(entity.relations, key=_name) if each.entity in seen}


async def chosen(view: View, entity: Entity, names: Sequence[str], argument: str) -> list[Relation]:
    """The relations of these names, each once. InvalidArguments names the ones there are."""
    if not names:
        return []
    known = await relations_of(view, entity)
    unknown = sorted(set(names) - set(known))
    if unknown:
        there = ", ".join(known) or "none"
        said = ", ".join(shown(name) for name in unknown)
        raise invalid({argument: f"names {said}, but the relations of {entity.name!r} are: {there}"})
    return [known[name] for name in sorted(set(names))]


def joins_of(relations: Sequence[Relation]) -> list[Join]:
    """What to ask a store for, so that these relations are followed."""
    return [Join(relation=relation.name, limit=relation.limit) for relation in relations]


async def add_related(
    view: View, relations: Sequence[Relation], found: Joined, answers: Sequence[dict[str, Any]], allowance: Allowance
) -> None:
    """Puts what each row leads to beside its answer, as far as the allowance goes: relation by relation."""
    for relation in relations:
        target = await view.entity(relation.entity)
        for answer, group in zip(answers, found.related[relation.name], strict=False):
            kept = allowance.fit(group.rows)
            said: dict[str, Any] = {"entity": target.name, "rows": [row_answer(target, row) for row in kept]}
            cut = "bytes" if len(kept) < len(group.rows) else group.cut
            if cut is not None:
                said["truncated"] = truncated(cut, len(kept))
            answer.setdefault("related", {})[relation.name] = said


def _name(relation: Relation) -> str:
    return relation.name
