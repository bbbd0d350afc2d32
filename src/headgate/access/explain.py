"""Why a caller gets what it gets: each rule's part in it, and a document's own tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from headgate.access.document import CallerBlock, Case, EntityBlock, Expected, Rule
from headgate.access.lens import Lens
from headgate.access.parts import condition_indexes, parts_of
from headgate.access.rules import ANONYMISED, Rules
from headgate.access.sight import shares_of
from headgate.access.treatments import resolve
from headgate.model.access import Share, any_fits
from headgate.model.caller import Caller
from headgate.model.entity import Entity, Field
from headgate.model.row import Row, key_text
from headgate.model.table import ColumnType


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something is given, and what each rule has to do with it."""

    is_given: bool
    needs_approval: bool = False
    """Whether what is given waits for another person's yes, at each call."""
    verdict: str
    lines: Sequence[str]
    """One for each rule, in the document's order: its name, and why or why not."""


def caller_of(block: CallerBlock) -> Caller:
    """The caller that a test or a command line describes."""
    return Caller(
        subject=block.subject,
        method=block.method,
        issuer=block.issuer,
        scopes=frozenset(block.scopes),
        claims=block.claims,
    )


# --- explain ----------------------------------------------------------------------------------------


def explain(rules: Rules, caller: Caller, tool: str, entity: str | None, known: Mapping[str, Entity]) -> Explanation:
    """What the rules give this caller of the entity by the tool; without an entity, of the tool alone."""
    by_rule = {each.rule: each for each in rules.given(caller)}
    lines, giving, asking = [], [], []
    for rule in rules.document.rules:
        reason = _why_not(rules, rule, caller, tool, entity, known)
        if not reason:
            giving.append(rule.name)
            reason = "gives the tool"
            if entity is not None:
                _, share = shares_of([by_rule[rule.name]], entity)[0]
                reason = f"gives {_given(share, known.get(entity))}"
        if rules.asks_for(rule, tool) and not rules.why_not(rule, caller):
            asking.append(rule.name)
            reason += "; asks for another person's approval"
        lines.append(f"{rule.name}: {reason}")
    if caller.method == "anonymous":
        lines, giving = _anonymously(rules, caller, tool, entity, known)
    what = f"{tool} of {entity}" if entity is not None else tool
    verdict = f"allowed: {what}, by {', '.join(giving)}" if giving else f"denied: no rule gives {what}"
    if giving and asking:
        verdict = f"approval: {what}, by {', '.join(giving)}, once another person approves it ({', '.join(asking)})"
    return Explanation(is_given=bool(giving), needs_approval=bool(giving and asking), verdict=verdict, lines=lines)


def _why_not(
    rules: Rules, rule: Rule, caller: Caller, tool: str, entity: str | None, known: Mapping[str, Entity]
) -> str:
    """Why a rule does not give it; empty if it does."""
    if reason := rules.why_not(rule, caller):
        return f"is not for this caller: {reason}"
    if not any_fits(tool, tuple(rule.tools)):
        return f"does not give the tool {tool}"
    if entity is None:
        return ""
    named = entity if entity in rule.entities else _pattern(rule.entities, entity)
    if named is None:
        return f"does not give the entity {entity}"
    if lacking := rules.missing_claims(rule.entities[named], caller):
        return f"gives nothing of {entity}: the caller lacks the claim {', '.join(lacking)}"
    [given] = [each for each in rules.given(caller) if each.rule == rule.name]
    return _why_void(known.get(entity), shares_of([given], entity))


def _why_void(entity: Entity | None, shares: Sequence[tuple[str, Share]]) -> str:
    if entity is None:
        return ""
    outcome = parts_of(entity, shares)
    if outcome.void:
        return f"gives nothing of {entity.name}: {outcome.void[0][1]}"
    return "" if outcome.parts else f"gives nothing of {entity.name}: its conditions exclude each other"


def _anonymously(
    rules: Rules, caller: Caller, tool: str, entity: str | None, known: Mapping[str, Entity]
) -> tuple[list[str], list[str]]:
    given = [each for each in rules.given(caller) if each.gives_tool(tool)]
    shares = shares_of(given, entity) if entity is not None else ()
    if given and entity is None:
        return [f"{ANONYMISED}: gives the tool"], [ANONYMISED]
    if shares and entity is not None and not _why_void(known.get(entity), shares):
        return [f"{ANONYMISED}: gives {_given(shares[0][1], known.get(entity))}"], [ANONYMISED]
    return [f"{ANONYMISED}: does not give it; no other rule gives anything to anonymous callers"], []


def _pattern(entities: Mapping[str, EntityBlock | None], entity: str) -> str | None:
    return next((pattern for pattern in entities if any_fits(entity, (pattern,))), None)


def _given(share: Share, entity: Entity | None) -> str:
    """Rows and fields, in words."""
    rows = " and ".join(f"{each.field} is {' or '.join(map(str, each.values))}" for each in share.rows)
    said = [f"rows where {rows}" if rows else "all rows"]
    if entity is not None:
        groups: dict[str, list[str]] = {}
        for name, treatment in sorted(resolve(entity, share).items(), key=lambda each: each[1].rank):
            kind = treatment.kind if treatment.kind != "generalise" else f"generalise to {treatment.step}"
            groups.setdefault(f"{kind}{', found by value' if treatment.lookup else ''}", []).append(name)
        said += [f"{how}: {', '.join(names)}" for how, names in groups.items()]
    return "; ".join(said)


# --- a document's own tests -------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one test."""

    name: str
    is_as_expected: bool
    said: str
    """Why, or what was found instead."""


def run_cases(
    rules: Rules, known: Mapping[str, Entity], classes: Mapping[str, Mapping[str, str]], key: bytes
) -> Iterator[Verdict]:
    """Every test of the document, in its order.

    Of an entity that is not `known`, the row says what its fields are and `classes` (entity → field → class) what
    class they have.
    """
    for case in rules.document.tests:
        definitions = dict(known)
        if case.entity is not None and case.entity not in known:
            definitions[case.entity] = sketch(case.entity, case.row or {}, rules, classes.get(case.entity, {}))
        yield _run_case(rules, case, definitions, key)


def _run_case(rules: Rules, case: Case, known: Mapping[str, Entity], key: bytes) -> Verdict:
    caller = caller_of(case.caller)
    explanation = explain(rules, caller, case.tool, case.entity, known)
    said = explanation.verdict
    found: Any = "denied"
    if explanation.is_given:
        found = "approval" if explanation.needs_approval else "allowed"
    if explanation.is_given and case.entity is not None and case.row is not None:
        found = _seen(rules, caller, case, known[case.entity], key)
        if found == "denied":
            said = f"denied: no rule that gives {case.tool} of {case.entity} gives this row"
    expected = case.expect.fields if isinstance(case.expect, Expected) else case.expect
    is_right = found == expected or (expected == "allowed" and isinstance(found, dict))
    said = said if is_right else f"expected {_text(expected)}, but found {_text(found)}"
    return Verdict(name=case.name, is_as_expected=is_right, said=said)


def _seen(rules: Rules, caller: Caller, case: Case, entity: Entity, key: bytes) -> Any:
    """The row's fields as they are answered, or `denied`."""
    assert case.row is not None, "there is a row to look at"
    given = [each for each in rules.given(caller) if each.gives_tool(case.tool)]
    parts = parts_of(entity, shares_of(given, entity.name)).parts
    lens = Lens(entity, condition_indexes(entity), parts, key)
    text = key_text([case.row.get(name) for name in entity.key])
    seen = lens.see(Row(text, 0, 0, msgspec.json.encode(case.row)))
    if seen is None:
        return "denied"
    shown = {field.name for field in lens.shown.fields}
    return {name: value for name, value in msgspec.json.decode(seen.json).items() if name in shown}


def sketch(name: str, row: Mapping[str, Any], rules: Rules, classes: Mapping[str, str]) -> Entity:
    """An entity as a row suggests it: a key `id`, and an index for whatever rules narrow rows by."""
    blocks = [block for rule in rules.document.rules for block in rule.entities.values() if block]
    blocks += [block for block in rules.document.anonymised.values() if block]
    narrowed = {condition.field for block in blocks for condition in block.conditions}
    fields = tuple(
        Field(name=each, type=_type_of(value), classification=classes.get(each, "")) for each, value in row.items()
    )
    key = "id" if "id" in row or not row else next(iter(row))
    return Entity(
        name=name, pipeline="", table="", key=(key,), fields=fields,
        lookups=tuple(sorted(narrowed.intersection(row) - {key})),
    )  # fmt: skip


def _type_of(value: Any) -> ColumnType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return "json" if isinstance(value, dict | list) else "string"


def _text(found: Any) -> str:
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()
