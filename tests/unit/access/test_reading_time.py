"""What a caller under a policy's document gets when the time of its call is over: what was found, and how to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.stores.base import Count, Query, Reader, Rows
from headgate.tools.base import Result
from tests.unit.access.governed import ROWS, Governed, caller, filled_reader
from tests.unit.access.slowly import Slowly
from tests.unit.tools.shop import Draft202012Validator

ACME = caller("ann", claims={"tenant": "acme"})
TENANT = {"customer": {"rows": "tenant = claims.tenant"}}
OVERLAPPING = {"customer": {"rows": 'plan = "vip"'}}
KEYED = {"customer": {"rows": "id in [4, 6, 99]"}}
APART = {"customer": {"rows": 'tenant in ["acme", "birch"]'}}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    file: Path = tmp_path_factory.mktemp("slowly") / "store.db"
    with filled_reader(file) as reader:
        yield reader


def house(store: Any, answer_s: float, *entities: Any, scan_s: float = 1_000) -> Governed:
    rules = [
        {"name": f"r{number}", "to": "everyone", "tools": "*", "entities": said} for number, said in enumerate(entities)
    ]
    return Governed(store, json.dumps({"rules": rules}), store.reading(answer_s, scan_s))


async def ask(governed: Governed, tool: str, **arguments: Any) -> Result:
    """A tool's answer, which fits its schema."""
    result = await governed.call(ACME, tool, **arguments)
    called = (await governed.toolbox.tools(governed.grant(ACME)))[tool]
    Draft202012Validator(called.output_schema).validate(result.structured)
    return result


async def pages(governed: Governed, **arguments: Any) -> list[dict[str, Any]]:
    """All pages of a find, each by the cursor of the one before."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        result = await ask(governed, "find", entity="customer", cursor=cursor, **arguments)
        found.append(dict(result.structured))
        cut = result.structured.get("truncated")
        if cut is None:
            return found
        assert cut["returned"] == len(result.structured["rows"])
        assert f'cursor "{cut["cursor"]}"' in result.text
        assert ("looking further would take too long" in result.text) == (cut["reason"] == "time")
        cursor = cut["cursor"]


def ids(pages: list[dict[str, Any]]) -> list[int]:
    return [row["values"]["id"] for page in pages for row in page["rows"]]


@pytest.mark.parametrize("entities", [(TENANT,), (TENANT, OVERLAPPING), (TENANT, OVERLAPPING, KEYED)])
@pytest.mark.parametrize("arguments", [{}, {"order_by": "score"}, {"order_by": "born", "descending": True}])
@pytest.mark.parametrize("answer_s", [0.5, 2.5, 3.5])
async def test_pages_that_end_by_time_join_without_gap_or_overlap(
    reader: Reader, entities: Any, arguments: dict[str, Any], answer_s: float
) -> None:
    whole = await pages(house(Slowly(reader), 1_000, *entities), limit=100, **arguments)
    assert len(whole) == 1
    short = await pages(house(Slowly(reader, most=1), answer_s, *entities), limit=100, **arguments)
    assert ids(short) == ids(whole)
    assert len(short) > 1
    assert {page["truncated"]["reason"] for page in short[:-1]} == {"time"}


async def test_a_page_in_time_is_as_full_as_ever(reader: Reader) -> None:
    store = Slowly(reader, most=1)
    found = await pages(house(store, 1_000, TENANT), limit=3)
    mine = [row["id"] for row in ROWS["customer"] if row["tenant"] == "acme"]
    assert sorted(ids(found)) == mine
    assert [(len(page["rows"]), page["truncated"]["reason"]) for page in found[:-1]] == [(3, "rows")] * (len(found) - 1)


async def test_a_look_up_says_that_more_may_match(reader: Reader) -> None:
    late = await ask(house(Slowly(reader, most=1), 0.5, TENANT), "lookup", entity="customer", by={"plan": "vip"})
    assert late.structured["truncated"] == {"reason": "time", "returned": 1, "cursor": None}
    assert "More rows may match" in late.text and "find(entity" in late.text
    in_time = await ask(house(Slowly(reader, most=1), 1_000, TENANT), "lookup", entity="customer", by={"plan": "vip"})
    assert "truncated" not in in_time.structured
    assert len(in_time.structured["rows"]) == len(
        [row for row in ROWS["customer"] if (row["tenant"], row["plan"]) == ("acme", "vip")]
    )


async def test_a_look_up_is_as_old_as_its_first_look(reader: Reader) -> None:
    class Moving(Slowly):
        """The store moves on with each look."""

        async def find(self, entity: str, query: Query) -> Rows:
            found = await super().find(entity, query)
            moved = {
                number: msgspec.structs.replace(progress, offset=100 + self.seconds)
                for number, progress in found.watermark.partitions.items()
            }
            mark = msgspec.structs.replace(found.watermark, partitions=moved)
            return msgspec.structs.replace(found, watermark=mark)

    store = Moving(reader, most=1)
    result = await ask(house(store, 1_000, TENANT), "lookup", entity="customer", by={"plan": "vip"})
    assert store.seconds > 1
    assert [progress.offset for mark in result.watermarks for progress in mark.partitions.values()] == [101]


async def test_relations_of_what_was_found_in_time_come_along(reader: Reader) -> None:
    entities = {**TENANT, "order": {"rows": "tenant = claims.tenant"}}
    overlapping = (entities, {"customer": {"rows": 'region = "south"'}})
    governed = house(Slowly(reader, most=1), 0.5, *overlapping)
    late = await ask(governed, "lookup", entity="customer", by={"plan": "vip"}, include=["orders"])
    assert late.structured["truncated"]["reason"] == "time"
    assert late.structured["rows"] and all("orders" in row["related"] for row in late.structured["rows"])


@pytest.mark.parametrize("entities", [(TENANT, OVERLAPPING), (APART,)])
async def test_a_count_ends_with_what_it_has_counted(reader: Reader, entities: Any) -> None:
    async def counted(answer_s: float) -> Count:
        return await house(Slowly(reader, most=1), answer_s, *entities).view(ACME, "describe_data").count("customer")

    exact = await counted(1_000)
    assert not exact.more
    early = await counted(0.5)
    assert 0 < early.rows < exact.rows and early.more
    described = await ask(house(Slowly(reader, most=1), 0.5, *entities), "describe_data", entity="customer")
    (entity,) = described.structured["entities"]
    assert (entity["rows"], entity["more_rows"]) == (early.rows, True)
    assert f"customer ({early.rows} or more rows" in described.text


async def test_a_count_that_ends_with_its_time_is_exact(reader: Reader) -> None:
    """Two boxes, a second each: the time is over when nothing is left to count."""
    found = await house(Slowly(reader), 2, APART).view(ACME, "describe_data").count("customer")
    assert found == Count(rows=len([row for row in ROWS["customer"] if row["tenant"] in ("acme", "birch")]))


async def test_keys_that_were_not_counted_in_time_are_not_completed(reader: Reader) -> None:
    overlapping = (TENANT, OVERLAPPING)
    assert await house(Slowly(reader, most=1), 1_000, *overlapping).completed(ACME, "key", "customer")
    assert await house(Slowly(reader, most=1), 0.5, *overlapping).completed(ACME, "key", "customer") == []


async def test_a_scan_of_what_is_mostly_hidden_goes_on_where_its_time_was_over(reader: Reader) -> None:
    """Its pages are many looks each, which end with the scan's time and not with an answer's."""
    governed = house(Slowly(reader, most=1), 0.5, TENANT, OVERLAPPING, scan_s=3)
    seen: list[int] = []
    cursor = None
    calls = 0
    while calls == 0 or cursor:
        result = await ask(governed, "scan", entity="customer", order_by="score", cursor=cursor)
        calls += 1
        seen += [row["values"]["id"] for row in result.structured["rows"]]
        cursor = result.structured.get("truncated", {}).get("cursor")
        assert not cursor or result.structured["truncated"]["reason"] == "time"
    assert seen == ids(await pages(house(Slowly(reader), 1_000, TENANT, OVERLAPPING), limit=100, order_by="score"))
    assert calls > 2


# --- by the store's own bound on a look -------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Birch's 25,000 customers of a plan, with two of Acme's far behind."""
    file: Path = tmp_path_factory.mktemp("crowd") / "store.db"
    common = {
        "region": "south",
        "email": "x@y.example",
        "plan": "free",
        "score": 1,
        "born": None,
        "pin": "",
        "fresh": "",
    }
    theirs = [{**common, "id": number, "tenant": "birch"} for number in range(10_000, 35_000)]
    mine = [{**common, "id": number, "tenant": "acme"} for number in (20_000, 90_000)]
    house = {"customer": [*theirs[:10_000], *theirs[10_001:], *mine], "order": [], "note": []}
    with filled_reader(file, house) as reader:
        yield reader


@pytest.mark.parametrize(
    ("answer_s", "found"), [(0.5, [[], [20_000], [90_000]]), (2, [[20_000], [90_000]]), (9, [[20_000, 90_000]])]
)
async def test_a_page_of_several_looks_ends_by_time_and_goes_on(
    crowd: Reader, answer_s: float, found: list[list[int]]
) -> None:
    governed = house(Slowly(crowd), answer_s, TENANT)
    assert [ids([page]) for page in await pages(governed, where={"plan": "free"})] == found


async def test_nothing_found_in_time_is_not_nothing(crowd: Reader) -> None:
    governed = house(Slowly(crowd), 0.5, TENANT)
    result = await ask(governed, "find", entity="customer", where={"plan": "free"})
    assert result.structured["truncated"]["returned"] == 0
    assert result.text.startswith("No 'customer' row matches so far.")
    looked = await ask(governed, "lookup", entity="customer", by={"plan": "free"})
    assert (looked.structured["rows"], looked.structured["truncated"]["reason"]) == ([], "time")
    assert "was found so far" in looked.text
