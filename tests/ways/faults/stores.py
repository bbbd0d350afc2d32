"""The stores that a state machine runs on, each empty at the start of an example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import redis
from pydantic import SecretStr

from headgate.connections.redis import Config as RedisConfig
from headgate.stores import redis as redis_store
from headgate.stores import sqlite as sqlite_store
from headgate.stores.base import Reader, Writer


class Store(NamedTuple):
    """A store that is empty at the start of each example."""

    empty: Callable[[Path], None]
    writer: Callable[[Path, Any], Writer]
    reader: Callable[[Path], Reader]


def on_sqlite() -> Store:
    """In the example's folder."""
    return Store(
        empty=lambda folder: None,
        writer=lambda folder, entities: sqlite_store.open_writer(folder / "store.db", entities),
        reader=lambda folder: sqlite_store.open_reader(folder / "store.db"),
    )


def on_redis(url: str) -> Store:
    """In one database of a server."""

    def empty(folder: Path) -> None:
        with redis.Redis.from_url(url) as client:
            client.flushdb()

    target = RedisConfig(url=SecretStr(url))
    return Store(
        empty=empty,
        writer=lambda folder, entities: redis_store.open_writer(target, entities),
        reader=lambda folder: redis_store.open_reader(target),
    )
