"""Scopes and rules to grants, and what is said of those that lack."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.access.policy import Edition, Policy, require
from headgate.errors import Forbidden
from headgate.model.access import HIDE, Allowed
from headgate.model.caller import SCOPES, Caller, Grant
from tests.unit.access.governed import caller, rules_of

DOCUMENT = """
roles:
  support: {claims: {groups: [support, admins]}}
  two: [{subjects: ada}, {issuers: other, methods: api_key}]
rules:
  - {name: all, to: everyone, tools: find, entities: [product]}
  - {name: own, to: everyone, tools: "*", entities: {customer: {rows: tenant = claims.tenant}}}
  - {name: helpers, to: support, tools: lookup, entities: {"*": }}
  - {name: pair, to: two, tools: describe_data}
  - {name: both, to: {roles: two, claims: {level: 3}}, tools: lookup}
  - {name: ops, to: {scopes: [data:read, pipelines:write]}, tools: list_pipelines, pipelines: shop}
anonymised: {product: {fields: {name: show}}}
"""


def grant(*scopes: str) -> Grant:
    return Policy().decide(Caller(subject="ada", method="jwt", scopes=frozenset(scopes)))


def rules(**who: Any) -> list[str]:
    return list(Policy(Edition.of(DOCUMENT)).decide(caller(**who)).rules)


# --- scopes ---------------------------------------------------------------------------------------


def test_a_grant_holds_the_scopes_of_the_credential_that_exist() -> None:
    given = grant("data:read", "data:write", "root")
    assert given.scopes == {"data:read"}
    assert given.rules == ("scopes",) and given.given is None
    assert given.caller.subject == "ada"


def test_the_version_is_the_policys_content() -> None:
    assert Policy().version == Policy().version == grant().policy_version
    assert Policy().version.startswith("sha256:")
    assert Edition.of(DOCUMENT).version != Edition.of(DOCUMENT + "\n").version


def test_a_grant_that_has_all_scopes_passes() -> None:
    require(grant("data:read", "topics:read"), ["topics:read", "data:read"])
    require(grant(), [])


def test_admin_holds_every_scope() -> None:
    require(grant("admin"), SCOPES)


def test_a_refusal_names_all_that_is_needed_and_what_lacks() -> None:
    with pytest.raises(Forbidden) as refused:
        require(grant("data:read"), ["topics:read", "data:read", "sql:read"])
    assert refused.value.scopes == ("data:read", "sql:read", "topics:read")
    assert refused.value.message == (
        "This needs the scopes data:read, sql:read, topics:read, and the credential lacks sql:read, topics:read: "
        "ask for one that has them."
    )


# --- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ({"subject": "x"}, ["all", "own"]),
        ({"subject": "x", "claims": {"groups": "support"}}, ["all", "own", "helpers"]),
        ({"subject": "x", "claims": {"groups": ["a", "admins"]}}, ["all", "own", "helpers"]),
        ({"subject": "x", "claims": {"groups": ["a"]}}, ["all", "own"]),
        ({"subject": "ada"}, ["all", "own", "pair"]),
        ({"subject": "ada", "claims": {"level": 3}}, ["all", "own", "pair", "both"]),
        ({"subject": "ada", "claims": {"level": "3"}}, ["all", "own", "pair"]),
        ({"subject": "ada", "claims": {"level": True}}, ["all", "own", "pair"]),
        ({"subject": "x", "issuer": "other", "method": "api_key"}, ["all", "own", "pair"]),
        ({"subject": "x", "issuer": "other"}, ["all", "own"]),
        ({"subject": "x", "claims": {"level": 3}}, ["all", "own"]),
        ({"subject": "x", "scopes": frozenset({"data:read", "pipelines:write"})}, ["all", "own", "ops"]),
        ({"subject": "x", "scopes": frozenset({"admin"})}, ["all", "own", "ops"]),
        ({"subject": "ada", "method": "anonymous"}, ["anonymised"]),
    ],
)
def test_rules_are_for_those_whom_they_name(who: dict[str, Any], expected: list[str]) -> None:
    assert rules(**who) == expected


def test_what_a_rule_gives_has_the_callers_claims_filled_in() -> None:
    decided = Policy(Edition.of(DOCUMENT)).decide(caller(claims={"tenant": "acme"}))
    own = next(each for each in rules_of(decided) if each.rule == "own")
    assert own.shares[0].rows == (Allowed("tenant", ("acme",)),)
    without = next(each for each in rules_of(Policy(Edition.of(DOCUMENT)).decide(caller())) if each.rule == "own")
    assert without.shares == () and without.gives_tool("find"), "without the claim the tool is there, and no row"


def test_a_grant_keeps_the_claims_that_rules_ask_for_and_no_others() -> None:
    policy = Policy(Edition.of(DOCUMENT.replace("claims.tenant", "claims.org.id")))
    given = policy.decide(
        caller(claims={"org": {"id": "acme", "tax": 7}, "groups": ["x"], "email": "a@x", "level": None})
    )
    assert given.claims == b'{"groups":["x"],"org.id":"acme"}'
    assert policy.decide(caller(claims={"email": "a@x"})).claims == b""
    assert grant("data:read").claims == b""


def test_an_anonymised_view_hides_what_it_does_not_name() -> None:
    [given] = rules_of(Policy(Edition.of(DOCUMENT)).decide(caller("anonymous", method="anonymous")))
    assert given.shares[0].fields["*"] == HIDE and not given.gives_tool("list_pipelines")


# --- made once ------------------------------------------------------------------------------------


def test_a_grant_is_made_once_for_the_same_caller_and_version() -> None:
    policy = Policy(Edition.of(DOCUMENT))
    one = caller(claims={"tenant": "acme", "jti": "1"})
    again = caller(claims={"tenant": "acme", "jti": "2"}, expires_at_s=9.0)
    assert policy.decide(one) is policy.decide(one)
    assert policy.decide(again).given is policy.decide(one).given and policy.decide(again).caller is again


@pytest.mark.parametrize(
    "other",
    [{"claims": {"tenant": "birch"}}, {"subject": "bob"}, {"issuer": "j"}, {"method": "api_key"},
     {"claims": {"tenant": ["acme"]}}],
)  # fmt: skip
def test_another_caller_has_another_grant(other: dict[str, Any]) -> None:
    policy = Policy(Edition.of(DOCUMENT))
    mine: dict[str, Any] = {"subject": "ada", "claims": {"tenant": "acme"}}
    assert policy.decide(caller(**mine)).fingerprint != policy.decide(caller(**{**mine, **other})).fingerprint


def test_an_edition_that_is_adopted_decides_from_then_on() -> None:
    policy = Policy(Edition.of(DOCUMENT))
    before = policy.decide(caller())
    policy.adopt(Edition.of("rules: []"))
    after = policy.decide(caller())
    assert before.rules and after.rules == () and after.policy_version == policy.version != before.policy_version
    assert after.fingerprint != before.fingerprint
