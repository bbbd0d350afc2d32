"""Keys are completed of enumerations alone, and names of what the grant lets see."""

from __future__ import annotations

from headgate.access.view import View
from headgate.testing import MemoryReader, view_of
from headgate.tools._completions import ENUMERATION, MOST_VALUES, Begun, complete
from headgate.tools._prompts import PROMPTS
from headgate.tools._resources import SHELVES
from tests.unit.tools.shop import CUSTOMER, shop_view

ROWS = SHELVES[1].templates[0].uri_template


def reader_of(rows: int) -> MemoryReader:
    return MemoryReader([CUSTOMER], {"customer": [{"id": number, "email": "", "plan": ""} for number in range(rows)]})


async def keys(view: View, value: str = "", entity: str = "customer") -> tuple[list[str], int]:
    begun = Begun(template=ROWS, argument="key", value=value, given={"entity": entity})
    found = await complete(lambda _: view, begun, PROMPTS, SHELVES)
    return list(found.values), found.total


async def test_keys_of_an_enumeration_are_completed() -> None:
    view = view_of(reader_of(ENUMERATION))
    values, total = await keys(view, "99")
    assert (values[:3], total) == (["99", "990", "991"], 11)
    values, total = await keys(view)
    assert (len(values), total) == (MOST_VALUES, ENUMERATION)


async def test_keys_of_a_large_or_unknown_entity_are_not() -> None:
    assert await keys(view_of(reader_of(ENUMERATION + 1))) == ([], 0)
    assert await keys(shop_view(), entity="nothing") == ([], 0)


async def test_an_entity_whose_snapshot_is_under_way_has_no_keys_yet() -> None:
    reader = reader_of(3)
    reader.mark_pending("customer")
    assert await keys(view_of(reader)) == ([], 0)
