"""One door under a policy's document too: whoever asks for what, all ways show, hide and record the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.access.policy import Edition
from headgate.model.entity import Entity, Field
from headgate.testing import MemoryReader
from tests.contracts.lanes import TOKEN, Request, both_lanes
from tests.contracts.test_lanes import PLENTY, both, differences, modern, older, valid
from tests.contracts.test_lanes import ROWS as CUSTOMERS
from tests.unit.server.house import CUSTOMER, NOW_MS

SOLD = msgspec.structs.replace(
    CUSTOMER,
    fields=(
        *CUSTOMER.fields,
        Field(name="tenant", type="string", classification="none"),
        Field(name="pin", type="string", classification="secret"),
    ),
    lookups=("email", "tenant", "plan"),
)
LEDGER = Entity(name="ledger", pipeline="shop", table="main.ledger", key=("id",),
                fields=(Field(name="id", type="integer", nullable=False),))  # fmt: skip
ROWS = [
    {**row, "tenant": ("birch", "acme")[number % 2], "pin": f"pin-{number}"} for number, row in enumerate(CUSTOMERS)
]
WHOSE = {row["id"]: row["tenant"] for row in ROWS}
BIRCH, NO_TENANT = "@BIRCH@", "@NO TENANT@"
CALLERS = (TOKEN, BIRCH, NO_TENANT, None)


def policy(**fields: Any) -> str:
    """Tenants see their own customers, with fields treated so; callers without a credential see plans; all, no more."""
    customer = {"rows": "tenant = claims.tenant", "fields": fields}
    return json.dumps({
        "rules": [{"name": "own", "to": "everyone", "tools": "*", "entities": {"customer": customer}}],
        "anonymised": {"customer": {"rows": 'tenant = "acme"', "fields": {"plan": "show"}}},
    })  # fmt: skip


MASKED = policy(email={"treatment": "mask", "lookup": True}, plan="show")
MASKED_EMAIL = "['email', 'c***@shop.example']"
CLOSED = policy(email="hide", plan="hash")


def shop() -> MemoryReader:
    return MemoryReader([SOLD, LEDGER], {SOLD.name: ROWS, LEDGER.name: [{"id": 2}]}, as_of_ms=NOW_MS - 1_000)


def governed(call: Any) -> Iterator[tuple[str, Request]]:
    """What each caller may, and may not, ask for; rows until it would go straight."""
    for token in CALLERS:
        for number, turn in product((2, 3, 99), range(3)):
            yield f"row {number} by {token}: {turn}", call(arguments={"customer_id": number}, token=token)
        for (name, tool, arguments), turn in product(_questions(), range(2)):
            yield f"{name} by {token}: {turn}", call(tool, arguments, token=token)


def _questions() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "a masked field", "lookup_customer", {"email": "c3@shop.example"}
    yield "another's masked field", "lookup_customer", {"email": "c2@shop.example"}
    yield "by lookup", "lookup", {"entity": "customer", "key": 2}
    yield "a page", "find", {"entity": "customer", "limit": 2}
    yield "another's page", "find", {"entity": "customer", "where": {"tenant": "birch"}}
    yield "a hidden field", "find", {"entity": "customer", "where": {"pin": "pin-2"}}
    yield "a field that is not there", "find", {"entity": "customer", "where": {"pim": "pin-2"}}
    yield "a hidden entity", "find", {"entity": "ledger"}
    yield "an entity that is not there", "find", {"entity": "legder"}
    yield "a hidden entity's row", "lookup", {"entity": "ledger", "key": 2}
    yield "a hidden entity's tool", "lookup_ledger", {"ledger_id": 2}
    yield "what there is", "describe_data", {}
    yield "a hidden entity's fields", "describe_data", {"entity": "ledger"}


@pytest.mark.parametrize("call", [modern, older], ids=["modern", "older"])
async def test_each_caller_sees_the_same_by_all_ways(tmp_path: Path, call: Any) -> None:
    anyone = {"anonymous": True, "anonymous_scopes": ["data:read"], "budgets": PLENTY}
    async with both_lanes(tmp_path, shop(), policy=MASKED, **anyone) as lanes:
        for edition in (MASKED, CLOSED):
            for house in lanes.houses:
                house.rooms.policy.adopt(Edition.of(edition))
            before = lanes.straight
            answers = {name: await lanes.ask(request, stays=True) for name, request in governed(call)}
            assert differences(answers) == {}
            assert lanes.straight - before >= 3 * 8, "of each that sees rows all but the first call"
            _check_what_is_seen(answers, edition)
        on, off = lanes.events()
        assert on == off
        assert {event["policy_version"] for event in on} == {Edition.of(MASKED).version, Edition.of(CLOSED).version}


def _check_what_is_seen(answers: dict[str, tuple[Any, Any]], edition: str) -> None:
    """Each row by its tenant alone, and of it what the policy shows."""
    for name, (answer, _) in answers.items():
        said = str(answer.body)
        assert "pin-" not in said and "[['id', 2]]" not in said, name
        assert "masked field" in name or not re.search(r"\w@shop", said), name
        for number in (2, 3):
            if name.startswith(f"row {number} by "):
                token = next(each for each in CALLERS if f"by {each}" in name)
                sees = {TOKEN: "acme", BIRCH: "birch", NO_TENANT: "", None: "acme"}[token]
                is_seen = WHOSE[number] == sees
                assert (f"['id', {number}]" in said) == is_seen, name
                assert (MASKED_EMAIL in said) == (is_seen and token is not None and edition == MASKED), name


async def test_valid_calls_are_answered_and_recorded_alike_under_a_policy(tmp_path: Path) -> None:
    async with both_lanes(tmp_path, shop(), policy=MASKED, budgets=PLENTY) as lanes:
        answers = await both(lanes, valid(modern))
        assert differences(answers) == {}
        assert lanes.taken == len(answers)
        assert lanes.straight > 0
        on, off = lanes.events()
        assert on == off
        assert len(on) == len(answers)
