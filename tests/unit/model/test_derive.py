"""Entities from a schema and a config: relations and the indexes that they need on the other side."""

from __future__ import annotations

import msgspec
import pytest

from headgate.errors import ConfigError
from headgate.model.derive import derive
from headgate.model.entity import Declared, DeclaredField, DeclaredRelation, Entity, Group, Lead
from headgate.model.table import Column, ForeignKey, Table

CUSTOMERS = Table(
    name="public.customers",
    key=("id",),
    columns=(Column(name="id", type="integer"), Column(name="code", type="string")),
)
ORDERS = Table(
    name="public.orders",
    key=("id",),
    columns=(
        Column(name="id", type="integer"),
        Column(name="customer_id", type="integer"),
        Column(name="code", type="string"),
        Column(name="placed_at", type="timestamp"),
    ),
    foreign_keys=(ForeignKey(columns=("customer_id",), table="public.customers", refers_to=("id",)),),
)
TABLES = {table.name: table for table in (CUSTOMERS, ORDERS)}
LATEST = DeclaredRelation(
    entity="order", field="id", target_field="customer_id", many=True, order_by="placed_at", limit=5
)


def derived(relations: dict[str, DeclaredRelation] | None = None, **order: object) -> tuple[Entity, Entity]:
    customer = Declared(name="customer", pipeline="shop", table="public.customers", relations=relations)
    orders = msgspec.structs.replace(Declared(name="order", pipeline="shop", table="public.orders"), **order)
    one, other = derive([customer, orders], TABLES, {})
    return one, other


def test_foreign_keys_lead_both_ways_in_the_order_of_keys() -> None:
    customer, order = derived()
    (orders,) = customer.relations
    (back,) = order.relations
    assert (orders.name, orders.many, orders.order_by, orders.limit) == ("orders", True, None, 20)
    assert (orders.target_is_key, orders.target_type) == (False, "integer")
    assert (back.name, back.target_is_key) == ("customer", True)
    assert (order.lookups, order.groups, customer.groups) == (("customer_id",), (), ())
    assert order.leads == (Lead(field="customer_id", form="key"),)


def test_an_order_is_an_index_of_the_other_entity() -> None:
    customer, order = derived({"latest": LATEST})
    assert (customer.relations[0].order_by, customer.relations[0].limit) == ("placed_at", 5)
    assert order.groups == (Group(field="customer_id", order_by="placed_at"),)
    assert order.build != derived()[1].build


def test_a_sorted_field_has_its_rows_by_key_in_a_group() -> None:
    plain = msgspec.structs.replace(LATEST, order_by=None)
    _, order = derived({"orders": plain}, sorted=("customer_id",))
    assert order.groups == (Group(field="customer_id"),)


def test_what_a_relation_leads_to_is_of_the_other_sides_type() -> None:
    coded = DeclaredRelation(entity="order", field="code", target_field="code", many=True)
    customer, _ = derived({"coded": coded}, fields={"code": DeclaredField(type="uuid")})
    assert customer.leads == (Lead(field="code", form="uuid"),)
    assert customer.build != derived({"coded": coded})[0].build


def test_only_what_is_kept_makes_another_build() -> None:
    by_place = derived({"latest": LATEST})
    fewer = derived({"last": msgspec.structs.replace(LATEST, limit=1)})
    assert [entity.build for entity in by_place] == [entity.build for entity in fewer]


@pytest.mark.parametrize(
    "wrong",
    [
        msgspec.structs.replace(LATEST, order_by="nothing"),
        msgspec.structs.replace(LATEST, target_field="nothing"),
        msgspec.structs.replace(LATEST, field="nothing"),
    ],
)
def test_a_relation_that_names_what_is_not_there_is_a_mistake(wrong: DeclaredRelation) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        derived({"latest": wrong})
