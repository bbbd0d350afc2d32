"""A store as if it held only what a config names."""

from __future__ import annotations

from pathlib import Path

import msgspec

from headgate.config import parse
from headgate.model.entity import Relation
from headgate.serving.pipelines import naming
from headgate.stores._named import NamedReader
from headgate.testing import MemoryReader
from tests.unit.server.house import CUSTOMER, NOW_MS

ORDERS = Relation(name="orders", entity="order", field="id", target_field="customer_id", many=True)
WITH_ORDERS = msgspec.structs.replace(CUSTOMER, relations=(ORDERS,))
ORDER = msgspec.structs.replace(CUSTOMER, name="order", table="main.orders")
OTHERS = msgspec.structs.replace(CUSTOMER, name="thing", pipeline="gone")
PIPELINE = f"pipelines: {{{CUSTOMER.pipeline}: {{source: {{kind: sqlite, path: shop.db}}}}}}\n"


def reader(config: str) -> NamedReader:
    stored = MemoryReader([WITH_ORDERS, ORDER, OTHERS], {}, as_of_ms=NOW_MS)
    return NamedReader(stored, naming(parse(config, Path("/x/headgate.yaml"), {}).pipelines))


async def test_a_pipeline_that_declares_nothing_shows_all_of_its_own() -> None:
    assert await reader(PIPELINE).entities() == {"customer": WITH_ORDERS, "order": ORDER}


async def test_an_entity_that_is_not_named_is_gone_and_so_are_relations_to_it() -> None:
    named = f"entities: {{customer: {{from: {CUSTOMER.pipeline}.{CUSTOMER.table}}}}}\n"
    one = reader(PIPELINE + named)
    assert await one.entities() == {"customer": msgspec.structs.replace(CUSTOMER, relations=())}
    assert await one.entities() is await one.entities()


async def test_where_all_is_named_nothing_is_made_anew() -> None:
    stored = MemoryReader([WITH_ORDERS, ORDER], {}, as_of_ms=NOW_MS)
    one = NamedReader(stored, lambda _: True)
    assert await one.entities() == await stored.entities()
    assert await one.entities() is await one.entities()
