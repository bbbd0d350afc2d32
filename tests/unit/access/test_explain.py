"""Why a caller gets what it gets; a document's own tests; and what is wrong with it beside the entities."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.access.document import CallerBlock, parse_document
from headgate.access.explain import Explanation, caller_of, explain, run_cases
from headgate.access.findings import findings_of, mistakes_in
from headgate.access.policy import Edition
from headgate.access.rules import Rules
from tests.unit.access.governed import ENTITIES, KEY

DOCUMENT = """
roles: {staff: {claims: {team: staff}}}
rules:
  - name: own
    to: everyone
    tools: find
    entities: {customer: {rows: tenant = claims.tenant, fields: {score: hide}}}
  - {name: staff, to: staff, tools: "*", entities: {"c*": {rows: "id in [3, 4]"}}}
  - {name: odd, to: everyone, tools: "*", entities: {order: {rows: total2 = claims.tenant}}}
  - {name: never, to: everyone, tools: "*", entities: {note: {rows: ['tenant = "a"', 'tenant = "b"']}}}
anonymised: {customer: {fields: {plan: show}}}
"""


def why(tool: str, entity: str | None = None, **caller: Any) -> Explanation:
    rules = Rules(parse_document(DOCUMENT))
    return explain(rules, caller_of(CallerBlock(**caller)), tool, entity, ENTITIES)


def test_the_rule_that_gives_is_named_with_what_it_gives() -> None:
    found = why("find", "customer", claims={"tenant": "acme"})
    assert found.is_given and found.verdict == "allowed: find of customer, by own"
    assert found.lines[0] == (
        "own: gives rows where tenant is acme; show: id, tenant, region, plan, born; mask: email; "
        "hide: score, pin, fresh"
    )
    assert found.lines[1] == "staff: is not for this caller: the caller has not the role staff"


@pytest.mark.parametrize(
    ("tool", "entity", "caller", "line", "said"),
    [
        ("find", "customer", {}, 0, "gives nothing of customer: the caller lacks the claim tenant"),
        ("lookup", "customer", {"claims": {"tenant": "a"}}, 0, "does not give the tool lookup"),
        ("find", "order", {"claims": {"tenant": "a"}}, 0, "does not give the entity order"),
        ("find", "order", {"claims": {"tenant": "a"}}, 2, "narrowed by 'total2', which 'order' has not"),
        ("find", "note", {}, 3, "its conditions exclude each other"),
        ("find", "customer", {"method": "anonymous"}, 0, "anonymised: gives all rows; show: id, plan; hide: tenant"),
        ("list_pipelines", None, {"method": "anonymous"}, 0, "no other rule gives anything to anonymous callers"),
    ],
)
def test_every_rule_says_why_not(tool: str, entity: str | None, caller: Any, line: int, said: str) -> None:
    assert said in why(tool, entity, **caller).lines[line]


def test_a_pattern_and_a_tool_alone_are_explained() -> None:
    assert why("lookup", "customer", claims={"team": "staff"}).verdict == "allowed: lookup of customer, by staff"
    assert why("list_pipelines").verdict == "allowed: list_pipelines, by odd, never"
    assert not why("lookup", "customer").is_given


def test_a_documents_tests_are_held_against_it() -> None:
    cases = """
tests:
  - name: own row
    caller: &own {claims: {tenant: a}}
    tool: find
    entity: customer
    row: {id: 1, tenant: a, email: ada@b.example, plan: free}
    expect: {fields: {id: 1, tenant: a, email: a***@b.example, plan: free}}
  - {name: other row, caller: *own, tool: find, entity: customer, row: {id: 1, tenant: b}, expect: denied}
  - {name: seen, caller: *own, tool: find, entity: customer, row: {id: 1, tenant: a}, expect: allowed}
  - {name: missed, caller: *own, tool: find, entity: customer, row: {id: 1, tenant: a}, expect: denied}
  - {name: tool, caller: {}, tool: nope, expect: allowed}
  - name: unknown entity
    caller: {claims: {team: staff}}
    tool: find
    entity: cat
    row: {id: 3, mail: ada@b.example, new: 1}
    expect: {fields: {id: 3, mail: a***@b.example}}
"""
    rules = Rules(parse_document(DOCUMENT + cases))
    verdicts = list(run_cases(rules, ENTITIES, {"cat": {"mail": "personal.email"}}, KEY))
    assert [verdict.is_as_expected for verdict in verdicts] == [True, True, True, False, True, True]
    assert verdicts[1].said == "denied: no rule that gives find of customer gives this row"
    assert verdicts[3].said == 'expected denied, but found {"id":1,"tenant":"a"}'


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        ("{customer: {rows: pin = claims.x}}", "'pin', which has no index: add it to the lookups of 'customer'"),
        ("{customer: {fields: {emial: hide}}}", "it treats the field 'emial', which the entity has not"),
        (
            "{customer: {fields: {plan: {generalise: month}, score: {generalise: month}}}}",
            "'score' can't be generalised",
        ),
        ("{customer: {fields: {born: {generalise: 10}}}}", "'born' can't be generalised so, as it is of type date"),
        ("{'c*': {fields: {id: mask}}}", "'id', which is in the key"),
    ],
)
def test_what_a_server_would_refuse_is_found(said: str, mistake: str) -> None:
    document = parse_document(f"rules: [{{name: a, to: everyone, tools: find, entities: {said}}}]")
    assert any(mistake in line for line in mistakes_in(document, ENTITIES))
    assert mistakes_in(document, {}) == [], "nothing is wrong while nothing is known"


def test_what_is_hidden_by_default_or_names_nothing_is_said() -> None:
    document = parse_document("rules: [{name: a, to: everyone, tools: find, entities: [customer, costumer]}]")
    said = [(finding.level, finding.message) for finding in findings_of(document, ENTITIES)]
    assert said == [
        ("warning", "rule 'a', entity 'costumer': there is no entity of that name"),
        ("warning", "fields of 'customer' are hidden, as they have no class: fresh"),
    ]


# --- approvals -----------------------------------------------------------------------------------

APPROVED = """
rules:
  - {name: night, to: {claims: {shift: night}}, tools: "*", approve: ["*_dead_letters"]}
  - {name: all, to: everyone, tools: ["*_dead_letters", find], approve: ["*"]}
  - {name: more, to: everyone, tools: ["*"]}
  - {name: chief, to: {claims: {role: chief}}, tools: pause_pipeline}
tests:
  - {name: waits, caller: {}, tool: drop_dead_letters, expect: approval}
  - {name: does not, caller: {}, tool: pause_pipeline, expect: allowed}
  - {name: is not given at once, caller: {}, tool: drop_dead_letters, expect: allowed}
  - {name: reads, caller: {}, tool: find, expect: allowed}
  - {name: reads without, caller: {}, tool: find, expect: approval}
"""
CHANGING = frozenset({"drop_dead_letters", "pause_pipeline"})


def approving() -> Rules:
    return Rules(parse_document(APPROVED, changing=CHANGING), CHANGING)


def test_a_rule_that_asks_for_a_persons_yes_is_named_and_no_other_takes_that_back() -> None:
    found = explain(approving(), caller_of(CallerBlock()), "drop_dead_letters", None, {})
    assert found.is_given and found.needs_approval
    assert found.verdict == "approval: drop_dead_letters, by all, more, once another person approves it (all)"
    assert found.lines[1] == "all: gives the tool; asks for another person's approval"
    assert found.lines[2] == "more: gives the tool"
    both = explain(approving(), caller_of(CallerBlock(claims={"shift": "night"})), "drop_dead_letters", None, {})
    assert both.verdict.endswith("once another person approves it (night, all)")
    free = explain(approving(), caller_of(CallerBlock()), "pause_pipeline", None, {})
    assert not free.needs_approval and free.verdict == "allowed: pause_pipeline, by more"


def test_a_documents_tests_may_expect_an_approval() -> None:
    verdicts = list(run_cases(approving(), {}, {}, KEY))
    assert [verdict.is_as_expected for verdict in verdicts] == [True, True, False, True, False]
    assert verdicts[2].said == "expected allowed, but found approval"


def test_a_grant_says_which_rules_ask() -> None:
    edition = Edition.of(APPROVED, changing=CHANGING)
    grant = edition.decide(caller_of(CallerBlock(claims={"shift": "night"})))
    assert grant.asking("drop_dead_letters") == ("night", "all")
    assert grant.asking("pause_pipeline") == ()
    assert Edition("v").decide(caller_of(CallerBlock())).asking("drop_dead_letters") == (), "scopes ask for none"
