"""The doubles keep the contracts: the reader answers as the embedded store does, the state as a map with versions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.errors import HeadgateError, InvalidArguments, NotIndexed, SnapshotPending, StateConflict, UnknownEntity
from headgate.model.position import Progress
from headgate.model.row import key_text
from headgate.stores.base import Query, Range, Reader, Rows, Write
from headgate.stores.sqlite import open_reader, open_writer
from headgate.testing import NOW_MS, MemoryReader, MemoryState
from tests.unit.tools.shop import ENTITIES, ORDER, ROWS, letter

ORDERS = [*ROWS["order"], {"id": 20, "customer_id": None, "total": None, "placed_at": None, "status": "paid"}]


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Reader]:
    """The same orders in the embedded store."""
    writer = open_writer(tmp_path / "store.db", [ORDER])
    writer.define([ORDER])
    [claimed] = writer.claim("order", [0]).values()
    progress = msgspec.structs.replace(claimed, offset=1, generation=1, ended=True, complete=True, as_of_ms=NOW_MS)
    rows = {key_text([row["id"]]): msgspec.json.encode(row) for row in ORDERS}
    letters = [letter(number) for number in range(3)]
    writer.apply(
        [Write(entity="order", partition=0, expected=claimed, progress=progress, puts=rows, dead_letters=letters)]
    )
    assert writer.switch("order", 1)
    reader = open_reader(tmp_path / "store.db")
    yield reader
    await reader.close()
    writer.close()


@pytest.fixture
def memory() -> MemoryReader:
    """The orders in memory."""
    reader = MemoryReader([ORDER], {"order": ORDERS})
    for number in range(3):
        reader.add_dead_letter(letter(number))
    return reader


def seen(rows: Rows) -> Any:
    """What two stores must agree on. A cursor is each store's own."""
    return [(row.key, row.json, row.flaw) for row in rows.rows], rows.cut, rows.cursor is None


@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(limit=3),
        Query(max_bytes=250),
        Query(max_bytes=1),
        Query(direction="desc", limit=4),
        Query(equals={"status": "paid"}),
        Query(equals={"customer_id": None}),
        Query(equals={"total": 20.5}, order="placed_at"),
        Query(equals={"status": "open", "customer_id": 7}, limit=1),
        Query(ranges={"total": Range(gt="10.5", le=50.5)}, order="total", direction="desc"),
        Query(ranges={"placed_at": Range(ge="2026-11-03")}, order="total", limit=2),
        Query(order="total"),
        Query(order="placed_at", direction="desc", limit=2),
    ],
)
async def test_pages_are_those_of_the_embedded_store(query: Query, memory: MemoryReader, stored: Reader) -> None:
    ours, theirs = await memory.find("order", query), await stored.find("order", query)
    for _ in range(len(ORDERS)):
        assert seen(ours) == seen(theirs)
        if ours.cursor is None:
            return
        ours = await memory.find("order", msgspec.structs.replace(query, after=ours.cursor))
        theirs = await stored.find("order", msgspec.structs.replace(query, after=theirs.cursor))
    pytest.fail("the pages never end")


async def test_other_reads_are_those_of_the_embedded_store(memory: MemoryReader, stored: Reader) -> None:
    for keys in (["3", "1", "99"], []):
        assert seen(await memory.get("order", keys)) == seen(await stored.get("order", keys))
    lookups: list[tuple[str, list[Any], int]] = [
        ("status", ["paid", "open"], 4), ("total", ["10.50", 20.5], 9), ("status", [], 9),
    ]  # fmt: skip
    for field, values, limit in lookups:
        ours, theirs = (
            await memory.lookup("order", field, values, limit),
            await stored.lookup("order", field, values, limit),
        )
        assert seen(ours) == seen(theirs)
    assert await memory.count("order") == await stored.count("order")
    assert await memory.dead_letters("shop", 2) == await stored.dead_letters("shop", 2)
    ours_mark, theirs_mark = await memory.watermark("order"), await stored.watermark("order")
    assert ours_mark.generation == theirs_mark.generation and ours_mark.as_of_ms == theirs_mark.as_of_ms


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (Query(equals={"id": 1}), NotIndexed),
        (Query(ranges={"status": Range(gt="a")}), NotIndexed),
        (Query(order="status"), NotIndexed),
        (Query(after="nonsense"), InvalidArguments),
    ],
)
async def test_refusals_are_those_of_the_embedded_store(
    query: Query, error: type[HeadgateError], memory: MemoryReader, stored: Reader
) -> None:
    said = []
    for reader in (memory, stored):
        with pytest.raises(error) as raised:
            await reader.find("order", query)
        said.append(raised.value.message)
    assert said[0] == said[1]


async def test_what_a_test_arranges() -> None:
    reader = MemoryReader(ENTITIES, ROWS)
    reader.remove("order", "1")
    assert (await reader.count("order")).rows == 7
    flawed = reader.put("order", {"id": 2}, flaw="schema_mismatch")
    assert list((await reader.get("order", ["2"])).rows) == [flawed]
    reader.set_progress("order", 0, Progress(as_of_ms=5))
    assert (await reader.watermark("order")).as_of_ms == 5
    reader.mark_pending("order")
    with pytest.raises(SnapshotPending):
        await reader.get("order", ["1"])
    with pytest.raises(UnknownEntity, match="customer, order, order_line"):
        await reader.watermark("nothing")


async def test_rows_are_spread_over_all_partitions_and_stay_there() -> None:
    reader = MemoryReader(ENTITIES)
    first = [reader.put("customer", {"id": number}).partition for number in range(50)]
    assert set(first) == {0, 1, 2, 3}
    assert first == [reader.put("customer", {"id": number}).partition for number in range(50)]


def test_a_state_compares_and_sets() -> None:
    state = MemoryState()
    assert state.put("a/1", b"x", expect=0) == 1
    assert state.put("a/1", b"y", expect=1) == 2
    with pytest.raises(StateConflict):
        state.put("a/1", b"z", expect=1)
    with pytest.raises(StateConflict):
        state.delete("a/1", expect=1)
    entry = state.get("a/1")
    assert entry is not None and (entry.value, entry.version) == (b"y", 2)
    state.put("a/0", b"")
    state.put("b", b"")
    assert list(state.scan("a/")) == ["a/0", "a/1"]
    assert state.delete("a/1") and not state.delete("a/1")


def test_an_entry_of_a_state_ends_with_its_time() -> None:
    now = [0]
    state = MemoryState(lambda: now[0])
    state.put("a", b"", ttl_ms=10)
    now[0] = 9
    assert state.get("a") is not None
    now[0] = 10
    assert state.get("a") is None and not state.scan("") and state.put("a", b"", expect=0) == 1
