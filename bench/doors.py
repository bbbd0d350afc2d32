"""Calls a second through the door, governed and recorded, beside what others answer ungoverned: one core for each.

Each server keeps to one core; the load, Valkey and all else have the other. In one run, in turns:

- `limit`: a bare ASGI echo on the uvicorn that Headgate runs on
- `sdk echo`, `fastmcp echo`: the official SDK's low-level server and FastMCP's, which send a text back
- `toolbox`: Google's MCP Toolbox (Go), one GET of Redis, by keys of the same rows; no governance
- `headgate`: `lookup_customer`, everything on (see doors_house.py), its express lane on and off

Then where the time of one of its calls goes, and that its record holds an event for each answer, in a whole chain.

    python bench/doors.py [--quick] [--rows 10000000]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import redis
from doors_house import CALLERS, EVENT_BYTES, EXPRESS, House, Served, fsync_ms, has_express
from doors_load import ERAS, Ask, Taken, Wrong, ask_once, cores, load, on_core
from doors_parts import print_parts
from doors_peers import Echo, Missing, Toolbox
from measure import cpu_seconds, line, milliseconds, ratios

from headgate.stack import Valkey

CONNECTIONS = (1, 16, 64)
KEYS = 20_000
WARM_TRIES = 5
Said = dict[tuple[str, str, int], float]


class Server(Protocol):
    """What is measured."""

    process: subprocess.Popen[str]
    port: int

    def asks(self, era: str) -> Iterator[Ask]: ...

    def stop(self) -> None: ...


class Effort(NamedTuple):
    """How much is done."""

    rows: int
    rounds: int
    seconds: float
    warm_s: float
    parts_s: float
    """How long it is looked at where the time of a call goes, for each lane."""


WHOLE = Effort(1_000_000, 5, 2.0, 2.0, 15.0)
QUICK = Effort(100_000, 2, 0.2, 0.2, 1.5)


class Gate(Served):
    """Headgate, as one of the servers. It counts its answers, so that the record can be held against them."""

    def __init__(self, house: House, core: int, express: str) -> None:
        super().__init__(house, [core], express)
        self._house = house

    def asks(self, era: str) -> Iterator[Ask]:
        """Governed look-ups."""
        return self._house.asks(self.port, era)


class Subject:
    """One server by one protocol revision, and what came of it so far by number of connections."""

    def __init__(self, name: str, server: Server, era: str, **said: Any) -> None:
        self.name = name
        self.server = server
        self.era = era
        self._said = said
        self._asks = server.asks(era)
        self._taken: dict[int, list[tuple[Taken, float]]] = {number: [] for number in CONNECTIONS}
        self.answers = 0

    def warm(self, seconds: float) -> None:
        """Until every caller has called, where that is within reach. Wrong when it does not answer as it should."""
        ask_once(self.server.port, next(self._asks))
        self.answers += 1
        for _ in range(WARM_TRIES):
            self.answers += len(load(self.server.port, self._asks, 16, seconds).took)
            if self.answers > CALLERS:
                break

    def measure(self, connections: int, seconds: float) -> None:
        """One round. What it takes to be awake again, after the others' turns, is not counted."""
        self.answers += len(load(self.server.port, self._asks, connections, seconds / 4).took)
        before = cpu_seconds(self.server.process.pid)
        taken = load(self.server.port, self._asks, connections, seconds)
        self._taken[connections].append((taken, cpu_seconds(self.server.process.pid) - before))
        self.answers += len(taken.took)

    def print_lines(self) -> Said:
        """A line for each number of connections: medians over the rounds. Answers the rates."""
        rates = {}
        for number, rounds in self._taken.items():
            rate = statistics.median(len(taken.took) / taken.seconds for taken, _ in rounds)
            latencies = [milliseconds(taken.took) for taken, _ in rounds]
            line(
                self.name,
                **self._said,
                era=self.era,
                connections=number,
                calls_per_s=round(rate),
                **{name: round(statistics.median(each[name] for each in latencies), 3) for name in latencies[0]},
                cpu_us=round(statistics.median(cpu / len(taken.took) * 1e6 for taken, cpu in rounds), 1),
                load_busy=round(statistics.median(taken.busy for taken, _ in rounds), 2),
            )
            rates[self._key(number)] = rate
        return rates

    def _key(self, connections: int) -> tuple[str, str, int]:
        express = self._said.get("express")
        return f"{self.name}_express_{express}" if express else self.name, self.era, connections


# --- the servers ---------------------------------------------------------------------------------


def peers(stack: contextlib.ExitStack, folder: Path, core: int, valkey: Valkey, house: House) -> list[Subject]:
    """Those that can be had here; of the others a line says why not."""
    makers: dict[str, Callable[[], Echo | Toolbox]] = {
        "limit": lambda: Echo("bare", core),
        "sdk echo": lambda: Echo("sdk", core),
        "fastmcp echo": lambda: Echo("fastmcp", core),
        "toolbox": lambda: Toolbox(folder, core, valkey.url(), stored_rows(valkey, house.rows)),
    }
    found = []
    for name, make in makers.items():
        try:
            server = make()
        except Missing as error:
            line(name, missing=str(error))
            continue
        stack.callback(server.stop)
        found += [Subject(name, server, era, version=server.version) for era in ERAS]
    return found


def gates(stack: contextlib.ExitStack, house: House, core: int) -> list[Subject]:
    """Headgate with its lane on and off, each a process; as it is where there is no lane."""
    found = []
    for express in EXPRESS if has_express() else ("",):
        gate = Gate(house, core, express)
        stack.callback(gate.stop)
        for era in ERAS:
            house.check_mask(gate.port, era)
            found.append(Subject("headgate", gate, era, **({"express": express} if express else {})))
            found[-1].answers += 1
    return found


def stored_rows(valkey: Valkey, rows: int) -> list[tuple[str, str]]:
    """Keys of rows in Valkey, each with what its row alone holds."""
    client: Any = redis.Redis.from_url(valkey.url(), decode_responses=True)
    with contextlib.closing(client):
        start = next(key for key in client.scan_iter(match="*:r:customer:*", count=1_000)).rpartition(":")[0]
    chosen = random.Random(1)
    return [(f"{start}:{number}", f"Customer-{number}-") for number in (chosen.randint(1, rows) for _ in range(KEYS))]


# --- the run -------------------------------------------------------------------------------------


def measure(subjects: list[Subject], effort: Effort) -> Said:
    """All of them in turns, so that what else the machine does falls on all of them."""
    running = [subject for subject in subjects if is_right(subject, effort.warm_s)]
    for _ in range(effort.rounds):
        for subject in running:
            for number in CONNECTIONS:
                subject.measure(number, effort.seconds)
    said: Said = {}
    for subject in running:
        said |= subject.print_lines()
    return said


def is_right(subject: Subject, seconds: float) -> bool:
    """Whether a server answers calls of its revision. A peer may not; Headgate must."""
    try:
        subject.warm(seconds)
    except Wrong as error:
        if subject.name == "headgate":
            raise
        line(subject.name, era=subject.era, missing=str(error)[-300:])
        return False
    return True


def one_call(valkey: Valkey, folder: Path, seconds: float) -> dict[str, float]:
    """What nothing that reads a row and records that it did is faster than, on one connection."""
    took = []
    name, _ = stored_rows(valkey, 1)[0]
    asked = f"GET {name}\r\n".encode()
    with (folder / "limit").open("wb") as file, socket.create_connection(("127.0.0.1", valkey.port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            link.sendall(asked)
            link.recv(4_096)
            file.write(b"e" * EVENT_BYTES)
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return milliseconds(took)


def against(said: Said) -> dict[str, float]:
    """Ours over each peer, of the same revision and number of connections."""
    return {
        f"{name}_over_{peer}_{era}_at_{number}".replace(" ", "_"): rate / said[peer, era, number]
        for (name, era, number), rate in said.items()
        if name.startswith("headgate")
        for peer in ("limit", "sdk echo", "fastmcp echo", "toolbox")
        if (peer, era, number) in said
    }


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    parser.add_argument("--rows", type=int, help="how many rows the store holds")
    parser.add_argument("--only", choices=("headgate", "parts"), help="without the peers; or where the time goes alone")
    options = parser.parse_args()
    effort = QUICK if options.quick else WHOLE
    effort = effort._replace(rows=options.rows or effort.rows)
    server, other = cores()
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch, on_core(other):
        Path(scratch).chmod(0o711)  # Valkey may run as another account
        with contextlib.ExitStack() as stack:
            run(stack, Path(scratch), server, effort, options.only or "")


def run(stack: contextlib.ExitStack, folder: Path, core: int, effort: Effort, only: str) -> None:
    """One run in one folder."""
    valkey = Valkey(folder / "valkey", progress=lambda said: print(said, file=sys.stderr))
    valkey.start()
    stack.callback(valkey.stop)
    (folder / "house").mkdir()
    house = House(folder / "house", valkey.url(), effort.rows)
    took = house.fill()
    line(
        "conditions",
        rows=effort.rows,
        filled_in_s=round(took, 1),
        rounds=effort.rounds,
        seconds=effort.seconds,
        cores=len(os.sched_getaffinity(0) | {core}),
        load=os.getloadavg()[0],
        fsync_ms=fsync_ms(folder / "house", min(0.5, effort.seconds)),
    )
    with on_core(core):
        line("limit of one call", of="a GET of Valkey, then an fdatasync", **one_call(valkey, folder, effort.seconds))
    said: Said = {}
    answers = 0
    if only != "parts":
        with contextlib.ExitStack() as servers:
            mine = gates(servers, house, core)
            others = [] if only else peers(servers, folder, core, valkey, house)
            said = measure([*others, *mine], effort)
            answers += sum(subject.answers for subject in mine)
    if only != "headgate":
        answers += print_parts(house, core, effort.parts_s)
    line("record", **house.verify(answers))
    ratios(**against(said))


if __name__ == "__main__":
    main()
