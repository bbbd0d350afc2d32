"""Large things: long transactions, large rows, many tables and keys, in memory that does not grow with them.

A change too large for the log stops its table alone, says so, and a new snapshot heals it (DESIGN §4.5).
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from mcp import Client
from mcp.types import TextContent

from headgate.stack import Kafka
from headgate.stores.base import Query, Reader
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import (
    BASICS,
    Process,
    all_rows,
    caught_up,
    client,
    connections,
    headgate,
    reader_of,
    ready,
    until,
    until_async,
    write_config,
)

MEBIBYTE = 1 << 20
MOST_MIB = 260
"""Resident, of one process: far below what these things are in all. An idle one has about 100."""
MOST_OF_CAPTURE_MIB = 160
ONE_IN = 1_000
"""So many keys apart lie those that change, once all are there."""


@contextmanager
def bounded(folder: Path, *words: str, mib: int = MOST_MIB) -> Iterator[Process]:
    """A `headgate` command whose memory must have stayed within bounds at its end."""
    with headgate(folder, *words) as process:
        yield process
        assert peak_mib(process.pid) < mib


def peak_mib(pid: int) -> int:
    """The most memory that a process has had resident (where there is a /proc)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024


def on_servers(folder: Path, name: str, database: str, kafka: Kafka, redis_url: str, more: str = "") -> Path:
    return write_config(
        folder,
        f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  {name}:
    source: {{kind: postgres, dsn: "{database}"}}
    log: main
    store: cache
    partitions: 2
{more}""",
    )


@pytest.mark.parametrize("rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_a_long_transaction_and_a_long_snapshot_in_bounded_memory(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str, rows: int
) -> None:
    config = on_servers(tmp_path, "long", database, kafka, redis_url)
    reader, app = reader_of(config)
    patience_s = 60 + rows / 2_000
    note = "a note that is as long as notes are"
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("create table items (id bigint primary key, amount bigint not null, note text)")
        source.execute("insert into items select n, 0, %s from generate_series(1, %s::int) n", [note, rows])
        source.execute("analyze items")
        with (
            bounded(tmp_path, "sync", "--half", "capture", mib=MOST_OF_CAPTURE_MIB) as process,
            bounded(tmp_path, "sync", "--half", "materialize"),
        ):
            await caught_up(reader, "item", wall_clock_ms(), patience_s)
            assert len(await all_rows(reader, "item")) == rows
            assert f"rows of about {rows:,}" in process.text(), "how far the snapshot was"
            assert "long: the snapshot is read" in process.text()
            source.execute("update items set amount = id where id <= %s", [rows])
            await caught_up(reader, "item", wall_clock_ms(), patience_s)
            found = await all_rows(reader, "item")
    assert {row["id"] for row in found} == set(range(1, rows + 1))
    assert all(row["amount"] == row["id"] and row["note"] == note for row in found)
    await reader.close()
    app.close()


@pytest.mark.parametrize("keys", [50_000, pytest.param(10_000_000, marks=pytest.mark.soak)])
async def test_many_keys_in_bounded_memory(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str, keys: int
) -> None:
    """The store grows with them and no process of ours does, neither as they are first read nor as they change."""
    lookups = "entities:\n  item: {from: keys.public.items, lookups: [code]}\n"
    config = on_servers(tmp_path, "keys", database, kafka, redis_url, lookups)
    reader, app = reader_of(config)
    patience_s = 60 + keys / 2_000
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("create table items (id bigint primary key, code bigint not null)")
        fill = "insert into items select n, n / 10 + 1 from generate_series(%s::int, %s) n"
        source.execute(fill, [1, keys])
        source.execute("analyze items")
        with (
            bounded(tmp_path, "sync", "--half", "capture", mib=MOST_OF_CAPTURE_MIB),
            bounded(tmp_path, "sync", "--half", "materialize"),
        ):
            await caught_up(reader, "item", wall_clock_ms(), patience_s)
            assert (await reader.count("item")).rows == keys
            source.execute("update items set code = -id where id %% %s = 1", [ONE_IN])
            source.execute("delete from items where id %% %s = 2", [ONE_IN])
            source.execute(fill, [keys + 1, keys + 9])
            await caught_up(reader, "item", wall_clock_ms(), patience_s)
            found = await _codes_by_key(reader, keys + 9)
            assert all(code == _code(key, keys) for key, code in enumerate(found, 1))
            for code, expected in ((-ONE_IN - 1, [ONE_IN + 1]), (keys // 10 + 1, range(keys, keys + 10))):
                answered = await reader.lookup("item", "code", [code], limit=100)
                assert {row.key for row in answered.rows} == {str(key) for key in expected}
    await reader.close()
    app.close()


def _code(key: int, keys: int) -> int:
    """What a key must have in the end; 0 for one that was deleted."""
    changed = {1: -key, 2: 0} if key <= keys else {}
    return changed.get(key % ONE_IN, key // 10 + 1)


async def _codes_by_key(reader: Reader, most: int) -> array[int]:
    """Of the keys from 1 on; 0 where there is no such row. No row may come twice."""
    codes = array("q", bytes(8 * most))
    cursor: str | None = None
    while True:
        page = await reader.find("item", Query(limit=10_000, max_bytes=1 << 24, after=cursor))
        for row in page.rows:
            values = msgspec.json.decode(row.json)
            assert not codes[values["id"] - 1]
            codes[values["id"] - 1] = values["code"]
        cursor = page.cursor
        if cursor is None:
            return codes


async def test_a_row_of_five_mebibytes_comes_whole_to_the_store_and_by_its_size_to_the_agent(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str
) -> None:
    config = on_servers(tmp_path, "wide", database, kafka, redis_url)
    reader, app = reader_of(config)
    body = "x" * (5 * MEBIBYTE)
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("create table notes (id bigint primary key, title text, body text)")
        source.execute("alter table notes alter body set storage external")  # else it would be packed small
        with bounded(tmp_path, "run") as process:
            url = process.url()
            until(lambda: ready(url))
            source.execute("insert into notes values (1, 'large', %s)", [body])
            await caught_up(reader, "note", wall_clock_ms())
            source.execute("update notes set title = 'still large' where id = 1")  # leaves the body out
            await caught_up(reader, "note", wall_clock_ms())
            (row,) = (await reader.get("note", ["1"])).rows
            assert row is not None
            assert len(row.json) > len(body)
            async with client(url) as agent:
                answer = await agent.call_tool("lookup_note", {"note_id": 1})
    assert answer.structured_content is not None
    (said,) = answer.structured_content["rows"]
    assert said["values"] == {"id": 1, "title": "still large"}
    assert said["fields_left_out"] == {"body": len(body) + 2}
    await reader.close()
    app.close()


@pytest.mark.parametrize("tables", [40, pytest.param(500, marks=pytest.mark.soak)])
async def test_many_tables_in_one_pipeline(
    tmp_path: Path, kafka: Kafka, database: str, redis_url: str, tables: int
) -> None:
    with psycopg.connect(database, autocommit=True) as source:
        for number in range(tables):
            source.execute(f"create table t{number:03} (id bigint primary key, name text)".encode())
            source.execute(f"insert into t{number:03} values (1, 'first of {number}')".encode())
        config = on_servers(tmp_path, "many", database, kafka, redis_url)
        reader, app = reader_of(config)
        with bounded(tmp_path, "sync"):
            for number in range(tables):
                await caught_up(reader, f"t{number:03}", 1, patience_s=240.0)
            source.execute(f"insert into t{tables - 1:03} values (2, 'last')".encode())
            source.execute("insert into t000 values (2, 'second')")
            await caught_up(reader, "t000", wall_clock_ms())
            await caught_up(reader, f"t{tables - 1:03}", wall_clock_ms())
        assert [row["name"] for row in await all_rows(reader, "t000")] == ["first of 0", "second"]
        assert [row["name"] for row in await all_rows(reader, f"t{tables - 1:03}")] == [
            f"first of {tables - 1}",
            "last",
        ]
    await reader.close()
    app.close()


async def test_a_row_too_large_stops_its_table_alone(tmp_path: Path, kafka: Kafka, redis_url: str) -> None:
    source = sqlite3.connect(tmp_path / "source.db", isolation_level=None)
    source.executescript("""
        create table notes (id integer primary key, body text);
        create table people (id integer primary key, name text);
        insert into notes values (1, 'small');
        insert into people values (1, 'Ada');
    """)
    config = write_config(
        tmp_path,
        f"""
{BASICS}connections:
  main: {{kind: kafka, bootstrap_servers: "{kafka.bootstrap_servers}", message_max_bytes: 100000}}
  cache: {{kind: redis, url: "{redis_url}"}}
pipelines:
  large:
    source: {{kind: sqlite, path: "{tmp_path / "source.db"}"}}
    log: main
    store: cache
""",
    )
    reader, app = reader_of(config)
    with headgate(tmp_path, "run") as process:
        url = process.url()
        until(lambda: ready(url))
        source.execute("insert into notes values (2, ?)", ("x" * 300_000,))
        source.execute("insert into notes values (3, 'after the large one')")
        source.execute("insert into people values (2, 'Grace')")
        await caught_up(reader, "person", wall_clock_ms())
        assert [row["id"] for row in await all_rows(reader, "person")] == [1, 2]
        assert [row["id"] for row in await all_rows(reader, "note")] == [1]
        async with client(url) as agent:
            told = await until_async(lambda: _errors(agent))
        assert "main.notes" in told
        assert "record_too_large" in told
    source.execute("update notes set body = 'smaller' where id = 2")
    with headgate(tmp_path, "sync", "--resnapshot", "large.main.notes"):
        await caught_up(reader, "note", wall_clock_ms())
        assert [row["body"] for row in await all_rows(reader, "note")] == ["small", "smaller", "after the large one"]
    await reader.close()
    app.close()
    source.close()


async def _errors(agent: Client) -> str:
    answer = await agent.call_tool("get_pipeline_errors", {"pipeline_id": "large"})
    text = "".join(part.text for part in answer.content if isinstance(part, TextContent))
    return text if "record_too_large" in text else ""
