"""A table that pgbench turns over, what the store must hold of it in the end, and a reader that watches all the while.

Each change of a row takes a number from one sequence, so that a row seen with a smaller number than before has gone
back in time. No key is used twice: a row that was gone and comes back has gone back too.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg

from headgate.errors import HeadgateError
from headgate.model.position import Watermark
from headgate.model.row import Row
from headgate.stack import Postgres
from headgate.stores.base import Query, Reader
from tests.ways import pgbench
from tests.ways.deployment import all_rows, caught_up, reader_of

ROWS = 300
_MOST = 5_000
SCHEMA = f"""
create sequence versions;
create sequence ids;
create table items (id bigint primary key, version bigint not null, code text unique, part int, note text);
insert into items select nextval('ids'), nextval('versions'), 'c' || n, n % 10, 'first'
    from generate_series(1, {ROWS}) n;
create function churn() returns void language plpgsql as $$
declare
    dice int := floor(random() * 100);
    one bigint;
    other bigint;
    moved text;
begin
    perform pg_advisory_xact_lock(1);
    select id into one from items order by random() limit 1;
    select id into other from items where id <> one order by random() limit 1;
    if other is null or dice < 13 then
        insert into items values (nextval('ids'), nextval('versions'), 'c' || currval('ids'), dice % 10, 'inserted');
    elsif dice < 60 then
        update items set version = nextval('versions'), part = floor(random() * 10), note = 'updated' where id = one;
    elsif dice < 76 then
        select code into moved from items where id = one;
        update items set version = nextval('versions'), code = null where id = one;
        update items set version = nextval('versions'), code = moved where id = other;
    elsif dice < 88 then
        update items set id = nextval('ids'), version = nextval('versions'), note = 'another key' where id = one;
    else
        delete from items where id = one;
    end if;
end $$;
"""


def fill(dsn: str) -> None:
    """Makes the table and what changes it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())


def load(folder: Path, postgres: Postgres, dsn: str, transactions_per_s: int) -> pgbench.Load:
    """pgbench, each of whose transactions inserts, updates, deletes, moves a key, or moves a unique value."""
    script = folder / "churn.sql"
    script.write_text("select churn();\n")
    return pgbench.Load(postgres, dsn, transactions_per_s, script)


class _Seen(NamedTuple):
    version: int
    partition: int
    place: tuple[int, int]
    """The generation and offset that its partition had reached."""


class Watching:
    """A reader for the length of a block, which fails the test when a key goes back in time.

    After a failover that lost writes a key may, but then the answer says so: by an older position.
    """

    def __init__(self, config: Path, *, writes_may_be_lost: bool = False) -> None:
        self._config = config
        self._writes_may_be_lost = writes_may_be_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="watching", daemon=True)
        self._newest: dict[str, _Seen] = {}
        self._gone: dict[str, _Seen] = {}
        self.failures: list[str] = []
        self.reads = 0
        self.went_back = 0
        """How many keys did, with an older position."""

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        reader, app = reader_of(self._config)
        try:
            while not self._stop.is_set() and len(self.failures) < 5:
                try:
                    await self._read(reader)
                except HeadgateError:
                    await asyncio.sleep(0.02)  # the store is away, or empty: nothing was answered
                await asyncio.sleep(0.005)
        except Exception as error:
            self.failures.append(repr(error))
        finally:
            await reader.close()
            app.close()

    async def _read(self, reader: Reader) -> None:
        found = await reader.find("item", Query(limit=_MOST, max_bytes=1 << 24))
        assert found.cursor is None
        self._judge(found.rows, found.watermark)
        self.reads += 1
        code = f"c{self.reads % ROWS + 1}"
        answered = await reader.lookup("item", "code", [code], limit=100)
        self.failures += [f"{code} led to {row.json!r}" for row in answered.rows if _values(row)["code"] != code]

    def _judge(self, rows: Any, watermark: Watermark) -> None:
        there: dict[str, _Seen] = {}
        for row in rows:
            if row.key in there:
                self.failures.append(f"{row.key} is there twice")
            there[row.key] = _Seen(_values(row)["version"], row.partition, _place(watermark, row.partition))
        for key, seen in there.items():
            before = self._newest.get(key)
            if before is not None and seen.version < before.version:
                self._judge_back(key, before, seen.place)
            if key in self._gone:
                self._judge_back(key, self._gone.pop(key), seen.place)
        for key in self._newest.keys() - there.keys():
            before = self._newest[key]
            place = _place(watermark, before.partition)
            if self._writes_may_be_lost and place < before.place:
                self.went_back += 1  # it is not gone, it is not there yet
            else:
                self._gone[key] = _Seen(0, before.partition, place)
        self._newest = there

    def _judge_back(self, key: str, before: _Seen, place: tuple[int, int]) -> None:
        if self._writes_may_be_lost and place < before.place:
            self.went_back += 1
        else:
            self.failures.append(f"{key} went back: it was {before}, and is read at {place}")


def _values(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(row.json)
    return found


def _place(watermark: Watermark, partition: int) -> tuple[int, int]:
    return watermark.generation, watermark.partitions[partition].offset


async def assert_equal(config: Path, dsn: str, patience_s: float = 60.0) -> None:
    """Once the store says that it is whole as of now it holds exactly the table's rows, and lookups find the same."""
    since_ms = pgbench.source_clock_ms(dsn)
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "item", since_ms, patience_s)
        stored = await all_rows(reader, "item")
        with psycopg.connect(dsn) as connection:
            expected = [row[0] for row in connection.execute("select to_jsonb(items) from items").fetchall()]
        assert {row["id"]: row for row in stored} == {row["id"]: row for row in expected}
        assert len(stored) == len(expected) == (await reader.count("item")).rows
        for field in ("code", "part"):
            await _assert_lookups(reader, field, expected)
    finally:
        await reader.close()
        app.close()


async def _assert_lookups(reader: Reader, field: str, expected: list[dict[str, Any]]) -> None:
    under: dict[Any, set[str]] = defaultdict(set)
    for row in expected:
        if row[field] is not None:
            under[row[field]].add(str(row["id"]))
    for value, keys in under.items():
        found = await reader.lookup("item", field, [value], limit=_MOST)
        assert {row.key for row in found.rows} == keys and len(found.rows) == len(keys), (field, value)
