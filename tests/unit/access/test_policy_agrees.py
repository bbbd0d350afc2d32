"""For each of many policies × callers × tools: list, call, read, find, complete and count agree with a plain model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from headgate.errors import InvalidArguments, NotIndexed, UnknownEntity
from headgate.model.caller import Caller
from headgate.model.entity import Relation
from headgate.stores.base import Join, JoinQuery, Reader
from tests.unit.access.governed import ENTITIES, ROWS, Governed, caller, filled_reader, key_of
from tests.unit.access.reference import Expected, rules_for

BUILT_IN = ("check_data_freshness", "describe_data", "find", "lookup", "scan")
CALLERS = (
    caller("ann", claims={"tenant": "acme", "regions": ["north", "west"], "team": "red", "customer": 3}),
    caller("ben", claims={"tenant": "birch", "team": "blue", "regions": []}),
    caller("cem", claims={"team": "red", "regions": "south", "customer": "5"}),
    caller("nobody", method="anonymous"),
)
TREATMENTS = ("show", "hide", "mask", "hash")
CONDITIONS = {
    "customer": (
        "tenant = claims.tenant", "region in claims.regions", 'plan = "vip"', "id = claims.customer",
        'region in ["north", "south"]', "score in [1, 4, 7]",
    ),
    "order": (
        "tenant = claims.tenant", 'status = "open"', 'status in ["open", "paid"]', "customer_id = claims.customer",
    ),
    "note": ("tenant = claims.tenant", 'tenant in ["acme", "cedar"]'),
}  # fmt: skip

# --- policies -------------------------------------------------------------------------------------


def treatments(field: str) -> st.SearchStrategy[Any]:
    """How one field may be treated."""
    some = [st.sampled_from(TREATMENTS), st.just({"treatment": "mask", "lookup": True})]
    if field == "born":
        some.append(st.sampled_from([{"generalise": "year"}, {"generalise": "month", "lookup": True}]))
    if field in ("score", "total"):
        some.append(st.sampled_from([{"generalise": 5}, {"generalise": 2.5}]))
    return st.one_of(some)


def blocks(entity: str) -> st.SearchStrategy[Any]:
    """What a rule may say of one entity."""
    names = [field.name for field in ENTITIES[entity].fields if field.name not in ENTITIES[entity].key]
    fields = st.fixed_dictionaries({}, optional={name: treatments(name) for name in names})
    every = st.fixed_dictionaries({}, optional={"*": st.sampled_from(["mask", "hide"])})
    rows = st.lists(st.sampled_from(CONDITIONS[entity]), max_size=2, unique=True)
    return st.one_of(
        st.none(),
        st.builds(lambda rows, fields, every: {"rows": rows, "fields": {**fields, **every}}, rows, fields, every),
    )


def rules() -> st.SearchStrategy[Any]:
    """One rule, but for its name."""
    entities = st.fixed_dictionaries({}, optional={name: blocks(name) for name in ENTITIES})
    tools = st.sampled_from([["*"], ["lookup*", "find"], ["find", "describe_data"], ["lookup_customer", "lookup"]])
    to = st.sampled_from([{}, {"team": "red"}, {"tenant": "birch"}])
    return st.builds(lambda tools, entities, to: {"tools": tools, "entities": entities, "to": {"claims": to}},
                     tools, entities, to)  # fmt: skip


POLICIES = st.lists(rules(), min_size=1, max_size=4).map(
    lambda found: {"rules": [{"name": f"rule {number}", **rule} for number, rule in enumerate(found)]}
)
OVERLAP: Any = {
    "rules": [
        {"name": "own", "to": {"claims": {}}, "tools": ["*"], "entities": {
            "customer": {"rows": ["tenant = claims.tenant"], "fields": {"email": "show", "plan": "mask"}},
            "order": {"rows": ["tenant = claims.tenant"]}, "note": None}},
        {"name": "region", "to": {"claims": {"team": "red"}}, "tools": ["*"], "entities": {
            "customer": {"rows": ["region in claims.regions"], "fields": {"score": {"generalise": 5}, "email": "hide"}},
            "order": {"rows": ['status = "open"'], "fields": {"customer_id": "hash"}}}},
    ]
}  # fmt: skip

SCATTERED: Any = {
    "rules": [
        {"name": "a", "to": {"claims": {}}, "tools": ["*"], "entities": {
            "customer": {"rows": ["score in [1, 4, 7]"], "fields": {"email": "show"}},
            "order": {"rows": ['status in ["open", "paid"]']}}},
        {"name": "b", "to": {"claims": {"team": "red"}}, "tools": ["find"], "entities": {
            "customer": {"rows": ["id = claims.customer"]}}},
    ]
}  # fmt: skip
"""Boxes of one place each in the order that is asked for, and a row that only its key finds."""


# --- what is asked --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    file: Path = tmp_path_factory.mktemp("governed") / "store.db"
    with filled_reader(file) as reader:
        yield reader


@settings(
    max_examples=200,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make a policy smaller takes minutes, to read it none
    suppress_health_check=[HealthCheck.too_slow],
)
@given(policy=POLICIES, limit=st.integers(3, 9))
@example(policy=OVERLAP, limit=2)
@example(policy=SCATTERED, limit=2)
@example(policy=SCATTERED, limit=3)
def test_everything_agrees(reader: Reader, policy: dict[str, Any], limit: int) -> None:
    asyncio.run(everything_agrees(reader, policy, limit))


async def everything_agrees(reader: Reader, policy: Any, limit: int) -> None:
    house = Governed(reader, json.dumps(policy))
    for who in CALLERS:
        await the_tools_are_those_that_are_given(house, policy, who)
        for entity in ENTITIES:
            await finding_agrees(house, policy, who, entity, limit)
            await looking_up_agrees(house, policy, who, entity)
            await scanning_agrees(house, policy, who, entity)
            await describing_agrees(house, policy, who, entity)
        await completing_agrees(house, policy, who)
        await relations_agree(house, policy, who)


async def the_tools_are_those_that_are_given(house: Governed, policy: Any, who: Caller) -> None:
    names = {f"lookup_{name}": name for name in ENTITIES}
    wanted = {tool for tool in BUILT_IN if rules_for(policy, who, tool)}
    wanted |= {tool for tool, entity in names.items() if Expected(policy, who, tool, entity).exists}
    listed = {tool for tool in await house.toolbox.allowed(house.grant(who)) if tool in BUILT_IN or tool in names}
    assert listed == wanted


async def finding_agrees(house: Governed, policy: Any, who: Caller, entity: str, limit: int) -> None:
    if not rules_for(policy, who, "find"):
        return
    expected = Expected(policy, who, "find", entity)
    if not expected.exists:
        with pytest.raises(UnknownEntity) as unknown:
            await house.call(who, "find", entity=entity)
        assert entity not in unknown.value.details["known"]
        return
    assert await house.pages(who, limit, entity=entity) == sorted(expected.rows.items())
    definition = ENTITIES[entity]
    for field in {*definition.lookups, *definition.sorted}:
        await filtering_agrees(house, who, entity, field, expected, limit)
    for field in definition.sorted:
        await ordering_agrees(house, who, entity, field, expected, limit)


async def filtering_agrees(
    house: Governed, who: Caller, entity: str, field: str, expected: Expected, limit: int
) -> None:
    for value in sorted({row[field] for row in ROWS[entity] if row[field] is not None})[:2]:
        asked = house.pages(who, limit, entity=entity, where={field: value})
        if not expected.findable(field):
            with pytest.raises((NotIndexed, InvalidArguments)):
                await asked
            return
        keys = [key for key, _ in await asked]
        assert keys == sorted(expected.having(field, value))


async def ordering_agrees(
    house: Governed, who: Caller, entity: str, field: str, expected: Expected, limit: int
) -> None:
    asked = house.pages(who, limit, entity=entity, order_by=field, descending=limit % 2 == 0)
    try:
        found = await asked
    except (NotIndexed, InvalidArguments):
        assert not expected.shows_by_every_rule(field)
        return
    assert expected.shows_in_every_row(field), "an order tells of values that a row does not show"
    assert dict(found) == expected.rows and len(found) == len(expected.rows)
    given = [values[field] for _, values in found]
    ranks = [(value is not None, float(value) if field in ("total", "score") else value or "") for value in given]
    assert ranks == sorted(ranks, reverse=limit % 2 == 0)


async def looking_up_agrees(house: Governed, policy: Any, who: Caller, entity: str) -> None:
    """By key: the general tool, the entity's own, and the row as a resource."""
    tools = await house.toolbox.tools(house.grant(who))
    general, own = Expected(policy, who, "lookup", entity), Expected(policy, who, f"lookup_{entity}", entity)
    for row in ROWS[entity][::5]:
        key = key_of(entity, row)
        if "lookup" in tools and general.exists:
            parts = [row[name] for name in ENTITIES[entity].key]
            assert (await house.rows(who, "lookup", entity=entity, key=parts)).get(key) == general.rows.get(key)
        assert await house.read(who, entity, key) == general.rows.get(key)
        if own.exists:
            name = "customer_id" if entity == "customer" else "order_id"
            given = {"tenant": row["tenant"], "n": row["n"]} if entity == "note" else {name: row["id"]}
            assert (await house.rows(who, f"lookup_{entity}", **given)).get(key) == own.rows.get(key)
    assert (f"lookup_{entity}" in tools) == own.exists


async def scanning_agrees(house: Governed, policy: Any, who: Caller, entity: str) -> None:
    expected = Expected(policy, who, "scan", entity)
    if expected.exists:
        assert await house.rows(who, "scan", entity=entity) == expected.rows
    elif rules_for(policy, who, "scan"):
        with pytest.raises(UnknownEntity):
            await house.call(who, "scan", entity=entity)


async def completing_agrees(house: Governed, policy: Any, who: Caller) -> None:
    """Names of entities as they are looked up, keys as they are found."""
    names = [entity for entity in sorted(ENTITIES) if Expected(policy, who, "lookup", entity).exists]
    assert await house.completed(who, "entity") == names
    for entity in ENTITIES:
        assert await house.completed(who, "key", entity) == sorted(Expected(policy, who, "find", entity).rows)


async def describing_agrees(house: Governed, policy: Any, who: Caller, entity: str) -> None:
    if not rules_for(policy, who, "describe_data"):
        return
    expected = Expected(policy, who, "describe_data", entity)
    described = {each["name"]: each for each in (await house.call(who, "describe_data")).structured["entities"]}
    assert (entity in described) == expected.exists
    if expected.exists:
        assert described[entity]["rows"] == len(expected.rows)
        fields = {field["name"] for field in described[entity]["fields"]}
        assert {name for values in expected.rows.values() for name in values} <= fields
        for row in ROWS[entity]:
            for name in set(row) - fields:
                assert not expected.findable(name)


async def relations_agree(house: Governed, policy: Any, who: Caller) -> None:
    """A relation is followed only from values that are shown, to rows that are found by them."""
    tool = "lookup"
    seen = house.view(who, tool)
    for source in await seen.entities() if rules_for(policy, who, tool) else ():
        expected = Expected(policy, who, tool, source)
        keys = [key_of(source, row) for row in ROWS[source][::4]]
        for relation in (await seen.entity(source)).relations:
            target = Expected(policy, who, tool, relation.entity)
            joined = await seen.joined(source, JoinQuery(keys=keys, joins=[Join(relation=relation.name, limit=50)]))
            assert [row.key for row in joined.rows] == [key for key in keys if key in expected.rows]
            groups = {row.key: group for row, group in zip(joined.rows, joined.related[relation.name], strict=True)}
            for row in ROWS[source][::4]:
                if (group := groups.get(key_of(source, row))) is not None:
                    found = {each.key: json.loads(each.json) for each in group.rows}
                    assert found == {key: target.rows[key] for key in led_to(row, relation, expected, target)}


def led_to(row: Any, relation: Relation, expected: Expected, target: Expected) -> list[str]:
    """The keys of the rows that a relation of one row leads to."""
    if not expected.plain(relation.field, row):
        return []
    value = row[relation.field]
    if relation.target_field in ENTITIES[relation.entity].key:
        return [str(value)] if str(value) in target.rows else []
    return target.having(relation.target_field, value)
