"""Buyers and what they bought: two entities whose rows lead to each other by values of many types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headgate.model.derive import derive
from headgate.model.entity import Declared, DeclaredRelation
from headgate.model.table import Column, Table
from tests.contracts.stores.cases import Feed, Store

BUYERS = Table(
    name="public.buyers",
    key=("id",),
    columns=(
        Column(name="id", type="integer"),
        Column(name="code", type="string"),
        Column(name="mark", type="uuid"),
        Column(name="amount", type="decimal"),
        Column(name="favourite", type="string"),
        Column(name="boss", type="integer"),
        Column(name="plan", type="string"),
    ),
)
BUYS = Table(
    name="public.buys",
    key=("id",),
    columns=(
        Column(name="id", type="string"),
        Column(name="buyer", type="integer"),
        Column(name="code", type="string"),
        Column(name="mark", type="uuid"),
        Column(name="amount", type="decimal"),
        Column(name="placed", type="timestamp"),
        Column(name="state", type="string"),
    ),
)
_RELATIONS = {
    "latest": DeclaredRelation(entity="buy", field="id", target_field="buyer", many=True, order_by="placed"),
    "buys": DeclaredRelation(entity="buy", field="id", target_field="buyer", many=True),
    "dearest": DeclaredRelation(entity="buy", field="code", target_field="code", many=True, order_by="amount"),
    "coded": DeclaredRelation(entity="buy", field="code", target_field="code", many=True),
    "marked": DeclaredRelation(entity="buy", field="mark", target_field="mark", many=True),
    "priced": DeclaredRelation(entity="buy", field="amount", target_field="amount", many=True),
    "favourite": DeclaredRelation(entity="buy", field="favourite", target_field="id"),
    "boss": DeclaredRelation(entity="buyer", field="boss", target_field="id"),
    "team": DeclaredRelation(entity="buyer", field="id", target_field="boss", many=True),
}
ENTITIES = derive(
    [
        Declared(
            name="buyer", pipeline="shop", table="public.buyers", relations=_RELATIONS, lookups=("plan",), sorted=()
        ),
        Declared(
            name="buy",
            pipeline="shop",
            table="public.buys",
            relations={"buyer": DeclaredRelation(entity="buyer", field="buyer", target_field="id")},
            lookups=("state",),
            sorted=("amount",),
        ),
    ],
    {"public.buyers": BUYERS, "public.buys": BUYS},
    {"public.buyers": 2, "public.buys": 3},
)
BUYER, BUY = ENTITIES
RELATIONS = {relation.name: relation for entity in ENTITIES for relation in entity.relations}


class Till(Feed):
    """A feed of either entity: partitions by the sum of the key's letters."""

    def partition(self, key: Any) -> int:
        return sum(str(key).encode()) % self.entity.partitions


def open_till(store: Store) -> Mapping[str, Till]:
    """A feed of each entity, both whole and empty, by one writer."""
    writer = store.writer(*ENTITIES)
    tills = {entity.name: Till(writer, entity) for entity in ENTITIES}
    for till in tills.values():
        till.show()
    return tills


def buyer(id_: int, **fields: Any) -> dict[str, Any]:
    """A buyer's row."""
    return {"id": id_, "plan": "free", **fields}


def buy(id_: str, by: Any, **fields: Any) -> dict[str, Any]:
    """The row of something that was bought."""
    return {"id": id_, "buyer": by, **fields}
