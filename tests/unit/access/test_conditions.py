"""Conditions on rows, as a policy writes them."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.access.conditions import claim_of, parse_condition
from headgate.model.access import Allowed
from headgate.model.caller import Caller

CLAIMS: dict[str, Any] = {
    "tenant": "acme", "regions": ["north", "west"], "org": {"id": 7}, "a.b": "whole", "https://x/t": "u", "none": None,
    "empty": [], "odd": [{"a": 1}], "some": ["x", None],
}  # fmt: skip
ADA = Caller(subject="ada", method="jwt", scopes=frozenset(), claims=CLAIMS)


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("tenant_id = claims.tenant", "tenant_id", ("acme",)),
        ("  tenant_id=claims.tenant ", "tenant_id", ("acme",)),
        ("region in claims.regions", "region", ("north", "west")),
        ("region in claims.tenant", "region", ("acme",)),
        ("org = claims.org.id", "org", (7,)),
        ("x = claims.a.b", "x", ("whole",)),
        ('x = claims["https://x/t"]', "x", ("u",)),
        ('"odd field" = caller.subject', "odd field", ("ada",)),
        ('status = "open"', "status", ("open",)),
        ('status in ["open", "paid"]', "status", ("open", "paid")),
        ("n in [1, 2.5]", "n", (1, 2.5)),
        ("paid = true", "paid", (True,)),
        ('x = "claims.tenant"', "x", ("claims.tenant",)),
        ("income = 3", "income", (3,)),
    ],
)
def test_a_condition_has_the_callers_values(text: str, field: str, values: tuple[Any, ...]) -> None:
    assert parse_condition(text).allowed(ADA) == Allowed(field, values)


@pytest.mark.parametrize(
    "text",
    ["x = claims.missing", "x = claims.none", "x in claims.empty", "x = claims.regions", "x = claims.org",
     "x in claims.odd", "x in claims.some", "x = claims.tenant.id"],
)  # fmt: skip
def test_without_a_fitting_claim_nothing_is_given(text: str) -> None:
    assert parse_condition(text).allowed(ADA) is None


@pytest.mark.parametrize(
    "text",
    ["", "tenant", "tenant =", "= claims.tenant", "tenant == claims.tenant", "tenant = null", "x = {}", "x = [1]",
     "x in 3", "x in []", "x in [null]", "x = open", "x = claims", "x = claims.", "x < 3", "x in caller.subject",
     "x = 1; drop", "x = claims.a or 1 = 1"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"tenant_id = claims\.tenant"):
        parse_condition(text)


def test_a_claim_of_the_whole_name_comes_first() -> None:
    assert claim_of({"a": {"b": 1}, "a.b": 2}, "a.b") == 2
    assert claim_of({"a": {"b": 1}}, "a.b") == 1 and claim_of({"a": 3}, "a.b") is None
