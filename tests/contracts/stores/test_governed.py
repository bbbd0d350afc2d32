"""What a policy lets callers see, over the stores of servers: the tests of the embedded one hold for each of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from pydantic import SecretStr

from headgate import plugins
from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config as RedisConfig
from headgate.stack import Postgres
from headgate.stores.base import Reader
from tests.unit.access import test_governed_view
from tests.unit.access.governed import fill, reading
from tests.unit.access.test_policy_agrees import OVERLAP, POLICIES, SCATTERED, everything_agrees

ON_SERVERS = [kind for kind in plugins.kinds("stores") if kind != "sqlite"]


class Filled(NamedTuple):
    """A store that holds the rows of several tenants."""

    kind: str
    target: Any


@pytest.fixture(scope="module", params=ON_SERVERS)
def filled(request: pytest.FixtureRequest) -> Iterator[Filled]:
    name = f"t{uuid.uuid4().hex[:12]}"
    if request.param == "redis":
        url = request.getfixturevalue("valkey").url()
        store = Filled("redis", RedisConfig(url=SecretStr(url), prefix=name))
        fill(*store)
        yield store
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    store = Filled(request.param, PostgresConfig(dsn=SecretStr(postgres.dsn()), store_schema=name))
    fill(*store)
    yield store
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(name)))


@pytest.fixture
async def reader(filled: Filled) -> AsyncIterator[Reader]:
    async with reading(*filled) as reader:
        yield reader


globals().update({name: each for name, each in vars(test_governed_view).items() if name.startswith("test_")})


@settings(max_examples=10, phases=[Phase.explicit, Phase.generate])
@given(policy=POLICIES, limit=st.integers(3, 9))
@example(policy=OVERLAP, limit=2)
@example(policy=SCATTERED, limit=2)
def test_everything_agrees(filled: Filled, policy: Any, limit: int) -> None:
    async def ask() -> None:
        async with reading(*filled) as reader:
            await everything_agrees(reader, policy, limit)

    asyncio.run(ask())
