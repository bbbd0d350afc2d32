"""What only a server can do to us: not answer, go and come back, refuse us; and what it is asked to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from pydantic import SecretStr, ValidationError

from headgate.connections.postgres import Config, connect
from headgate.errors import Refused, StoreError, Unavailable
from headgate.stack import Postgres
from headgate.stores.base import Query
from headgate.stores.postgres.reader import PostgresReader
from headgate.stores.postgres.sessions import Sessions
from tests.contracts.stores.cases import CUSTOMER, Feed, Store, customer, keys

WITHIN_S = 60


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store in a database of its own."""
    store = Store("postgres", Config(dsn=SecretStr(database)))
    yield store
    await store.close()


@pytest.fixture
async def impatient(store: Store) -> AsyncIterator[PostgresReader]:
    """A reader that waits a second for an answer, on two connections at most."""
    reader = PostgresReader(Sessions(store.target, most=2, answer_s=1.0))
    yield reader
    await reader.close()


def ask_server(store: Store, question: str) -> int:
    """A number that the server says, on a connection of its own."""
    with connect(store.target.conninfo(), settings={"search_path": store.target.store_schema}) as connection:
        return int((connection.execute(question).fetchone() or (0,))[0])


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if await ask():
                return
            await asyncio.sleep(0.02)  # only the server knows when


async def are_waiting(store: Store, number: int) -> bool:
    return ask_server(store, READING) == number


READING = (
    "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    " and state = 'active' and wait_event_type = 'Lock'"
)


async def test_a_cancelled_read_is_stopped_at_the_server(store: Store) -> None:
    store.feed().show(customer(1))
    reader = store.reader()
    await reader.get("customer", ["1"])
    with connect(store.target.conninfo(), settings={"search_path": "headgate"}) as other:
        other.execute("begin; lock table rows in access exclusive mode")
        reading = [asyncio.create_task(reader.get("customer", ["1"])) for _ in range(20)]
        await until(lambda: are_waiting(store, 8))
        for one in reading:
            one.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*reading, return_exceptions=True)
        )
        await until(lambda: are_waiting(store, 0))
    found = await asyncio.gather(*(reader.get("customer", ["1"]) for _ in range(100)))
    assert all(keys(rows.rows) == ["1"] for rows in found)


async def test_connections_are_bounded(store: Store) -> None:
    store.feed().show(customer(1))
    reader = store.reader()
    await asyncio.gather(*(reader.find("customer", Query()) for _ in range(100)))
    own = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    assert ask_server(store, own) <= 9, "eight readers and the writer"


async def test_a_frozen_server_is_unavailable_and_comes_back(
    store: Store, impatient: PostgresReader, postgres: Postgres
) -> None:
    store.feed().show(customer(1))

    async def answers() -> bool:
        try:
            return keys((await impatient.get("customer", ["1"])).rows) == ["1"]
        except Unavailable:
            return False

    await until(answers)  # a busy machine may take longer than its second to connect
    postgres.pause()
    try:
        async with asyncio.timeout(WITHIN_S):
            for question in (impatient.get("customer", ["1"]), impatient.find("customer", Query())):
                with pytest.raises(Unavailable) as refusal:
                    await question
                assert refusal.value.retry_after_s > 0
    finally:
        postgres.resume()
    await until(answers)


async def test_a_server_that_was_killed_is_found_again(store: Store, postgres: Postgres) -> None:
    feed, reader = store.feed(), store.reader()
    feed.show(customer(1))
    await asyncio.gather(*(reader.get("customer", ["1"]) for _ in range(8)))
    postgres.kill()
    with pytest.raises(Unavailable):
        feed.put(customer(2))
    with pytest.raises(Unavailable):
        await reader.get("customer", ["1"])
    postgres.start()
    again = Feed(store.writer(CUSTOMER), CUSTOMER)
    again.show(customer(3))
    assert "3" in keys((await reader.find("customer", Query())).rows)
    with pytest.raises(Refused):
        feed.put(customer(4))


async def test_a_restart_between_two_reads_is_not_noticed(store: Store, postgres: Postgres) -> None:
    store.feed().show(customer(1))
    reader = store.reader()
    await asyncio.gather(*(reader.get("customer", ["1"]) for _ in range(8)))
    postgres.stop()
    postgres.start()
    assert keys((await reader.get("customer", ["1"])).rows) == ["1"]


async def test_tables_are_made_once_whoever_comes(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda writer: writer.claim("customer", [0]), [store.silent_writer(CUSTOMER) for _ in range(6)]))
    assert ask_server(store, "select count(*) from installation") == 1


async def test_two_installations_share_a_database(store: Store) -> None:
    other = store.beside("other")
    store.feed().show(customer(1))
    other.feed().show(customer(2))
    assert keys((await store.reader().find("customer", Query())).rows) == ["1"]
    assert keys((await other.reader().find("customer", Query())).rows) == ["2"]
    await other.close()


async def test_rows_can_be_read_by_sql(store: Store) -> None:
    store.feed().show(customer(7, plan="vip"))
    assert ask_server(store, "select (convert_from(json, 'UTF8')::jsonb ->> 'id')::int from rows") == 7


async def test_tables_of_another_version_are_left_alone(store: Store) -> None:
    store.feed()
    ask_server(store, "update installation set version = 99 returning version")
    with pytest.raises(StoreError, match="another version"):
        store.writer(CUSTOMER)


async def test_what_refuses_us_is_no_matter_of_waiting(store: Store, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create role stranger login password 'hunter2'")
        try:
            dsn = psycopg.conninfo.make_conninfo(database, user="stranger", password="hunter2")
            with pytest.raises(StoreError, match="privilege") as refusal:
                Store("postgres", Config(dsn=SecretStr(dsn))).writer(CUSTOMER)
            assert "hunter2" not in str(refusal.value)
        finally:
            admin.execute("drop role stranger")


async def test_a_key_that_no_index_takes_is_said(store: Store) -> None:
    feed = store.feed()
    feed.show()
    long = "".join(f"{number:x}" for number in range(3_000))
    with pytest.raises(StoreError, match="key is longer"):
        feed.apply(feed.write(1, {long: customer(1)}))
    feed.progress = feed.writer.claim("customer", [0, 1])
    feed.put(customer(1, seen=long * 3, email=long))
    assert keys((await store.reader().lookup("customer", "seen", [long * 3], 2)).rows) == ["1"]


def test_a_schema_has_a_plain_name() -> None:
    with pytest.raises(ValidationError):
        Config(dsn=SecretStr("postgresql://h/d"), store_schema="a b; drop")
