"""From a commit in the source to a tool's answer that shows it: embedded, and Postgres → Kafka → Valkey.

The clock starts when the commit has returned. One client then calls `lookup_customer` until it sees the new
value, so a call's own time is the floor: it stands beside as `limit`. Debezium stands beside us in commit_to_reader.py,
which has the same way and a reader without a tool call.

    python bench/commit_to_agent.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measure import line, milliseconds, ratios

from headgate.demo import shop
from headgate.demo.simulator import Database, PostgresShop, Simulator, SqliteShop, open_shop
from headgate.stack import Postgres, Stack
from headgate.telemetry import wall_clock_ms

PROGRAM = Path(sys.executable).parent / "headgate"
ROW = 7
GIVE_UP_S = 30.0


class Agent:
    """Calls one tool over one connection, in the wire form of clients before 2026-07-28."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)

    def plan(self) -> str:
        """The plan of the one customer, as the tool answers it."""
        asked = {"name": "lookup_customer", "arguments": {"customer_id": ROW}}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked})
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2025-11-25",
        }
        self._connection.request("POST", "/mcp", body, headers)
        text = self._connection.getresponse().read().decode()
        found = re.search(r'"plan":\s*"([^"]*)"', text)
        return found.group(1) if found else ""


@contextlib.contextmanager
def serving(folder: Path, config: str) -> Iterator[str]:
    """`headgate run`, ready to answer."""
    (folder / "headgate.yaml").write_text(config)
    output = (folder / "run.txt").open("w+")
    process = subprocess.Popen([PROGRAM, "run", "--port", "0"], cwd=folder, stdout=output, stderr=output)
    try:
        yield _wait_until_ready(folder / "run.txt")
    finally:
        process.terminate()
        process.wait(30)
        output.close()


def _wait_until_ready(output: Path) -> str:
    pause = threading.Event()
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        found = re.search(r"serving MCP at (\S+)", output.read_text())
        if found and Agent(found.group(1)).plan():
            return found.group(1)
        pause.wait(0.1)
    raise SystemExit(f"headgate did not come up:\n{output.read_text()}")


def measure(connect: Callable[[], Database], url: str, commits: int, rate: int) -> tuple[list[float], list[float]]:
    """Seconds from commit to sight, and seconds of single calls, under a background load of `rate` changes/s."""
    stop = threading.Event()
    agent = Agent(url)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(contextlib.closing(connect()))
        if rate:
            busy = stack.enter_context(contextlib.closing(connect()))
            simulator = Simulator(busy, rate, random.Random(1), wall_clock_ms)
            load = threading.Thread(target=simulator.run, args=(stop,))
            stack.callback(load.join)
            stack.callback(stop.set)
            load.start()
        seen = [_one_commit(database, agent, number) for number in range(commits)]
        calls = [_one_call(agent) for _ in range(commits)]
    return seen, calls


def _one_commit(database: Database, agent: Agent, number: int) -> float:
    value = f"plan-{time.monotonic_ns()}-{number}"
    database.run([("update customers set plan = ? where id = ?", (value, ROW))])
    committed = time.perf_counter()
    while agent.plan() != value:
        if time.perf_counter() - committed > GIVE_UP_S:
            raise SystemExit("a commit was never seen")
    return time.perf_counter() - committed


def _one_call(agent: Agent) -> float:
    began = time.perf_counter()
    agent.plan()
    return time.perf_counter() - began


def embedded(folder: Path, commits: int, rates: list[int]) -> list[dict[str, Any]]:
    """SQLite all the way."""
    folder.mkdir()

    def connect() -> Database:
        return SqliteShop(folder / "shop.db")

    _open(connect, "sqlite")
    config = shop.config(f'{{kind: sqlite, path: "{folder / "shop.db"}"}}', "main")
    with serving(folder, config) as url:
        return [_say("headgate embedded", connect, url, commits, rate) for rate in rates]


def on_servers(folder: Path, commits: int, rates: list[int]) -> list[dict[str, Any]]:
    """Postgres → Kafka → Valkey, all on this machine."""
    folder.mkdir()
    servers = Stack(folder / "stack", progress=lambda said: print(said, file=sys.stderr))
    servers.up()
    try:
        postgres = servers.service("postgres")
        assert isinstance(postgres, Postgres)
        dsn = postgres.dsn()

        def connect() -> Database:
            return PostgresShop(dsn)

        _open(connect, "postgres")
        places = "    log: main\n    store: cache\n"
        source = f'{{kind: postgres, dsn: "{dsn}"}}'
        with serving(folder, shop.config(source, "public", servers.connections_yaml(), places)) as url:
            return [_say("headgate servers", connect, url, commits, rate) for rate in rates]
    finally:
        servers.down(purge=True)


def _open(connect: Callable[[], Database], dialect: shop.Dialect) -> None:
    with contextlib.closing(connect()) as database:
        open_shop(database, dialect, random.Random(7), wall_clock_ms)


def _say(subject: str, connect: Callable[[], Database], url: str, commits: int, rate: int) -> dict[str, Any]:
    seen, calls = measure(connect, url, commits, rate)
    line("limit: one call", of=subject, rate=rate, commits=commits, **milliseconds(calls))
    return line(subject, rate=rate, commits=commits, **milliseconds(seen))


def main() -> None:
    """Both subjects, idle and under load."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    quick = parser.parse_args().quick
    commits, rates = (50, [0]) if quick else (300, [0, 1_000])
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        Path(scratch).chmod(0o711)  # servers may run as another account
        small = embedded(Path(scratch) / "embedded", commits, rates)
        large = on_servers(Path(scratch) / "servers", commits, rates)
    ratios(embedded_over_servers_p50=small[0]["p50_ms"] / large[0]["p50_ms"])


if __name__ == "__main__":
    main()
