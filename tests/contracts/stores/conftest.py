"""A store of every kind, empty, on its real server."""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headgate import plugins
from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config
from headgate.stack import Valkey
from tests.contracts.stores.cases import Store
from tests.services import started

_REDIS_SERVER = shutil.which("redis-server")
SERVERS = [*plugins.kinds("stores"), *(["redis-server"] if _REDIS_SERVER else [])]
_names = itertools.count()


@pytest.fixture(scope="session")
def redis_server(services_folder: Path) -> Iterator[Valkey]:
    """The Redis that is installed on this machine."""
    assert _REDIS_SERVER is not None
    with started(Valkey(services_folder / "redis-server", binary=Path(_REDIS_SERVER))) as server:
        yield server


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any]:
    """A kind of store and an empty target of it."""
    if request.param == "sqlite":
        return "sqlite", tmp_path / "store" / "store.db"
    if request.param == "postgres":
        return "postgres", PostgresConfig(dsn=SecretStr(request.getfixturevalue("database")))
    server = "redis_server" if request.param == "redis-server" else "valkey"
    url = request.getfixturevalue(server).url()
    return "redis", Config(url=SecretStr(url), prefix=f"t{uuid.uuid4().hex[:12]}")


@pytest.fixture
async def store(place: tuple[str, Any]) -> AsyncIterator[Store]:
    """An empty store; whatever was opened on it is closed at the end."""
    store = Store(*place)
    yield store
    await store.close()
