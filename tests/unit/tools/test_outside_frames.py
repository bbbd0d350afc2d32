"""Values of a source that stand in no frame: what nothing in them can do nonetheless, and what is as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.model.row import key_text
from headgate.testing import NOW_MS, MemoryReader
from headgate.tools._completions import Begun, complete
from headgate.tools._prompts import PROMPTS
from headgate.tools._resources import SHELVES, read_resource
from headgate.tools.base import Talking
from tests.unit.tools.shop import ENTITIES, shop_view, tool
from tests.unit.tools.test_frames import HOSTILE, is_unseen
from tests.unit.tools.test_stream import Hearing


def holding(entity: str, *rows: dict[str, Any]) -> MemoryReader:
    return MemoryReader(ENTITIES, {entity: list(rows)}, as_of_ms=NOW_MS - 500)


def check_inert(text: str) -> None:
    assert not {"<", ">"} & set(text)
    assert not any(is_unseen(character) for character in text)


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_row_as_a_resource_is_one_inert_line_of_json(value: str) -> None:
    store = holding("order", {"id": 1, "status": value})
    text = (await read_resource(shop_view(store), "headgate://entity/order/1")).text
    check_inert(text)
    assert json.loads(text)["values"]["status"] == value


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_key_that_is_completed_or_named_is_percent_encoded(value: str) -> None:
    store = holding("order_line", {"order_id": 1, "sku": value, "amount": 1})
    begun = Begun(template=SHELVES[1].templates[0].uri_template, argument="key", given={"entity": "order_line"})
    [key] = (await complete(lambda _: shop_view(store), begun, PROMPTS, SHELVES)).values
    check_inert(key)
    assert key.isascii() and " " not in key
    assert key == key_text([1, value])


@pytest.mark.parametrize("value", HOSTILE)
async def test_what_is_structured_has_values_as_they_are(value: str) -> None:
    """`structuredContent`, and the batches that `scan` tells: a client that shows them frames them itself."""
    scan, client = tool("scan"), Hearing()
    assert isinstance(scan, Talking)
    view = shop_view(holding("order", {"id": 1, "status": value}))
    result = await scan.talk(view, {"entity": "order", "tell": True}, client)
    [told] = [row for notice in client.told for row in notice["items"]]
    assert told["values"]["status"] == result.structured["rows"][0]["values"]["status"] == value
    assert value not in result.text or (value.isascii() and value.isprintable() and not {"<", ">"} & set(value))
