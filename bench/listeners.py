"""Live push: notices a second to 1,000 listeners, and what 1,000 idle ones cost in memory, beside the SDK's own bus.

Each listener is another caller's `subscriptions/listen` over HTTP, for the same rows. A commit at the source changes
all of these rows; `headgate sync` captures and materializes it, and `headgate serve`, alone on its core, hears of it
through Valkey, looks at each row once as its callers see it, and tells all. The next commit comes when all have heard
of the last, so that every notice counts and none is conflated. `sdk bus` is the SDK's server with its bus in memory,
told of as many resources by a tool call: no source, no row, no rule.

    python bench/listeners.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import select
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from doors_house import PROGRAM, House, Served
from doors_load import ERAS, call, cores, on_core, post
from doors_peers import Echo
from measure import cpu_seconds, line, ratios, rss_mib

from headgate.stack import Valkey

LISTENERS = 1_000
ROWS = 50
"""How many rows each of them listens to, and each commit changes."""
GIVE_UP_S = 120.0
_ACKNOWLEDGED = b"subscriptions/acknowledged"
_UPDATED = b"notifications/resources/updated"


class Burst(NamedTuple):
    """How long it took from the change to the first notice, and from there to the last one; and the server's CPU."""

    first_s: float
    rest_s: float
    cpu_s: float


class Ears:
    """All the listeners, on one thread."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._tails: dict[int, bytes] = {}
        for request in requests:
            link = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S)
            link.sendall(request)
            self._sockets[link.fileno()] = link
            self._tails[link.fileno()] = b""
            self._poll.register(link.fileno(), select.EPOLLIN)
        self._hear(_ACKNOWLEDGED, len(requests))

    def hear(self, notices: int) -> tuple[float, float]:
        """When the first and the last of so many notices came."""
        return self._hear(_UPDATED, notices)

    def close(self) -> None:
        """All of them leave."""
        self._poll.close()
        for link in self._sockets.values():
            link.close()

    def _hear(self, mark: bytes, count: int) -> tuple[float, float]:
        first, heard = 0.0, 0
        while heard < count:
            ready = self._poll.poll(GIVE_UP_S)
            assert ready, f"{heard} of {count} came"
            first = first or time.perf_counter()
            heard += sum(self._marks(descriptor, mark) for descriptor, _ in ready)
        assert heard == count, f"{heard} came where there are {count}"
        return first, time.perf_counter()

    def _marks(self, descriptor: int, mark: bytes) -> int:
        came = self._sockets[descriptor].recv(1 << 18)
        assert came, "the server closed a stream"
        whole = self._tails[descriptor] + came
        self._tails[descriptor] = whole[-(len(mark) - 1) :]
        return whole.count(mark)


def listen(port: int, uris: Sequence[str], number: int, bearer: str = "") -> bytes:
    """The request of one listener."""
    params = {"notifications": {"resourceSubscriptions": list(uris)}}
    return post(port, ERAS[0], "subscriptions/listen", params, number=number, bearer=bearer)


def bursts(ears: Ears, change: Callable[[int], None], pid: int, rounds: int) -> list[Burst]:
    """Changes everything that is listened to, again and again."""
    found = []
    for number in range(rounds + 1):
        used, began = cpu_seconds(pid), time.perf_counter()
        change(number)
        first, last = ears.hear(LISTENERS * ROWS)
        found.append(Burst(first - began, last - first, cpu_seconds(pid) - used))
    return found[1:]  # the first warms up


def said(subject: str, found: Sequence[Burst], before_mib: int, idle_mib: int) -> float:
    """The line of a subject. Answers its notices a second."""
    notices = LISTENERS * ROWS
    rate = statistics.median(notices / burst.rest_s for burst in found)
    line(
        subject,
        listeners=LISTENERS,
        rows=ROWS,
        rounds=len(found),
        notices_per_s=round(rate),
        from_the_commit_on_per_s=round(notices / statistics.median(each.first_s + each.rest_s for each in found)),
        first_notice_ms=round(statistics.median(burst.first_s for burst in found) * 1000, 1),
        cpu_us=round(statistics.median(burst.cpu_s for burst in found) / notices * 1e6, 2),
        rss_mib=before_mib,
        kib_a_listener=round((idle_mib - before_mib) * 1024 / LISTENERS, 1),
    )
    return rate


# --- the subjects --------------------------------------------------------------------------------


def ours(folder: Path, valkey: Valkey, core: int, rounds: int) -> float:
    """Headgate, from a commit on."""
    house = House(folder, valkey.url(), 10_000)
    house.fill()
    uris = [f"headgate://entity/customer/{number}" for number in range(1, ROWS + 1)]
    with contextlib.ExitStack() as up:
        gate = Served(house, [core])
        up.callback(gate.stop)
        up.enter_context(_syncing(house))
        house.check_mask(gate.port, ERAS[0])
        before = rss_mib(gate.process.pid)
        requests = [listen(gate.port, uris, number, house.bearer(number)) for number in range(LISTENERS)]
        ears = Ears(gate.port, requests)
        up.callback(ears.close)
        idle = rss_mib(gate.process.pid)
        shop = up.enter_context(contextlib.closing(sqlite3.connect(folder / "shop.db")))

        def change(number: int) -> None:
            shop.execute("update customers set plan = ? where id <= ?", (f"plan {number}", ROWS))
            shop.commit()

        return said("headgate", bursts(ears, change, gate.process.pid, rounds), before, idle)


@contextlib.contextmanager
def _syncing(house: House) -> Iterator[None]:
    with (house.folder / "sync.txt").open("w+b") as output:
        command = [str(PROGRAM), "sync", "--config", str(house.config())]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def peer(core: int, rounds: int) -> float:
    """The SDK's own bus."""
    server = Echo("bus", core)
    try:
        uris = [f"bench://row/{number}" for number in range(ROWS)]
        request = call(server.port, ERAS[0], "tell", {"uris": uris})
        before = rss_mib(server.process.pid)
        ears = Ears(server.port, [listen(server.port, uris, number) for number in range(LISTENERS)])
        idle = rss_mib(server.process.pid)
        with contextlib.closing(ears), socket.create_connection(("127.0.0.1", server.port)) as link:

            def change(number: int) -> None:
                if number:
                    link.recv(1 << 16)  # the answer to the last
                link.sendall(request)

            found = bursts(ears, change, server.process.pid, rounds)
        return said("sdk bus", found, before, idle)
    finally:
        server.stop()


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    rounds = 3 if parser.parse_args().quick else 15
    if importlib.util.find_spec("headgate.server.push") is None:
        line("headgate", missing="this version serves no subscriptions/listen")
        return
    core, other = cores()
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch, on_core(other):
        Path(scratch).chmod(0o711)  # Valkey may run as another account
        valkey = Valkey(Path(scratch) / "valkey", progress=lambda said: print(said, file=sys.stderr))
        valkey.start()
        try:
            (house := Path(scratch) / "house").mkdir()
            rate = ours(house, valkey, core, rounds)
        finally:
            valkey.stop()
        ratios(headgate_over_sdk_bus=rate / peer(core, rounds))


if __name__ == "__main__":
    main()
