"""From a commit in Postgres to a reader of the store that sees it, through Kafka, at 0 to 50,000 changes a second.

The clock starts when the commit has returned, and stops when our `Reader` answers the row with the new value; it
asks again a third of a millisecond after each answer, as without that pause it would have one of two cores for itself.
The load updates other rows of the same table, a transaction each five milliseconds, from a process of its own. The peer
is Debezium on Kafka Connect into the same materialize, store and reader. The limit is the reader's own answer.

Before that, the same goes on for eight seconds at 1,000 changes a second, for each subject: a broker that has just
started compiles itself, and everything takes three times as long meanwhile (`--cold` leaves that out).

    python bench/commit_to_reader.py [--quick] [--without-peer] [--cold] [--commits N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
from measure import cpu_seconds, line, milliseconds, ratios

from headgate.app import App
from headgate.config import load
from headgate.errors import HeadgateError
from headgate.stack import Connect, Postgres, Stack
from headgate.stores.base import Reader

PROGRAM = Path(sys.executable).parent / "headgate"
ROWS, ROW = 20_000, 7
GIVE_UP_S, BEHIND_S = 180.0, 20.0
TICK_S = 0.005
ASK_AGAIN_S = 0.000_3
WARM_S = 2.0
WARM_UP_S, WARM_UP_RATE = 8.0, 1_000
_PAUSE = threading.Event()

TABLE = """
create table orders (
    id bigint primary key, customer_id bigint not null, status text not null, total numeric(10,2) not null,
    note text, placed_at timestamptz not null) with (fillfactor = 50);
insert into orders select n, n % 500, 'placed', n % 1000, 'leave it at the door', clock_timestamp()
from generate_series(1, 20000) n;
"""
UPDATE = """
update orders set status = case when status = 'paid' then 'packed' else 'paid' end, total = %(total)s
where id = any(%(ids)s)
"""


# --- the load, a process of its own ---


def run_load(dsn: str, rate: int) -> None:
    """Updates `rate` rows a second until standard input closes; then prints how many a second it was."""
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    dice = random.Random(1)
    done = 0
    with psycopg.connect(dsn, autocommit=True) as database:
        print("begun", flush=True)
        began = time.monotonic()
        while not ended.wait(max(0.0, TICK_S - (time.monotonic() - began) % TICK_S)):
            owed = min(int((time.monotonic() - began) * rate) - done, rate // 20)
            if owed > 0:
                ids = [dice.randrange(ROW + 1, ROWS) for _ in range(owed)]
                cursor = database.execute(UPDATE, {"total": dice.randrange(90_000), "ids": ids}, prepare=True)
                done += max(owed, cursor.rowcount)
    print(round(done / (time.monotonic() - began)))


@contextlib.contextmanager
def loading(dsn: str, rate: int) -> Iterator[list[int]]:
    """The load for the length of a block; afterwards, the rate that it reached."""
    reached: list[int] = [0]
    if not rate:
        yield reached
        return
    words = [sys.executable, __file__, "--load", dsn, str(rate)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _PAUSE.wait(WARM_S)
        try:
            yield reached
        finally:
            said, _ = process.communicate(timeout=30)
            reached[0] = int(said or 0)


# --- what is measured ---


class FellBehind(Exception):
    """A commit was not seen within `BEHIND_S`: so many changes beside it are too many."""


async def measure(reader: Reader, dsn: str, commits: int) -> tuple[list[float], list[float]]:
    """Seconds from commit to sight, and of single answers of the reader. FellBehind where that takes for ever."""
    dice = random.Random(7)
    seen, answers = [], []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as database:
        for number in range(commits):
            value = f"note {time.monotonic_ns()} {number}"
            await database.execute("update orders set note = %s where id = %s", [value, ROW])
            committed = time.perf_counter()
            while value not in await _row(reader):
                if time.perf_counter() - committed > BEHIND_S:
                    raise FellBehind
                _PAUSE.wait(ASK_AGAIN_S)  # not asyncio's, which sleeps whole milliseconds; nobody else is kept waiting
            seen.append(time.perf_counter() - committed)
            asked = time.perf_counter()
            await _row(reader)
            answers.append(time.perf_counter() - asked)
            await asyncio.sleep(dice.uniform(0.002, 0.02))  # no step with anyone's rhythm
    return seen, answers


async def warm_up(reader: Reader, dsn: str, seconds: float) -> None:
    """The same without looking at the clock, until servers and processes are as they will be for hours."""
    deadline = time.monotonic() + seconds
    with loading(dsn, WARM_UP_RATE if seconds else 0), contextlib.suppress(FellBehind):
        await measure(reader, dsn, 50 if seconds else 1)
        while time.monotonic() < deadline:
            await measure(reader, dsn, 10)


async def _row(reader: Reader) -> str:
    try:
        rows = (await reader.get("order", [str(ROW)])).rows
    except HeadgateError:
        return ""  # no snapshot has come through yet
    return rows[0].json.decode() if rows and rows[0] is not None else ""


async def _say(
    subject: str, config: Path, dsn: str, rates: Sequence[int], commits: int, pids: Sequence[int], warm_up_s: float
) -> list[dict[str, Any]]:
    with App(load(config)) as app:
        deadline = time.monotonic() + GIVE_UP_S
        while not await _row(app.reader):
            if time.monotonic() > deadline:
                raise SystemExit(f"{subject}: nothing ever came through")
            await asyncio.sleep(0.1)
        await warm_up(app.reader, dsn, warm_up_s)
        said = [await _at(subject, app.reader, dsn, rate, commits, pids) for rate in rates]
        await app.reader.close()
    return said


async def _at(subject: str, reader: Reader, dsn: str, rate: int, commits: int, pids: Sequence[int]) -> dict[str, Any]:
    began, used = time.monotonic(), sum(map(cpu_seconds, pids))
    with loading(dsn, rate) as reached:
        try:
            seen, answers = await measure(reader, dsn, commits)
        except FellBehind:
            return line(subject, rate=rate, fell_behind=True, load_average=round(os.getloadavg()[0], 2))
    cores = (sum(map(cpu_seconds, pids)) - used) / (time.monotonic() - began)
    line("limit: one answer of the reader", of=subject, rate=rate, commits=commits, **milliseconds(answers))
    return line(
        subject, rate=rate, reached=reached[0], commits=commits, **milliseconds(seen), cores=round(cores, 2),
        load_average=round(os.getloadavg()[0], 2),
    )  # fmt: skip


# --- the subjects ---


@contextlib.contextmanager
def processes(folder: Path, config: str, *halves: str) -> Iterator[list[int]]:
    """`headgate sync`, a process for each half."""
    (folder / "headgate.yaml").write_text(config)
    with contextlib.ExitStack() as stack:
        pids = []
        for half in halves:
            output = stack.enter_context((folder / f"{half}.txt").open("w+b"))
            words = [str(PROGRAM), "sync", *(["--half", half] if half != "both" else [])]
            process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=output)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            pids.append(process.pid)
        try:
            yield pids
        except BaseException:
            print(*[(folder / f"{half}.txt").read_text()[-1_500:] for half in halves], sep="\n", file=sys.stderr)
            raise


def config_of(servers: Stack, name: str, source: str) -> str:
    """One pipeline of one table."""
    return f"""\
data: data
state: cache
{servers.connections_yaml()}pipelines:
  {name}:
    source: {source}
    log: main
    store: cache
    partitions: 4
"""


def headgate(
    servers: Stack, folder: Path, dsn: str, rates: Sequence[int], commits: int, warm_up_s: float, *, split: bool
) -> list[dict[str, Any]]:
    """Ours, in one process or with a process for each half."""
    name = "split" if split else "joined"
    place = folder / name
    place.mkdir()
    text = config_of(servers, name, f'{{kind: postgres, dsn: "{dsn}", tables: [public.orders]}}')
    with processes(place, text, *(("capture", "materialize") if split else ("both",))) as pids:
        subject = "headgate, a process a half" if split else "headgate, one process"
        said = asyncio.run(_say(subject, place / "headgate.yaml", dsn, rates, commits, pids, warm_up_s))
    subprocess.run([PROGRAM, "detach"], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return said


def debezium(
    servers: Stack, folder: Path, dsn: str, rates: Sequence[int], commits: int, warm_up_s: float, poll_ms: int
) -> list[dict[str, Any]]:
    """Debezium's connector, with its default `poll.interval.ms` or a tuned one, into our materialize."""
    connect, postgres = servers.service("connect"), servers.service("postgres")
    assert isinstance(connect, Connect)
    assert isinstance(postgres, Postgres)
    name = f"peer{poll_ms}"
    place = folder / name
    place.mkdir()
    settings = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "127.0.0.1", "database.port": str(postgres.port), "database.user": "postgres",
        "database.password": "x", "database.dbname": "postgres", "topic.prefix": name, "plugin.name": "pgoutput",
        "slot.name": name, "slot.drop.on.stop": "true", "publication.name": name, "table.include.list": "public.orders",
        "publication.autocreate.mode": "filtered", "decimal.handling.mode": "string",
        "poll.interval.ms": str(poll_ms),
        "topic.creation.default.partitions": "4", "topic.creation.default.replication.factor": "1",
    }  # fmt: skip
    httpx.put(f"{connect.url}/connectors/{name}/config", json=settings, timeout=60).raise_for_status()
    running = connect.process
    assert running is not None
    source = f"{{kind: debezium, topic_prefix: {name}, tables: [public.orders], decimals: string}}"
    text = config_of(servers, name, source)
    try:
        with processes(place, text, "materialize") as pids:
            subject = f"debezium, poll.interval.ms={poll_ms}"
            pids = [running.pid, *pids]
            return asyncio.run(_say(subject, place / "headgate.yaml", dsn, rates, commits, pids, warm_up_s))
    finally:
        httpx.delete(f"{connect.url}/connectors/{name}", timeout=60)


def main() -> None:
    """Ours in both forms, and the peer in both settings."""
    if sys.argv[1:2] == ["--load"]:
        run_load(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--cold", action="store_true", help="at once, by servers that have just started")
    parser.add_argument("--commits", type=int, help="how many are looked at, at each rate")
    chosen = parser.parse_args()
    commits, rates = (60, [0, 1_000]) if chosen.quick else (500, [0, 1_000, 10_000, 50_000])
    commits = chosen.commits or commits
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o711)  # servers may run as another account
        names = ["kafka", "postgres", "valkey", *([] if chosen.without_peer else ["connect"])]
        servers = Stack(folder / "stack", names, progress=lambda said: print(said, file=sys.stderr))
        servers.up()
        try:
            _compare(
                servers, folder, rates, commits, peer=not chosen.without_peer, quick=chosen.quick, cold=chosen.cold
            )
        finally:
            servers.down(purge=True)


def _compare(
    servers: Stack, folder: Path, rates: list[int], commits: int, *, peer: bool, quick: bool, cold: bool
) -> None:
    warm_up_s = 0.0 if cold else WARM_UP_S
    postgres = servers.service("postgres")
    assert isinstance(postgres, Postgres)
    dsn = postgres.dsn()
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(TABLE.encode())
    ours = headgate(servers, folder, dsn, rates, commits, warm_up_s, split=True)
    if not quick:
        headgate(servers, folder, dsn, rates, commits, warm_up_s, split=False)
    if peer:
        tuned = debezium(servers, folder, dsn, rates[:3], commits, warm_up_s, 10)
        usual = debezium(servers, folder, dsn, rates[:1], max(1, commits // 5), warm_up_s, 500)
        _say_ratios(ours, {"tuned": tuned, "default": usual})


def _say_ratios(ours: list[dict[str, Any]], peers: dict[str, list[dict[str, Any]]]) -> None:
    """For each rate at which neither fell behind."""
    ratios(
        **{
            f"{name}_debezium_over_headgate_p50_at_{mine['rate']}": theirs["p50_ms"] / mine["p50_ms"]
            for name, said in peers.items()
            for mine, theirs in zip(ours, said, strict=False)
            if "p50_ms" in mine and "p50_ms" in theirs
        }
    )


if __name__ == "__main__":
    main()
