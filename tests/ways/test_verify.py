"""`headgate verify`: says "the same" while changes flow, and finds what was changed behind our back."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from headgate.app import App
from headgate.cli.commands import run
from headgate.config import Config, load, parse
from headgate.errors import Unavailable
from headgate.flow.verify import Verified
from headgate.log.base import Record
from headgate.model.change import Change
from headgate.model.envelope import encode_change, source_prefix
from headgate.model.table import topic_of
from headgate.stack import Kafka
from headgate.stores.base import Query
from tests.ways.deployment import BASICS, connections, write_config

_ROWS = 3_000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as owner:
        owner.execute("pragma journal_mode = wal").fetchone()
        owner.execute("create table items (a text, b integer, price decimal, note text, primary key (a, b))")
        owner.executemany(
            "insert into items values (?, ?, ?, ?)", [(f"k{n % 7}", n, n / 4, "é" * (n % 5)) for n in range(_ROWS)]
        )
        owner.commit()
    (tmp_path / "headgate.yaml").write_text("pipelines: {shop: {source: {kind: sqlite, path: " + str(path) + "}}}\n")
    return path


@contextmanager
def flowing(shop: Path) -> Iterator[App]:
    config = parse((shop.parent / "headgate.yaml").read_text(), shop.parent / "headgate.yaml", {})
    with App(config) as app:
        app.start_flow()
        yield app


@contextmanager
def writing(shop: Path) -> Iterator[None]:
    """An owner who goes on changing rows."""
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(shop, timeout=30)) as owner:
            number = 0
            while not stop.wait(0.02):
                number += 1
                owner.execute("update items set price = price + 1 where b = ?", (number % _ROWS,))
                owner.execute("delete from items where b = ?", (_ROWS - 1 - number % 500,))
                owner.execute("insert or ignore into items values ('new', ?, 1, null)", (number,))
                owner.commit()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def verified(app: App, settle_s: float = 60, pipeline: str = "shop") -> Verified:
    (result,) = asyncio.run(app.verify(pipeline, settle_s, lambda what, rows: None))
    return result


def whole(app: App) -> None:
    """Returns once the first snapshot can be read."""

    async def wait() -> None:
        for _ in range(600):
            entities = await app.reader.entities()
            if entities:
                try:
                    if (await app.reader.find("item", Query(limit=1))).rows:
                        break
                except Exception:
                    pass  # not yet
            await asyncio.sleep(0.05)
        await app.reader.close()

    asyncio.run(wait())


def test_the_same_while_changes_flow(shop: Path) -> None:
    with flowing(shop) as app:
        whole(app)
        with writing(shop):
            result = verified(app)
        assert result.outcome == "same"
        assert result.rows >= _ROWS - 500
        assert verified(app).unsettled == 0


def test_what_was_changed_behind_our_back_is_found(shop: Path) -> None:
    with flowing(shop) as app:
        whole(app)
        assert verified(app).outcome == "same"
        with closing(sqlite3.connect(app.config.data / "store.db", timeout=30)) as store:
            tables = [row[0] for row in store.execute("select name from sqlite_master where type = 'table'")]
            (rows,) = [table for table in tables if table.startswith("rows")]
            columns = [row[1] for row in store.execute(f"pragma table_info('{rows}')")]
            store.execute(f"update \"{rows}\" set json = replace(json, '\"note\"', '\"nota\"') where key = 'k6,2400'")
            store.execute(f"delete from \"{rows}\" where key = 'k0,2401'")
            assert store.total_changes == 2, columns
            store.commit()
        with writing(shop):
            result = verified(app)
        assert [(each.key, each.kind) for each in result.differences] == [
            ("k0,2401", "missing"),
            ("k6,2400", "different"),
        ]


def test_a_store_that_does_not_catch_up_is_said(shop: Path) -> None:
    with flowing(shop) as app:
        whole(app)
    with closing(sqlite3.connect(shop)) as owner:
        owner.execute("update items set note = 'later' where b = 5")
        owner.commit()
    config = parse((shop.parent / "headgate.yaml").read_text(), shop.parent / "headgate.yaml", {})
    with App(config) as still, pytest.raises(Unavailable, match="catch up"):
        verified(still, settle_s=0.3)


def test_postgres_over_kafka_in_redis(tmp_path: Path, kafka: Kafka, database: str, redis_url: str) -> None:
    text = f"""
{BASICS}{connections(kafka, redis_url)}pipelines:
  verified:
    source: {{kind: postgres, dsn: "{database}"}}
    log: main
    store: cache
"""
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(
            "create table items (id int primary key, price numeric(12, 4), at timestamptz, note text, data jsonb,"
            " tags text[], raw bytea)"
        )
        owner.execute(
            "insert into items select n, n / 7.0, to_timestamp(n * 86400.5), nullif(repeat('é', n % 5), ''),"
            " jsonb_build_object('n', n), array['a b', n::text], decode('00ff', 'hex') from generate_series(1, 500) n"
        )
        config = load(write_config(tmp_path, text), {})
        with App(config) as app:
            app.start_flow()
            whole(app)
            owner.execute("update items set price = price + 1, note = 'new' where id % 2 = 0")
            owner.execute("delete from items where id > 490")
            assert verified_beside(config) == Verified(entity="item", rows=490)
            behind_our_back(app, key=b'{"id":7}', row=b'{"id":7,"note":"of another"}')
            result = verified_beside(config)
        assert [(each.key, each.kind) for each in result.differences] == [("7", "different")]


def verified_beside(config: Config) -> Verified:
    """As the command does it, which is a process of its own."""
    with App(config) as beside:
        return verified(beside, pipeline="verified")


def behind_our_back(app: App, key: bytes, row: bytes) -> None:
    """Something else writes to the topic: the store takes a row that the source has not."""
    table = "public.items"
    change = Change(op="r", table=table, key=key, after=row, snapshot=True)
    with closing(app.log("main").appender()) as appender:
        value = encode_change(change, source_prefix("postgresql", "verified", "", table))
        appender.append(topic_of("verified", table), Record(key, value))
        appender.flush(60)


def test_the_command_answers_by_its_exit_code(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with flowing(shop) as app:
        whole(app)
        assert run(["verify", "shop", "--config", str(shop.parent / "headgate.yaml")]) == 0
        assert "item: the same" in capsys.readouterr().out
