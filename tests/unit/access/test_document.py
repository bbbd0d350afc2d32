"""A policy's document: its form, and mistakes that are named by line."""

from __future__ import annotations

import pytest

from headgate.access.document import MAX_BYTES, Who, parse_document, version_of
from headgate.errors import ConfigError
from headgate.model.access import Treatment

WHOLE = """\
roles:
  support: {claims: {groups: [support, admins]}}
  chiefs: [{subjects: ada, issuers: i}, {methods: local}]
classes: {personal.*: mask, "*": hide}
rules:
  - name: own rows
    to: everyone
    tools: ["lookup*", find]
    entities:
      customer:
        rows: tenant_id = claims.tenant
        fields: {born: {generalise: year}, email: {treatment: mask, lookup: true}, x: {generalise: 10}}
      order:
  - {name: all, to: [support, chiefs], tools: "*", entities: [customer, order], pipelines: [shop]}
  - {name: ops, to: {scopes: [pipelines:write], claims: {team: ops}}, tools: list_pipelines, pipelines: "*"}
anonymised: {product: {fields: {name: show}}}
tests:
  - {name: t, caller: {claims: {tenant: a}}, tool: find, entity: customer, expect: allowed}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse_document(text, "p.yaml")
    return refused.value.message.splitlines()


def test_everything_that_a_document_may_say() -> None:
    document = parse_document(WHOLE)
    own, every, ops = document.rules
    assert own.to == "everyone" and own.tools == ["lookup*", "find"] and own.entities["order"] is None
    customer = own.entities["customer"]
    assert customer is not None and customer.conditions[0].claim == "tenant"
    assert {name: said.said() for name, said in customer.fields.items()} == {
        "born": Treatment(kind="generalise", step="year"),
        "email": Treatment(kind="mask", lookup=True),
        "x": Treatment(kind="generalise", step=10.0),
    }
    assert isinstance(every.to, Who) and every.to.roles == ["support", "chiefs"]
    assert every.entities == {"customer": None, "order": None} and every.pipelines == ["shop"]
    assert isinstance(ops.to, Who) and ops.to.claims == {"team": "ops"} and ops.tools == ["list_pipelines"]


def test_an_empty_document_gives_nothing() -> None:
    assert parse_document("").rules == [] and parse_document("{}").anonymised == {}


def test_the_version_is_the_texts_digest() -> None:
    assert version_of("a") == "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert version_of(WHOLE) != version_of(WHOLE + " ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [", "p.yaml:1: is no YAML"),
        ("a: 1\na: 2", "p.yaml:2: is no YAML"),
        ("roles: {}\nrulez: []", "p.yaml:2: rulez: is not a setting here"),
        ("rules:\n - {name: a, tools: find}", "p.yaml:2: rules.0.to: is needed here"),
        ("rules:\n - {name: a, to: everyone, tools: []}", "p.yaml:2: rules.0.tools: list should have at least 1"),
        ("rules:\n - {name: a, to: b, tools: find}", "rule 'a' names b, which is no role; roles: none"),
        ("rules:\n - {name: a, to: everyone, tools: f}\n - {name: a, to: everyone, tools: f}", "a is given twice"),
        ("rules:\n - {name: a, to: {}, tools: f}", "says nothing of who is meant: write everyone to mean all"),
        ("rules:\n - {name: a, to: {methods: anonymous}, tools: f}", "write what they may see under anonymised"),
        ("rules:\n - {name: a, to: {scopes: root}, tools: f}", "there is no scope root"),
        ("roles: {a: {roles: b}, b: {subjects: x}}", "role 'a' is made of roles"),
        ("anonymised:\n  e:\n    rows: x == 1", "p.yaml:3: anonymised.e.rows: must be such as"),
        ("anonymised:\n  e:\n    fields:\n      f: blur", "p.yaml:4: anonymised.e.fields.f"),
        ("anonymised: {e: {fields: {f: {generalise: week}}}}", "generalise takes hour, day, month, year, or a number"),
        ("anonymised: {e: {fields: {f: {generalise: 0}}}}", "must be above 0"),
        ("anonymised: {e: {fields: {f: {treatment: mask, generalise: 2}}}}", "give one of mask, hash, hide and show"),
        ("anonymised: {e: {fields: {f: {lookup: true}}}}", "give one of mask, hash, hide and show"),
        ("anonymised: {e: {fields: {f: {treatment: hide, lookup: true}}}}", "a hidden field does not exist"),
        ("classes: {Personal!: mask}", "a class is such as personal.email"),
        ("tests: [{name: t, caller: {}, tool: f, row: {a: 1}, expect: denied}]", "a row needs its entity"),
        ("tests: [{name: t, caller: {}, tool: f, expect: {fields: {}}}]", "fields are expected of a row"),
        ("x" * (MAX_BYTES + 1), "is larger than"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_mend(text: str, said: str) -> None:
    assert any(said in line for line in mistakes(text)), mistakes(text)


def test_all_mistakes_are_named_at_once_and_no_value_is_quoted() -> None:
    found = mistakes("rules:\n - {name: a, to: everyone}\n - {to: everyone, tools: f, secret: hunter2}\nx: hunter2")
    assert [line.split(": ")[0] for line in found] == ["p.yaml:2", "p.yaml:3", "p.yaml:3", "p.yaml:4"]
    assert "hunter2" not in "".join(found)


# --- approvals -----------------------------------------------------------------------------------

CHANGING = ("drop_dead_letters", "pause_pipeline", "retry_dead_letters")


def with_rule(tools: str, approve: str) -> str:
    return f"rules:\n  - name: a\n    to: everyone\n    tools: {tools}\n    approve: {approve}\n"


@pytest.mark.parametrize(
    ("tools", "approve"),
    [
        ("'*'", "drop_dead_letters"),
        ("['*_letters']", "['*']"),
        ("[pause_pipeline, find]", "['pause*']"),
        ("find", "[]"),
    ],
)
def test_what_changes_something_may_wait_for_a_person(tools: str, approve: str) -> None:
    [rule] = parse_document(with_rule(tools, approve), changing=CHANGING).rules
    assert isinstance(rule.approve, list)


@pytest.mark.parametrize(
    ("tools", "approve", "said"),
    [
        ("'*'", "find", "find is no tool that changes something and could wait for a person's yes: leave it out, or "
         "choose from drop_dead_letters, pause_pipeline, retry_dead_letters"),
        ("'*'", "[pause_pipeline, drop_dead_leters]", "drop_dead_leters is no tool that changes something"),
        ("'*'", "'lookup*'", "lookup* is no tool that changes something"),
        ("[find, drop_dead_letters]", "pause_pipeline", "pause_pipeline is no tool that this rule gives: write it"),
    ],
)  # fmt: skip
def test_a_name_that_lets_nothing_wait_is_a_mistake(tools: str, approve: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_document(with_rule(tools, approve), "p.yaml", CHANGING)
    assert refused.value.message.startswith(f"p.yaml:5: rules.0.approve: {said}")
    parse_document(with_rule(tools, approve))  # where nobody knows what changes something
