"""What there is to ask for."""

from __future__ import annotations

import msgspec
import pytest

from headgate.errors import UnknownEntity
from headgate.model.derive import DOUBTS
from headgate.model.entity import Entity, Field
from headgate.testing import MemoryReader, grant_of, view_of
from tests.unit.tools.shop import call, reader, shop_view


async def test_all_entities_in_the_order_of_their_names() -> None:
    result = await call("describe_data", {})
    assert [entity["name"] for entity in result.structured["entities"]] == ["customer", "order", "order_line"]
    assert [mark.entity for mark in result.watermarks] == ["customer", "order", "order_line"]


async def test_one_entity_whole() -> None:
    result = await call("describe_data", {"entity": "customer"})
    [customer] = result.structured["entities"]
    assert customer["key"] == ["id"] and customer["lookups"] == ["email", "plan"] and customer["sorted"] == []
    assert customer["fields"][1] == {
        "name": "email",
        "type": "string",
        "nullable": True,
        "classification": "personal.email",
        "description": "Where to write to.",
    }
    assert customer["rows"] == 3
    assert customer["freshness"]["state"] == "fresh" and customer["freshness"]["staleness_ms"] == 500
    assert "email string [personal.email]" in result.text


async def test_what_nobody_can_tell_of_a_field_is_said_in_the_text_too_and_of_no_other_entity() -> None:
    fields = [
        Field(name=name, type="string", description=f"What it costs. {DOUBTS['decimal']}") for name in ("net", "gross")
    ]
    price = Entity(name="price", pipeline="shop", table="main.prices", key=("net",), fields=tuple(fields))
    order = Entity(
        name="order", pipeline="shop", table="main.orders", key=("id",), fields=(Field(name="id", type="integer"),)
    )
    result = await call("describe_data", {}, view_of(MemoryReader([order, price])))
    assert result.text.count("\n  net, gross: Perhaps a decimal's digits") == 1
    assert result.text.count("Perhaps") == 1
    keys = [{key for field in entity["fields"] for key in field} for entity in result.structured["entities"]]
    assert keys == [{"name", "type", "nullable", "classification", "description"}] * 2


async def test_relations_to_what_the_caller_can_not_see_are_left_out() -> None:
    result = await call("describe_data", {"entity": "customer"})
    assert [relation["name"] for relation in result.structured["entities"][0]["relations"]] == ["orders"]
    assert "hidden" not in result.text


async def test_an_entity_without_a_snapshot_has_no_count() -> None:
    store = reader()
    store.mark_pending("order")
    result = await call("describe_data", {}, shop_view(store))
    order = result.structured["entities"][1]
    assert order["rows"] is None and order["freshness"]["state"] == "snapshotting"
    assert "order (no whole snapshot yet, snapshotting)" in result.text
    assert result.freshness is not None and result.freshness.state == "snapshotting"


async def test_without_entities_it_says_so() -> None:
    result = await call("describe_data", {}, view_of(MemoryReader([])))
    assert result.structured == {"entities": []} and result.freshness is None
    assert result.text == "There is no entity that you can read yet."


async def test_an_unknown_entity_names_the_known_ones() -> None:
    with pytest.raises(UnknownEntity, match="customer, order, order_line"):
        await call("describe_data", {"entity": "custmer"})


async def test_a_grant_without_the_scope_sees_nothing() -> None:
    result = await call("describe_data", {}, shop_view(grant=grant_of("pipelines:read")))
    assert result.structured == {"entities": []}


async def test_what_does_not_fit_into_an_answer_is_named() -> None:
    wide = Entity(
        name="wide_0", pipeline="shop", table="main.wide", key=("id",),
        fields=tuple(Field(name=f"column_{number}", type="string", description="x" * 200) for number in range(400)),
    )  # fmt: skip
    entities = [msgspec.structs.replace(wide, name=f"wide_{number}") for number in range(5)]
    result = await call("describe_data", {}, view_of(MemoryReader(entities)))
    assert result.structured["truncated"] == {"reason": "bytes", "returned": 2, "cursor": None}
    assert result.structured["not_shown"] == ["wide_2", "wide_3", "wide_4"]
    assert "wide_2, wide_3, wide_4" in result.text
    assert (await call("describe_data", {"entity": "wide_4"}, view_of(MemoryReader(entities)))).structured["entities"]
