"""A writer process for the crash test (`python -m tests.contracts.stores.crasher`); standard input says where, as JSON.

Each step adds one to every row of both partitions; the offset counts the steps. A line is printed after each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config
from tests.contracts.stores.cases import CUSTOMER, Feed, Store, customer

ROWS = 40


def main() -> None:
    told = json.load(sys.stdin)
    feed = Feed(Store(told["kind"], target_of(told)).writer(CUSTOMER), CUSTOMER)
    while True:
        step = feed.progress[0].offset + 1
        feed.put(*(customer(key, number=step, balance=step, email=f"{key}-{step}") for key in range(ROWS)))
        print(step, flush=True)


def target_of(told: dict[str, Any]) -> Any:
    """The target of a store, from another process."""
    if told["kind"] == "sqlite":
        return Path(told["path"])
    if told["kind"] == "postgres":
        return PostgresConfig(dsn=told["dsn"])
    return Config(url=told["url"], prefix=told["prefix"])


if __name__ == "__main__":
    main()
