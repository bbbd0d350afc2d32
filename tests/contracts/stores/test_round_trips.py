"""How often a tool that includes relations asks the server, as the server itself counts it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config
from headgate.stores.base import Reader
from headgate.stores.postgres.reader import PostgresReader
from headgate.stores.postgres.sessions import Sessions
from headgate.testing import view_of
from headgate.tools import lookup
from headgate.tools.base import Result
from tests.contracts.stores.cases import Store
from tests.contracts.stores.selling import ENTITIES, buy, buyer, open_till

DONE = "the test is done"


@contextmanager
def monitored(target: Config) -> Iterator[list[str]]:
    """What clients send to a Redis for the length of a block; the server's own MONITOR tells. What scripts call is no
    round trip, and left out."""
    sent: list[str] = []
    client: Any = target.connect()
    with closing(client), closing(target.connect()) as other:
        other.ping()  # it must not connect while the server is watched
        with client.monitor() as monitor:
            thread = threading.Thread(target=_listen, args=(monitor, sent))
            thread.start()
            try:
                yield sent
            finally:
                other.echo(DONE)
                thread.join()


def _listen(monitor: Any, sent: list[str]) -> None:
    for told in monitor.listen():
        if DONE in told["command"]:
            return
        if told["client_type"] != "lua":
            sent.append(told["command"])


async def fill_and_warm(store: Store) -> Reader:
    tills = open_till(store)
    tills["buyer"].put(*(buyer(n, plan="vip", boss=1, code=f"c{n}", favourite="b1") for n in range(30)))
    tills["buy"].put(*(buy(f"b{n}", n % 30, code=f"c{n % 30}", placed=f"{n:03d}") for n in range(300)))
    reader = store.reader()
    await reader.entities()
    await reader.get("buyer", ["1"])
    return reader


async def look_up(reader: Reader, **how: Any) -> Result:
    arguments = {"entity": "buyer", "include": ["latest", "coded", "boss", "favourite"], **how}
    return await lookup.tools({entity.name: entity for entity in ENTITIES})[0].run(view_of(reader), arguments)


@pytest.fixture
async def on_redis(redis_url: str) -> AsyncIterator[Store]:
    store = Store("redis", Config(url=SecretStr(redis_url)))
    yield store
    await store.close()


@pytest.fixture
async def on_postgres(database: str) -> AsyncIterator[Store]:
    store = Store("postgres", PostgresConfig(dsn=SecretStr(database)))
    yield store
    await store.close()


@pytest.mark.parametrize(("how", "rows"), [({"key": 7}, 1), ({"by": {"plan": "vip"}}, 30)])
async def test_redis_is_asked_once_whatever_is_included(on_redis: Store, how: dict[str, Any], rows: int) -> None:
    reader = await fill_and_warm(on_redis)
    await look_up(reader, **how)  # the server now knows the script
    await reader.entities()
    with monitored(on_redis.target) as sent:
        result = await look_up(reader, **how)
    found = result.structured["rows"]
    assert len(found) == rows
    assert [row["values"]["placed"] for row in found[-1]["related"]["latest"]["rows"]][:2] >= ["270", "240"]
    assert all(len(row["related"]["latest"]["rows"]) == 10 for row in found)
    scripts = [command for command in sent if command.startswith("EVALSHA")]
    catalogs = [command for command in scripts if "definitions" in command]
    assert len(scripts) - len(catalogs) == 1, sent
    assert len(catalogs) <= 1, "what there is may be asked for once a second"
    assert len(sent) == len(scripts), sent


@pytest.mark.parametrize(("how", "rows"), [({"key": 7}, 1), ({"by": {"plan": "vip"}}, 30)])
async def test_postgres_is_asked_once_whatever_is_included(
    on_postgres: Store, tmp_path: Path, how: dict[str, Any], rows: int
) -> None:
    """libpq's own trace tells what goes over the wire: each Sync ends what is sent together, and waits."""
    sessions = Sessions(on_postgres.target, most=1)
    reader = PostgresReader(sessions)
    await fill_and_warm(on_postgres)
    await look_up(reader, **how)
    (session,) = sessions._idle
    with (tmp_path / "trace").open("w+") as trace:
        session.pgconn.trace(trace.fileno())
        result = await look_up(reader, **how)
        session.pgconn.untrace()
        trace.seek(0)
        sent = [line.split("\t") for line in trace.read().splitlines()]
    await reader.close()
    assert len(result.structured["rows"]) == rows
    syncs = [line for line in sent if "Sync" in line]
    catalogs = [line for line in sent if "Parse" in line and any("from definitions" in part for part in line)]
    assert len(syncs) - len(catalogs) == 1, sent
