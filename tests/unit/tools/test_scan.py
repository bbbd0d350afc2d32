"""Going through many rows: what the answer holds, what it says of the rest, and what a client hears meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headgate.errors import NotIndexed, UnknownEntity
from headgate.stores.base import Query, Rows
from headgate.testing import NOW_MS, MemoryReader
from headgate.tools.base import Result, Talking, task_use
from headgate.tools.scan import MAX_ANSWER_BYTES
from tests.unit.access.slowly import Slowly
from tests.unit.tools.shop import ENTITIES, Draft202012Validator, call, shop_view, tool
from tests.unit.tools.test_stream import Hearing

MANY = 3_000


def many(size: int = 0) -> MemoryReader:
    """A store of many orders; `size` makes each of them larger."""
    rows = [{"id": number, "status": f"{'x' * size}", "total": str(number)} for number in range(MANY)]
    return MemoryReader(ENTITIES, {"order": rows}, as_of_ms=NOW_MS - 500)


async def scan(store: MemoryReader, client: Hearing, **more: Any) -> Result:
    found = tool("scan")
    assert isinstance(found, Talking)
    return await found.talk(shop_view(store), {"entity": "order", "order_by": "total", **more}, client)


def ids(rows: Any) -> list[int]:
    return [row["values"]["id"] for row in rows]


def test_it_may_become_a_task_and_talks() -> None:
    assert task_use(tool("scan")) == "optional"


async def test_all_rows_of_a_small_entity_are_in_the_answer() -> None:
    result = await call("scan", {"entity": "order"})
    assert ids(result.structured["rows"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result.structured["scanned"] == 8
    assert result.structured.keys() == {"entity", "rows", "scanned"}
    assert "8 rows of 'order' were read; all of them are" in result.text
    Draft202012Validator(tool("scan").output_schema).validate(result.structured)
    assert result.freshness is not None and result.freshness.state == "fresh"
    assert [mark.entity for mark in result.watermarks] == ["order"]


async def test_an_answer_that_is_full_says_so_and_how_to_go_on() -> None:
    store, client = many(size=1_000), Hearing()
    seen: list[int] = []
    cursor: str | None = None
    while True:
        result = await scan(store, client, **({"cursor": cursor} if cursor else {}))
        held = result.structured["rows"]
        assert sum(len(str(row["values"])) for row in held) < 1.2 * MAX_ANSWER_BYTES
        assert len(result.text) < 64 * 1024, "the text does not say it all again"
        assert "told" not in result.structured
        seen += ids(held)
        if "truncated" not in result.structured:
            break
        cut = result.structured["truncated"]
        assert (cut["reason"], cut["returned"]) == ("bytes", len(held))
        assert cut["cursor"] in result.text
        cursor = cut["cursor"]
    assert seen == list(range(MANY))
    assert client.told == [], "nothing was to be told"


async def test_a_limit_bounds_what_is_read() -> None:
    result = await scan(many(), Hearing(), limit=2_500)
    cut = result.structured["truncated"]
    assert (result.structured["scanned"], cut["reason"], cut["returned"]) == (2_500, "rows", 2_500)
    rest = await scan(many(), Hearing(), limit=1, cursor=cut["cursor"])
    assert ids(rest.structured["rows"]) == [2_500]


async def test_who_listens_hears_every_row_whatever_the_answer_holds() -> None:
    client = Hearing()
    result = await scan(many(size=1_000), client, tell=True, batch_size=700)
    told = [row for notice in client.told for row in notice["items"]]
    assert ids(told) == list(range(MANY))
    assert {len(notice["items"]) for notice in client.told[:-1]} == {700}
    assert [notice["first"] for notice in client.told] == list(range(0, MANY, 700))
    assert result.structured["scanned"] == MANY
    assert result.structured["told"] | {"sha256": ""} == {"rows": MANY, "cursor": None, "sha256": ""}
    held = result.structured["truncated"]
    assert 0 < held["returned"] == len(result.structured["rows"]) < MANY
    assert client.done[-1] == MANY
    Draft202012Validator(tool("scan").output_schema).validate(result.structured)


async def test_what_was_told_up_to_a_limit_goes_on_behind_it() -> None:
    client = Hearing()
    result = await scan(many(size=1_000), client, tell=True, limit=2_000)
    told = result.structured["told"]
    assert told["rows"] == 2_000
    again = await scan(many(size=1_000), client, tell=True, cursor=told["cursor"])
    assert (again.structured["told"]["rows"], again.structured["told"]["cursor"]) == (MANY - 2_000, None)
    assert again.structured["told"]["sha256"] != told["sha256"]
    assert ids(row for notice in client.told for row in notice["items"]) == list(range(MANY))


async def test_nothing_found_is_said() -> None:
    result = await call("scan", {"entity": "order", "where": {"status": "none"}})
    assert (result.structured["rows"], result.structured["scanned"]) == ([], 0)
    assert result.text == "No 'order' row matches."


async def test_it_takes_what_find_takes() -> None:
    with pytest.raises(UnknownEntity):
        await call("scan", {"entity": "hidden"})
    with pytest.raises(NotIndexed):
        await call("scan", {"entity": "order", "where": {"id": 1, "nothing": 2}})


# --- time -----------------------------------------------------------------------------------------


async def late(size: int, client: Hearing, scan_s: float, **more: Any) -> Result:
    """A scan of a store each look of which takes a second."""
    store: Any = Slowly(many(size))
    found = tool("scan")
    assert isinstance(found, Talking)
    view = shop_view(store, reading=store.reading(answer_s=0.1, scan_s=scan_s))
    result = await found.talk(view, {"entity": "order", "order_by": "total", **more}, client)
    Draft202012Validator(found.output_schema).validate(result.structured)
    return result


async def test_a_scan_whose_time_is_over_answers_what_it_has_read_and_where_to_go_on() -> None:
    first = await late(0, Hearing(), 0.5)
    cut = first.structured["truncated"]
    assert (first.structured["scanned"], cut["reason"], cut["returned"]) == (1_000, "time", 1_000)
    assert "The time of a scan is over. More rows may match: call scan" in first.text and cut["cursor"] in first.text
    rest = await late(0, Hearing(), 10, cursor=cut["cursor"])
    assert "truncated" not in rest.structured
    assert ids(first.structured["rows"]) + ids(rest.structured["rows"]) == list(range(MANY))


async def test_what_was_told_until_the_time_was_over_goes_on_behind_it() -> None:
    client = Hearing()
    first = await late(1_000, client, 7, tell=True)
    told, held = first.structured["told"], first.structured["truncated"]
    assert (told["reason"], told["rows"]) == ("time", first.structured["scanned"])
    assert held["reason"] == "bytes", "the answer was full before"
    assert f'call scan or find again with the same conditions and cursor "{held["cursor"]}"' in first.text
    assert f'Behind the last row that was told, cursor "{told["cursor"]}" leads on.' in first.text
    rest = await late(1_000, client, 1_000, tell=True, cursor=told["cursor"])
    assert rest.structured["told"].keys() == {"rows", "cursor", "sha256"}
    assert ids(row for notice in client.told for row in notice["items"]) == list(range(MANY))


async def test_a_scan_that_ends_with_its_time_is_whole() -> None:
    result = await late(0, Hearing(), 3)
    assert (result.structured["scanned"], "truncated" in result.structured) == (MANY, False)


async def test_nothing_found_in_time_is_not_nothing() -> None:
    class Sparse(MemoryReader):
        async def find(self, entity: str, query: Query) -> Rows:
            found = await super().find(entity, query)
            return msgspec.structs.replace(found, rows=[], cut="time")

    rows = [{"id": number, "status": "", "total": str(number)} for number in range(MANY)]
    store: Any = Slowly(Sparse(ENTITIES, {"order": rows}, as_of_ms=NOW_MS - 500))
    view = shop_view(store, reading=store.reading(answer_s=1, scan_s=2))
    result = await call("scan", {"entity": "order", "order_by": "total"}, view)
    assert (result.structured["rows"], result.structured["truncated"]["reason"]) == ([], "time")
    assert result.text.startswith("No 'order' row matches so far.")
    assert result.structured["truncated"]["cursor"] in result.text


async def test_nothing_is_read_that_nobody_gets() -> None:
    """The second row does not fit beside the first: what follows it is not read for an answer that can't hold it."""
    rows = [{"id": number, "status": "x" * 700_000, "total": str(number)} for number in range(5)]
    result = await scan(MemoryReader(ENTITIES, {"order": rows}, as_of_ms=NOW_MS - 500), Hearing())
    assert (result.structured["scanned"], ids(result.structured["rows"])) == (2, [0])
    assert result.structured["truncated"]["reason"] == "bytes"
