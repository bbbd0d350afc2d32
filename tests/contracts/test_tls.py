"""Redis and PostgreSQL behind TLS: everything that connects goes through it, and trusts nobody else's certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from headgate import plugins
from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config as RedisConfig
from headgate.connections.redis import diagnose
from headgate.errors import HeadgateError, SourceNotReady, StoreError
from headgate.sources import postgres as postgres_source
from headgate.stack import Postgres, Valkey
from headgate.state.base import Taken
from headgate.stores.base import Query
from headgate.subscriptions.base import Touch, encode
from headgate.telemetry import wall_clock_ms
from tests.contracts.behind_tls import Encrypted, encrypted
from tests.contracts.source_kinds.postgres import PostgresGround
from tests.contracts.source_kinds.replica import Replica, Run
from tests.contracts.stores.cases import CUSTOMER, Store, customer, keys
from tests.unit.serving.certificates import certificate

WITHIN_S = 60.0
WRONG = ["authority", "name"]


class Identity(NamedTuple):
    """Folders of certificates for `localhost`; each is its own authority."""

    own: Path
    others: Path

    def trusted(self, wrong: str) -> Path:
        """Whom a client trusts that is to be wrong in that."""
        return (self.others if wrong == "authority" else self.own) / "cert.pem"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    made = Identity(*(tmp_path_factory.mktemp(name) for name in ("own", "others")))
    for folder in made:
        certificate(folder, "throwaway")
    return made


def host(wrong: str) -> str:
    """How a client names the server; it says of itself that it is `localhost`."""
    return "127.0.0.1" if wrong == "name" else "localhost"


async def heard(kind: str, target: Any) -> list[Touch]:
    """What a hearer hears of what a sender says."""
    module = plugins.load("subscriptions", kind)
    touches: list[Touch] = []
    listening, told = asyncio.Event(), asyncio.Event()

    def tell(some: Any) -> None:
        touches.extend(some)
        told.set()

    hearing = asyncio.ensure_future(module.open_hearer(target).hear(tell, listening.set))
    try:
        async with asyncio.timeout(WITHIN_S):
            begun = asyncio.ensure_future(listening.wait())
            await asyncio.wait({hearing, begun}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                hearing.result()  # it was refused
            with closing(module.open_sender(target)) as sender:
                await asyncio.to_thread(sender.send, encode({"customer": ["1"]}, sender.most_bytes))
            await told.wait()
    finally:
        for each in (hearing, begun):
            each.cancel()
        await asyncio.gather(hearing, begun, return_exceptions=True)
    return touches


async def store_holds(kind: str, target: Any) -> None:
    """A row that is written is read, by its key and by a field."""
    store = Store(kind, target)
    try:
        feed, reader = store.feed(), store.reader()
        feed.show(customer(1), customer(2))
        assert keys((await reader.get("customer", ["1"])).rows) == ["1"]
        assert keys((await reader.find("customer", Query())).rows) == ["1", "2"]
    finally:
        await store.close()


async def assert_refused(asks: dict[str, Callable[[], Awaitable[object]]], kind: type[HeadgateError]) -> None:
    """Each of them says in our words that it is TLS, and that waiting does not help."""
    for name, ask in asks.items():
        with pytest.raises(kind, match="TLS") as refusal:
            await ask()
        assert "CERTIFICATE_VERIFY_FAILED" not in str(refusal.value), name


# --- Redis ---------------------------------------------------------------------------------------


@pytest.fixture
def redis_end(valkey: Valkey, identity: Identity, redis_url: str) -> Iterator[Encrypted]:
    with encrypted(valkey.port, identity.own) as end:
        yield end


def redis_config(end: Encrypted, identity: Identity, redis_url: str, wrong: str = "") -> RedisConfig:
    url = f"rediss://{host(wrong)}:{end.port}/{redis_url.rpartition('/')[2]}"
    return RedisConfig(url=SecretStr(url), tls_ca=identity.trusted(wrong))


async def test_store_state_buckets_and_notices_of_redis_go_through_tls(
    redis_end: Encrypted, identity: Identity, redis_url: str
) -> None:
    config = redis_config(redis_end, identity, redis_url)
    await store_holds("redis", config)
    module = plugins.load("state", "redis")
    with closing(module.open_state(config, clock=wall_clock_ms)) as state:
        state.put("key", b"value")
        assert state.get("key").value == b"value"
    buckets = module.open_buckets(config, clock=wall_clock_ms)
    assert await buckets.take("a", 1, 5, 86_400_000) == Taken(True, 4)
    await buckets.close()
    assert await heard("redis", config) == [Touch("customer", ("1",))]
    assert {finding.level for finding in diagnose("cache", config)} == {"ok"}
    assert redis_end.taken >= 6


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_redis_that_is_not_who_it_should_be_is_told_nothing(
    redis_end: Encrypted, identity: Identity, redis_url: str, wrong: str
) -> None:
    config = redis_config(redis_end, identity, redis_url, wrong)
    store, module = Store("redis", config), plugins.load("state", "redis")
    state, buckets = module.open_state(config, clock=wall_clock_ms), module.open_buckets(config, clock=wall_clock_ms)

    async def write() -> None:
        store.writer(CUSTOMER)

    async def note() -> None:
        state.put("key", b"value")

    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "write": write, "read": lambda: store.reader().get("customer", ["1"]), "state": note,
        "budget": lambda: buckets.take("a", 1, 5, 1_000), "notices": lambda: heard("redis", config),
    }  # fmt: skip
    await assert_refused(asks, StoreError)
    await store.close()
    await buckets.close()
    state.close()
    (finding,) = diagnose("cache", config)
    assert finding.level == "error" and "TLS" in finding.message
    assert redis_end.taken == 0


# --- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
def postgres_end(postgres: Postgres, identity: Identity, database: str) -> Iterator[Encrypted]:
    with encrypted(postgres.port, identity.own, is_postgres=True) as end:
        yield end


def verified_dsn(end: Encrypted, identity: Identity, database: str, wrong: str = "") -> str:
    trusted = identity.trusted(wrong)
    return make_conninfo(database, host=host(wrong), port=end.port, sslmode="verify-full", sslrootcert=str(trusted))


def postgres_config(end: Encrypted, identity: Identity, database: str, wrong: str = "") -> PostgresConfig:
    """With TLS beside the DSN."""
    dsn = make_conninfo(database, host=host(wrong), port=end.port)
    return PostgresConfig(dsn=SecretStr(dsn), sslmode="verify-full", sslrootcert=identity.trusted(wrong))


async def test_store_and_notices_of_postgres_go_through_tls(
    postgres_end: Encrypted, identity: Identity, database: str
) -> None:
    config = postgres_config(postgres_end, identity, database)
    await store_holds("postgres", config)
    assert await heard("postgres", config) == [Touch("customer", ("1",))]
    assert postgres_end.taken >= 4


def test_capture_of_postgres_goes_through_tls(
    postgres_end: Encrypted, identity: Identity, database: str, tmp_path: Path
) -> None:
    with closing(PostgresGround(verified_dsn(postgres_end, identity, database), tmp_path)) as ground:
        ground.execute("create table people (id integer primary key, name text)", "insert into people values (1, 'a')")
        replica = Replica(ground)
        with Run(ground, replica) as run:
            run.catch_up("people")
            ground.execute("insert into people values (2, 'b')")
            assert [change.op for change in run.catch_up("people")] == ["c"], "from the snapshot and the stream"
        assert ground.source().detach()


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_postgres_that_is_not_who_it_should_be_is_told_nothing(
    postgres_end: Encrypted, identity: Identity, database: str, tmp_path: Path, wrong: str
) -> None:
    config = postgres_config(postgres_end, identity, database, wrong)
    store, dsn = Store("postgres", config), SecretStr(verified_dsn(postgres_end, identity, database, wrong))
    source = postgres_source.open_source(postgres_source.Config(dsn=dsn), "shop", tmp_path, wall_clock_ms)

    async def write() -> None:
        store.writer(CUSTOMER)

    async def capture() -> None:
        source.capture(now_ms=wall_clock_ms)

    await assert_refused({"write": write, "read": lambda: store.reader().get("customer", ["1"])}, StoreError)
    await assert_refused({"capture": capture, "notices": lambda: heard("postgres", config)}, SourceNotReady)
    await store.close()
    assert postgres_end.taken == 0
