"""The SQL of the pages: privileges are enough to capture, and what reads a store finds its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from msgspec import structs
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from headgate.connections.postgres import Config
from headgate.model.entity import Entity, Field
from headgate.sources import postgres as kind
from headgate.stack import Postgres
from headgate.stores.base import Write
from headgate.stores.postgres import open_writer
from headgate.telemetry import wall_clock_ms
from tests.docs.blocks import Block, all_blocks


@pytest.fixture
def shop_dsn(postgres: Postgres) -> Iterator[str]:
    """A database `shop` whose table belongs to `shop_owner`, as the page takes it to be."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("create role shop_owner")
        admin.execute("create database shop owner shop_owner")
    try:
        with psycopg.connect(postgres.dsn("shop"), autocommit=True) as owner:
            owner.execute("create table customers (id int primary key); alter table customers owner to shop_owner")
        yield postgres.dsn("shop")
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute("drop database shop with (force)")
            admin.execute("drop role if exists headgate")
            admin.execute("drop role shop_owner")


GRANTS = [block for block in all_blocks("sql") if not block.words and "GRANT" in block.text]
OTHERS = [block for block in all_blocks("sql") if not block.words and block not in GRANTS]
READS = [block for block in all_blocks("sql") if block.words == "reads a store"]


def test_every_block_is_tried() -> None:
    assert len(GRANTS) + len(READS) + len(OTHERS) == len(all_blocks("sql"))


@pytest.mark.parametrize("block", READS, ids=str)
def test_rows_of_a_store_are_read_by_sql(block: Block, database: str) -> None:
    fields = (Field(name="id", type="integer"),)
    entity = Entity(name="order", pipeline="shop", table="public.orders", key=("id",), fields=fields)
    writer = open_writer(Config(dsn=SecretStr(database)), [entity])
    try:
        (claimed,) = writer.claim("order", [0]).values()
        step = Write(
            entity="order",
            partition=0,
            expected=claimed,
            progress=structs.replace(claimed, generation=1),
            puts={"7": b'{"id": 7}'},
        )
        writer.apply([step])
    finally:
        writer.close()
    with psycopg.connect(database) as connection:
        assert connection.execute(block.text.encode()).fetchall() == [("7", {"id": 7})]


@pytest.mark.parametrize("block", GRANTS, ids=str)
def test_sql(block: Block, shop_dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(shop_dsn, autocommit=True) as admin:
        admin.execute(block.text.encode())
    config = kind.Config(dsn=SecretStr(make_conninfo(shop_dsn, user="headgate")))
    source = kind.open_source(config, "shop", tmp_path, wall_clock_ms)
    assert [finding for finding in source.diagnose() if finding.level == "error"] == []
    capture = source.capture(now_ms=wall_clock_ms)
    try:
        tables = (table.name for batch in capture.batches(0.1) for table in batch.tables)
        assert next(tables) == "public.customers"
    finally:
        capture.close()
        source.detach()


@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_other_sql_is_taken_by_a_server(block: Block, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(block.text.encode())
