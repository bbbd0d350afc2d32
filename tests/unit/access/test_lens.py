"""How rows look through the rules of a grant, and what of an entity exists."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from headgate.access.lens import Lens
from headgate.access.policy import Edition, Policy
from headgate.access.sight import Lenses, Sight
from headgate.errors import StoreError
from headgate.model.entity import Entity
from headgate.model.row import Row
from tests.unit.access.governed import ENTITIES, KEY, ROWS, caller, key_of

CUSTOMER = {row["id"]: row for row in ROWS["customer"]}
ACME = caller(claims={"tenant": "acme"})


def sight(customer: Any, *more: Any, who: Any = ACME, **entities: Any) -> Sight:
    """What rules, each with what it says of customers, give a caller."""
    rules = [
        {"name": f"r{number}", "to": "everyone", "tools": "*", "entities": {"customer": said, **entities}}
        for number, said in enumerate([customer, *more])
    ]
    policy = Policy(Edition.of(json.dumps({"rules": rules})), KEY)
    return Lenses(KEY).sight(policy.decide(who), "find", ENTITIES)


def one_rule(entities: Any, **more: Any) -> Policy:
    """A policy whose one rule gives everyone these entities by every tool."""
    rule = {"name": "a", "to": "everyone", "tools": "*", "entities": entities}
    return Policy(Edition.of(json.dumps({"rules": [rule], **more})), KEY)


def lens(*said: Any, who: Any = ACME) -> Lens:
    found = sight(*said, who=who).lens("customer")
    assert found is not None
    return found


def entity(seen: Sight, name: str = "customer") -> Entity:
    found = seen.entity(name)
    assert found is not None
    return found


def seen(through: Lens, id_: int) -> dict[str, Any] | None:
    row = CUSTOMER[id_]
    found = through.see(Row(key_of("customer", row), 0, 0, msgspec.json.encode(row), "flaw"))
    return None if found is None else json.loads(found.json)


# --- classes --------------------------------------------------------------------------------------


def test_what_is_classified_is_masked_or_hidden_until_a_rule_says_otherwise() -> None:
    plain = seen(lens(None), 3)
    assert plain is not None and plain["email"] == "u***@acme.example"
    assert "pin" not in plain, "a class that nobody treats is hidden"
    assert "fresh" not in plain, "of a classified entity a field without a class is hidden"
    said = seen(lens({"fields": {"email": "show", "pin": "mask", "fresh": "show"}}), 3)
    assert said is not None and (said["email"], said["pin"], said["fresh"]) == ("user3@acme.example", "p***", "new-3")


def test_a_rules_classes_come_before_the_documents() -> None:
    rules = [
        {"name": "a", "to": "everyone", "tools": "*", "entities": {"customer": {"classes": {"personal.email": "hide"}}}}
    ]
    policy = Policy(Edition.of(json.dumps({"classes": {"personal.*": "show", "secret": "hash"}, "rules": rules})), KEY)
    found = Lenses(KEY).sight(policy.decide(ACME), "find", ENTITIES).lens("customer")
    assert found is not None
    row = seen(found, 3)
    assert row is not None and "email" not in row and len(row["pin"]) == 64


def test_an_entity_without_any_class_shows_all() -> None:
    found = sight(None, order=None).lens("order")
    assert found is not None
    row = Row("1", 0, 0, b'{"id":1,"total":1.10}')
    assert found.see(row) is row, "what nothing is done to passes as it is"


@pytest.mark.parametrize(("every", "expected"), [("mask", "***"), ("hide", None)])
def test_a_word_on_every_field_makes_none_more_open(every: str, expected: str | None) -> None:
    row = seen(lens({"fields": {"*": every, "plan": "show"}}), 3)
    assert row is not None and row.get("tenant") == ("a***" if every == "mask" else None)
    assert row["plan"] == "vip" and row["id"] == 3 and "pin" not in row
    assert row.get("score") == expected


# --- several rules --------------------------------------------------------------------------------


def test_a_rule_never_shows_a_field_of_rows_that_another_gives() -> None:
    both = lens({"rows": "tenant = claims.tenant", "fields": {"email": "show"}},
                {"rows": 'region = "north"', "fields": {"score": "hide"}})  # fmt: skip
    acme, north, none = seen(both, 6), seen(both, 4), seen(both, 5)
    assert acme is not None and acme["email"] == "user6@acme.example" and "score" in acme
    assert north is not None and north["email"] == "u***@birch.example" and "score" not in north
    assert none is None


def test_of_two_rules_that_give_a_row_the_more_permissive_decides_each_field() -> None:
    both = lens({"rows": "tenant = claims.tenant", "fields": {"email": "hash", "born": {"generalise": "year"}}},
                {"rows": 'region = "north"', "fields": {"email": "hide", "born": {"generalise": "month"}}})  # fmt: skip
    row = seen(both, 3)
    assert row is not None and len(row["email"]) == 64 and row["born"] == "1963-04"


def test_what_another_rule_gives_anyway_counts_for_nothing() -> None:
    wide = lens(None, {"rows": "tenant = claims.tenant", "fields": {"*": "hide"}})
    assert len(wide.parts) == 1 and wide.has_all_rows


def test_a_row_keeps_its_flaw_and_place() -> None:
    row = lens(None).see(Row("3", 2, 5, msgspec.json.encode(CUSTOMER[3]), "schema_mismatch"))
    assert row is not None and (row.key, row.partition, row.epoch, row.flaw) == ("3", 2, 5, "schema_mismatch")


def test_values_are_answered_as_they_were_stored() -> None:
    through = lens({"fields": {"email": "mask"}})
    odd = b'{"id":1,"score":1.10,"plan":9007199254740993,"email":"a@b.example","unknown":1}'
    row = through.see(Row("1", 0, 0, odd))
    assert row is not None
    assert row.json == b'{"id":1,"email":"***@b.example","plan":9007199254740993,"score":1.10}'


def test_a_row_that_is_no_json_is_told_and_not_shown() -> None:
    with pytest.raises(StoreError):
        lens(None).see(Row("1", 0, 0, b"[1]"))


def test_a_row_without_the_field_that_decides_is_nobodys() -> None:
    mine = lens({"rows": "tenant = claims.tenant"})
    for json_ in (b"{}", b'{"tenant":null}', b'{"tenant":["acme"]}', b'{"tenant":"ACME"}', b'{"tenant":"acme "}'):
        assert mine.see(Row("1", 0, 0, json_)) is None
    assert mine.see(Row("1", 0, 0, b'{"tenant":"\\u0061cme"}')) is not None, "another spelling of the same text"


# --- what exists ----------------------------------------------------------------------------------


def test_hidden_fields_do_not_exist_and_masked_ones_decide_nothing() -> None:
    shown = entity(sight({"fields": {"plan": "mask", "score": {"generalise": 10}, "region": "hide"}}))
    assert [field.name for field in shown.fields] == ["id", "tenant", "email", "plan", "score", "born"]
    assert shown.lookups == ("tenant",) and shown.sorted == ("born",)
    said = {field.name: (field.type, field.description) for field in shown.fields}
    assert said["plan"] == ("string", "Masked.") and said["score"] == ("integer", "Rounded down to a multiple of 10.")


def test_a_masked_field_is_looked_up_by_only_where_policy_says_so() -> None:
    by_value = {"treatment": "mask", "lookup": True}
    shown = entity(sight({"fields": {"email": by_value, "score": by_value}}))
    assert "email" in shown.lookups and "score" in shown.lookups and "score" not in shown.sorted
    assert next(field for field in shown.fields if field.name == "score").type == "integer", "a value is given as such"


def test_a_field_that_some_rows_hide_gives_no_order() -> None:
    shown = entity(sight({"rows": "tenant = claims.tenant"}, {"rows": 'plan = "vip"', "fields": {"score": "mask"}}))
    assert "score" in shown.lookups and "score" not in shown.sorted
    assert "Not shown in full in every row." in [field.description for field in shown.fields]


def test_relations_lead_from_what_is_seen_to_what_is_seen() -> None:
    def names(*customer: Any, **others: Any) -> list[str]:
        return [relation.name for relation in entity(sight(*customer, **others)).relations]

    assert names(None, order=None) == ["orders", "peers"]
    assert names(None) == ["peers"], "its entity is hidden"
    assert names({"fields": {"plan": "mask"}}, order=None) == ["orders"], "it would tell of a masked value"
    assert names(None, order={"fields": {"customer_id": "hide"}}) == ["peers"]
    assert names(None, order={"fields": {"customer_id": {"treatment": "mask", "lookup": True}}}) == ["orders", "peers"]


# --- what can't be enforced -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"rows": "pin = claims.tenant"}, "'pin', which has no index: add it to the lookups of 'customer'"),
        ({"rows": "nope = claims.tenant"}, "'nope', which 'customer' has not"),
        ({"fields": {"id": "hash"}}, "'id', which is in the key"),
        ({"rows": f"score in {list(range(101))}"}, "more than 100 combinations"),
    ],
)
def test_a_rule_that_cant_be_enforced_gives_nothing_and_says_why(
    said: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert sight(said).lens("customer") is None
    assert reason in caplog.text and "'r0'" in caplog.text


def test_conditions_that_exclude_each_other_give_nothing() -> None:
    assert sight({"rows": ["tenant = claims.tenant", 'tenant = "birch"']}).lens("customer") is None


def test_grants_that_are_given_the_same_share_their_lens() -> None:
    lenses = Lenses(KEY)
    rules = [
        {"name": "a", "to": "everyone", "tools": "*", "entities": {"customer": {"rows": "tenant = claims.tenant"}}}
    ]
    policy = Policy(Edition.of(json.dumps({"rules": rules})), KEY)
    ann, ben = (caller(name, claims={"tenant": "acme"}) for name in ("ann", "ben"))
    other = caller("ann", claims={"tenant": "birch"})
    of = [lenses.sight(policy.decide(who), "find", ENTITIES).lens("customer") for who in (ann, ben, other)]
    assert of[0] is of[1] and of[0] is not of[2]


def test_a_changed_definition_is_seen_at_once() -> None:
    lenses, grant = Lenses(KEY), one_rule(["customer"]).decide(ACME)
    before = lenses.sight(grant, "find", ENTITIES)
    assert lenses.sight(grant, "find", dict(ENTITIES)) is before
    changed = {**ENTITIES, "customer": msgspec.structs.replace(ENTITIES["customer"], description="new")}
    assert entity(lenses.sight(grant, "find", changed)).description == "new"
