"""A writer that is killed with -9 leaves rows and position in step."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from headgate.stores.base import Query
from tests.contracts.stores.cases import Store, customer, keys, values
from tests.contracts.stores.crasher import ROWS

REPOSITORY = Path(__file__).parents[3]
DICE = random.Random(3)


async def test_rows_and_position_agree_after_each_kill(store: Store) -> None:
    store.feed().show(*(customer(key, number=0, balance=0, email=f"{key}-0") for key in range(ROWS)))
    reader = store.reader()
    for _ in range(4):
        reached = run_and_kill(store, steps=DICE.randint(5, 30))
        found = await reader.find("customer", Query(limit=ROWS * 2))
        offsets = {progress.offset for progress in found.watermark.partitions.values()}
        assert len(offsets) == 1
        offset = offsets.pop()
        assert offset >= reached
        rows = values(found.rows)
        assert len(rows) == ROWS
        assert {row["number"] for row in rows.values()} <= {offset}, "rows are those of the position"
        by_number = await reader.lookup("customer", "number", [offset], ROWS * 2)
        assert keys(by_number.rows) == sorted(rows)
        by_balance = await reader.find("customer", Query(equals={"balance": offset}, limit=ROWS * 2))
        assert keys(by_balance.rows) == sorted(rows)
        assert keys((await reader.lookup("customer", "email", [f"7-{offset}"], 2)).rows) == ["7"]


def run_and_kill(store: Store, steps: int) -> int:
    """Lets a writer process go for some steps, kills it, and answers the last step that it told of."""
    command = [sys.executable, "-m", "tests.contracts.stores.crasher"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            json.dump(told(store), process.stdin)
            process.stdin.close()
            lines = [process.stdout.readline() for _ in range(steps)]
        finally:
            process.kill()
        lines += process.stdout.read().splitlines()
    return max(int(line) for line in lines if line.strip().isdigit())


def told(store: Store) -> dict[str, Any]:
    """What the process needs to open the same store."""
    if store.kind == "sqlite":
        return {"kind": store.kind, "path": str(store.target)}
    if store.kind == "postgres":
        return {"kind": store.kind, "dsn": store.target.dsn.get_secret_value()}
    return {"kind": store.kind, "url": store.target.url.get_secret_value(), "prefix": store.target.prefix}
