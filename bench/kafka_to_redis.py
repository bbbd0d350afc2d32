"""Kafka to Redis, exactly once: changes a second of `headgate sync`, with an index to keep and without.

Kafka, Valkey and everything else share this machine. A SQLite table is captured for real; then the topic is filled
with changes while nobody reads, and `headgate sync` (both halves, as its users run it) works them off. The store's
own positions are the clock: the first fifth warms up, the rest counts. After each run the store is compared with the
table: rows, keys, counts and every entry of the lookup; a figure of a wrong result is none.

    python bench/kafka_to_redis.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, TopicPartition
from kafka_to_redis_load import MOVED, Accounts, produce
from measure import cpu_seconds, line, ratios

from headgate.connections.redis import Config
from headgate.model.position import Progress
from headgate.model.row import decode_row
from headgate.stack import Kafka, Stack, Valkey
from headgate.stores._catalog import Pointer
from headgate.stores.redis.keys import Keys, SpaceKeys

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).parent / "headgate"
ENTITY = "account"
GIVE_UP_S = 600.0
WARM = 0.2
_names = itertools.count(1)
_pause = threading.Event()
"""Never set: what another process does can only be asked for again."""


class Servers:
    """The servers of all runs."""

    def __init__(self, stack: Stack) -> None:
        kafka, valkey = stack.service("kafka"), stack.service("valkey")
        assert isinstance(kafka, Kafka)
        assert isinstance(valkey, Valkey)
        self.kafka, self.valkey = kafka, valkey
        self.connections = stack.connections_yaml()

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU used so far by each."""
        return {"kafka_cpu_us": _cpu_of(self.kafka), "valkey_cpu_us": _cpu_of(self.valkey)}


class Run:
    """One pipeline from its table to its store."""

    def __init__(self, folder: Path, servers: Servers, *, rows: int, partitions: int, lookups: Sequence[str]) -> None:
        self.name = f"bench{next(_names)}"
        self.servers = servers
        self.lookups = lookups
        self.partitions = partitions
        self.accounts = Accounts(rows, seed=partitions)
        self._folder = folder / self.name
        self._folder.mkdir()
        self._store = redis.Redis.from_url(servers.valkey.url())
        self._store.flushall()
        self.accounts.create(self._folder / "source.db")
        (self._folder / "headgate.yaml").write_text(self._config())
        with self.syncing():
            _until(self._is_whole)
        self.changes = 0

    def _config(self) -> str:
        return f"""\
data: data
server: {{port: 0}}
access: {{local: true}}
{self.servers.connections}pipelines:
  {self.name}:
    source: {{kind: sqlite, path: "{self._folder / "source.db"}"}}
    log: main
    store: cache
    partitions: {self.partitions}
entities:
  {ENTITY}:
    from: {self.name}.main.accounts
    lookups: {json.dumps(list(self.lookups))}
"""

    def fill(self, changes: int) -> dict[str, Any]:
        """Fills the topic. Answers the conditions."""
        size = produce(self.servers.kafka.bootstrap_servers, self.name, self.accounts, changes)
        self.changes += changes
        return {
            "changes": self.changes,
            "rows": len(self.accounts.stored),
            "value_bytes": size // changes,
            "partitions": self.partitions,
            "lookups": len(self.lookups),
            **({"moved": MOVED} if self.lookups else {}),
        }

    @property
    def topic(self) -> str:
        """The table's topic."""
        return f"{self.name}.main.accounts"

    @contextlib.contextmanager
    def syncing(self, processes: int = 1) -> Iterator[list[int]]:
        """`headgate sync`, so many times. Answers their pids."""
        running = []
        with (self._folder / "sync.txt").open("ab") as output:
            try:
                for _ in range(processes):
                    command = [str(PROGRAM), "sync"]
                    running.append(subprocess.Popen(command, cwd=self._folder, stdout=output, stderr=output))
                yield [process.pid for process in running]
            except BaseException:
                print((self._folder / "sync.txt").read_text()[-4_000:], file=sys.stderr)
                raise
            finally:
                for process in running:
                    process.terminate()
                for process in running:
                    process.wait(60)

    # --- what the store says ---

    def _keys(self) -> Keys:
        return Keys(Config.model_validate({"url": self.servers.valkey.url()}).prefix)

    def _pointer(self) -> Pointer | None:
        found: Any = self._store.get(self._keys().pointer(ENTITY))
        return Pointer.parse(found.decode()) if found else None

    def _is_whole(self) -> bool:
        """Whether the snapshot is seen, and capture follows the changes behind it."""
        return self._pointer() is not None and all(one.as_of_ms for one in self._progress())

    def _progress(self) -> list[Progress]:
        pointer = self._pointer()
        assert pointer is not None
        places = self._keys().progress(ENTITY, pointer.space.build, range(pointer.partitions))
        found: Any = self._store.mget(places)
        return [msgspec.json.decode(packed, type=Progress) for packed in found]

    def offsets(self) -> int:
        """The sum of all positions."""
        return sum(one.offset for one in self._progress())

    def end(self) -> int:
        """The sum of all positions when everything is applied."""
        consumer = Consumer({"bootstrap.servers": self.servers.kafka.bootstrap_servers, "group.id": "bench"})
        with contextlib.closing(consumer):
            places = [TopicPartition(self.topic, number) for number in range(self.partitions)]
            return sum(consumer.get_watermark_offsets(place, 30)[1] for place in places)

    def verify(self) -> None:
        """Compares the store with the table, to the last index entry."""
        pointer, stored = self._pointer(), self.accounts.stored
        assert pointer is not None
        space = self._keys().space(ENTITY, pointer.space)
        self._verify_rows(space)
        counts: Any = self._store.hgetall(space.counts)
        assert sum(map(int, counts.values())) == len(stored), "the counts are wrong"
        if self.lookups:
            self._verify_lookups(space)

    def _verify_rows(self, space: SpaceKeys) -> None:
        stored = self.accounts.stored
        found: Any = self._store.zrange(space.keys, 0, -1)
        members = [member.decode() for member in found]
        assert set(members) == stored.keys(), f"{len(members)} keys are there, not {len(stored)}"
        for start in range(0, len(members), 1_000):
            keys = members[start : start + 1_000]
            packed: Any = self._store.mget([space.row(key) for key in keys])
            rows = [decode_row(key, one) for key, one in zip(keys, packed, strict=True)]
            assert all(row.json == stored[row.key] and not row.flaw for row in rows), "a row is another one"
        rows_kept = sum(1 for _ in self._store.scan_iter(match=_escaped(space.rows) + b"*", count=10_000))
        assert rows_kept == len(stored), "a row is there that no key names"

    def _verify_lookups(self, space: SpaceKeys) -> None:
        wanted = {
            (msgspec.json.decode(row)["email"].encode(), key.encode()) for key, row in self.accounts.stored.items()
        }
        start = space.equal("email", b"")
        sets = list(self._store.scan_iter(match=_escaped(start) + b"*", count=10_000))
        found = set()
        for place in range(0, len(sets), 1_000):
            names = sets[place : place + 1_000]
            asked = self._store.pipeline(transaction=False)
            for name in names:
                asked.zrange(name, 0, -1)
            for name, members in zip(names, asked.execute(), strict=True):
                value = name[len(start) :].removeprefix(b"s")
                found |= {(value, member) for member in members}
        assert found == wanted, f"{len(found ^ wanted)} entries of the lookup are wrong"


# --- the subjects ---


def headgate(run: Run, changes: int, processes: int = 1, subject: str = "headgate", **said: Any) -> dict[str, Any]:
    """Works off a full topic, and is verified."""
    conditions = run.fill(changes)
    with run.syncing(processes) as pids:
        measured = watch(run, pids, changes)
    run.verify()
    return line(subject, processes=processes, **conditions, **measured, verified=True, **said)


def watch(run: Run, pids: list[int], changes: int) -> dict[str, Any]:
    """Rate, CPU and memory from a fifth of the way to its end."""
    begin, end = run.offsets(), run.end()
    records = end - begin
    _until(lambda: run.offsets() >= begin + records * WARM)
    first, at, used = run.offsets(), time.perf_counter(), _used(run, pids)
    resident = [_rss_mib(pids)]
    while run.offsets() < end:
        _pause.wait(0.02)
        resident.append(_rss_mib(pids))
        if time.perf_counter() - at > GIVE_UP_S:
            raise SystemExit("the changes were never worked off")
    seconds = time.perf_counter() - at
    counted = (end - first) * changes / records
    spent = {name: round((after - used[name]) * 1e6 / counted, 2) for name, after in _used(run, pids).items()}
    tenths = [resident[len(resident) * tenth // 10] for tenth in range(10)]
    return {
        "changes_per_s": round(counted / seconds),
        **spent,
        "rss_mib": max(resident),
        "rss_mib_by_tenths": tenths,
        "load": os.getloadavg()[0],
    }


def peer(subject: str, *words: str, **conditions: Any) -> dict[str, Any]:
    """One of the subjects of kafka_to_redis_peers.py."""
    command = [sys.executable, str(HERE / "kafka_to_redis_peers.py"), *words]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return line(subject, **conditions, **json.loads(said))


def limit_set(servers: Servers, keys: int, changes: int, size: int) -> dict[str, Any]:
    """redis-benchmark where it is installed, else a loop of our own that packs nothing while it runs."""
    url, conditions = servers.valkey.url(), {"pipeline": 500, "bytes": size}
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        return peer("limit: SET", "set", url, str(keys), str(changes), str(size), of="our loop", **conditions)
    command = [program, "-u", url, "-t", "set", "-P", "500", "-c", "1", "--csv"]
    command += ["-n", str(changes), "-d", str(size), "-r", str(keys)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = float(said.splitlines()[-1].split(",")[1].strip('"'))
    return line("limit: SET", of="redis-benchmark", **conditions, changes_per_s=round(rate))


def _used(run: Run, pids: list[int]) -> dict[str, float]:
    return {"cpu_us": sum(map(cpu_seconds, pids)), **run.servers.cpu()}


def _cpu_of(server: Kafka | Valkey) -> float:
    process = server.process
    assert process is not None
    return cpu_seconds(process.pid)


def _rss_mib(pids: list[int]) -> int:
    """Of the largest of these processes."""
    page = os.sysconf("SC_PAGE_SIZE")
    return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page >> 20 for pid in pids)


def _escaped(name: bytes) -> bytes:
    return name.replace(b"[", b"\\[").replace(b"*", b"\\*").replace(b"?", b"\\?")


def _until(ask: Any) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not ask():
        if time.monotonic() > deadline:
            raise SystemExit("waited in vain")
        _pause.wait(0.02)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    parser.add_argument("--only", action="append", help="these subjects alone: lookup, plain, growth, memory, limits")
    parsed = parser.parse_args()
    only, quick = set(parsed.only or ()), parsed.quick
    rows, changes = (50_000, 300_000) if quick else (100_000, 2_000_000)
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        Path(scratch).chmod(0o711)  # servers may run as another account
        folder = Path(scratch)
        stack = Stack(folder / "stack", ["kafka", "valkey"], progress=lambda said: print(said, file=sys.stderr))
        stack.up()
        try:
            measure(folder, Servers(stack), rows, changes, only, quick=quick)
        finally:
            stack.down(purge=True)


def measure(folder: Path, servers: Servers, rows: int, changes: int, only: set[str], *, quick: bool) -> None:
    """Every subject that is asked for."""
    found: dict[str, dict[str, Any]] = {}

    def new(partitions: int, *lookups: str) -> Run:
        return Run(folder, servers, rows=rows, partitions=partitions, lookups=lookups)

    if not only or "lookup" in only:
        found["lookup"] = headgate(new(1, "email"), changes)
    if not only or "plain" in only or "limits" in only:
        run = new(1)
        found["plain"] = headgate(run, changes)
        if not only or "limits" in only:
            conditions = {"value_bytes": found["plain"]["value_bytes"]}
            bootstrap, records = servers.kafka.bootstrap_servers, str(run.end())
            found["consume"] = peer("limit: consume loop", "consume", bootstrap, run.topic, records, **conditions)
            found["set"] = limit_set(servers, rows, changes, 160)
            words = ("redis-py", bootstrap, run.topic, records, servers.valkey.url())
            found["peer"] = peer("redis-py consumer", *words, **conditions)
    if (not only and not quick) or "growth" in only:
        for partitions, processes in ((4, 1), (4, 2)):
            name = f"lookup_{partitions}x{processes}"
            found[name] = headgate(new(partitions, "email"), changes, processes)
    if (not only and not quick) or "memory" in only:
        found["memory"] = headgate(new(4, "email"), 5 * changes, subject="headgate: memory")
    against = [name for name in ("consume", "set", "peer") if name in found]
    ratios(**{f"{ours}_over_{name}": found[ours]["changes_per_s"] / found[name]["changes_per_s"]
              for ours in ("lookup", "plain") if ours in found for name in against})  # fmt: skip


if __name__ == "__main__":
    main()
