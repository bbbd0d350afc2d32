"""What is kept of arguments and results: the whole, the digest, or the whole without personal values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.audit.event import payload_of
from headgate.audit.payloads import MASK, PayloadRules, ToolPayloads, kept, masked, personal_names
from headgate.model.entity import Entity, Field


def entity(name: str, key: str, **classes: str) -> Entity:
    fields = tuple(
        Field(name=each, type="string", classification=classes.get(each, "")) for each in {key, *classes, "plan"}
    )
    return Entity(name=name, pipeline="shop", table=f"main.{name}", key=(key,), fields=fields)


CUSTOMER = entity("customer", "id", email="personal.email", secret="secret", note="none")
PERSON = entity("person", "email", email="personal.email")
NAMES = personal_names([CUSTOMER])


def test_a_tool_may_differ_from_the_rest() -> None:
    rules = PayloadRules(arguments="masked", tools={"find": ToolPayloads(results="whole")})
    assert (rules.of_arguments("find"), rules.of_results("find")) == ("masked", "whole")
    assert (rules.of_arguments("lookup"), rules.of_results("lookup")) == ("masked", "digest")
    assert rules.masks and not PayloadRules().masks
    assert PayloadRules(tools={"find": ToolPayloads(results="masked")}).masks


def test_the_digest_is_of_the_whole_whatever_is_kept() -> None:
    value = {"email": "ada@shop.example", "plan": "pro"}
    whole = payload_of(value)
    for keep in ("whole", "masked", "digest"):
        found = kept(value, keep, 1_000, NAMES)
        assert (found.sha256, found.bytes) == (whole.sha256, whole.bytes)
    assert kept(value, "whole", 1_000, NAMES).json == msgspec.Raw(b'{"email":"ada@shop.example","plan":"pro"}')
    assert kept(value, "masked", 1_000, NAMES).json == msgspec.Raw(b'{"email":"***","plan":"pro"}')
    assert kept(value, "masked", 1_000, NAMES).masked is True
    assert kept(value, "digest", 1_000, NAMES).json is msgspec.UNSET
    assert kept(value, "masked", 10, NAMES).json is msgspec.UNSET, "it is bounded like the whole"


def test_classified_values_are_masked_wherever_they_stand() -> None:
    assert {"email", "secret", "cursor"} == NAMES
    given = {"entity": "customer", "where": {"email": {"ge": "a"}, "plan": "pro"}, "cursor": "bGFzdA", "key": 7}
    assert masked(given, NAMES) == {
        "entity": "customer", "where": {"email": MASK, "plan": "pro"}, "cursor": MASK, "key": 7
    }  # fmt: skip
    rows = {"rows": [{"uri": "u", "values": {"id": 7, "email": None, "secret": "s", "note": "n"}}]}
    assert masked(rows, NAMES)["rows"][0]["values"] == {"id": 7, "email": None, "secret": MASK, "note": "n"}


def test_where_keys_are_personal_what_holds_keys_is_masked_too() -> None:
    names = personal_names([PERSON])
    assert names >= {"email", "key", "uri", "person_id", "cursor"}
    assert masked({"entity": "person", "key": "ada@shop.example"}, names)["key"] == MASK
    assert personal_names([entity("product", "sku")]) == frozenset()


_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["email", "plan", "rows", "values"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_values)
def test_nothing_under_a_personal_name_is_left(value: Any) -> None:
    def left(value: Any) -> list[Any]:
        if isinstance(value, dict):
            own = [value["email"]] if "email" in value else []
            return own + [each for part in value.values() for each in left(part)]
        return [each for part in value for each in left(part)] if isinstance(value, list) else []

    assert set(map(repr, left(masked(value, NAMES)))) <= {repr(MASK), repr(None)}


@pytest.mark.parametrize("keep", ["whole", "masked", "digest"])
def test_what_is_no_json_is_recorded_without_a_digest(keep: Any) -> None:
    assert kept({"a": "\ud800"}, keep, 1_000, NAMES).sha256 == ""
