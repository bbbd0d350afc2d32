"""How long governed calls take with 1, 2 and 4 serving processes on one port: `headgate serve --workers N`.

The deployment of doors.py, everything on. The workers have every core of the machine, and share them with the load and
Valkey: on few cores more workers cannot give more calls, and what is looked at is the slowest hundredth.

    python bench/doors_workers.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path

from doors_house import House, Served
from doors_load import ERAS, Taken, load
from measure import line, milliseconds, ratios

from headgate.stack import Valkey

WORKERS = (1, 2, 4)
CONNECTIONS = (16, 64)


def measured(house: House, workers: int, rounds: int, seconds: float) -> tuple[int, dict[int, float]]:
    """How many calls were answered, and the 99th percentile by connections."""
    gate = Served(house, sorted(os.sched_getaffinity(0)), "", *(("--workers", str(workers)) if workers > 1 else ()))
    try:
        asks = house.asks(gate.port, ERAS[0])
        answers = len(load(gate.port, asks, CONNECTIONS[-1], seconds).took)  # every worker has met every caller
        slow = {}
        for number in CONNECTIONS:
            taken = [load(gate.port, asks, number, seconds) for _ in range(rounds)]
            answers += sum(len(each.took) for each in taken)
            slow[number] = _say(workers, number, taken)
    finally:
        gate.stop()
    return answers, slow


def _say(workers: int, connections: int, taken: list[Taken]) -> float:
    latencies = [milliseconds(each.took) for each in taken]
    said = line(
        "headgate",
        workers=workers,
        connections=connections,
        calls_per_s=round(statistics.median(len(each.took) / each.seconds for each in taken)),
        **{name: round(statistics.median(each[name] for each in latencies), 3) for name in latencies[0]},
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
    )
    return float(said["p99_ms"])


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    quick = parser.parse_args().quick
    if importlib.util.find_spec("headgate.cli.serve") is None:
        line("headgate", missing="this version serves by one process alone")
        return
    rounds, seconds = (2, 0.5) if quick else (5, 3.0)
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        Path(scratch).chmod(0o711)  # Valkey may run as another account
        valkey = Valkey(Path(scratch) / "valkey", progress=lambda said: print(said, file=sys.stderr))
        valkey.start()
        try:
            (folder := Path(scratch) / "house").mkdir()
            house = House(folder, valkey.url(), 100_000)
            house.fill()
            found = {workers: measured(house, workers, rounds, seconds) for workers in WORKERS}
        finally:
            valkey.stop()
        line("record", **house.verify(sum(answers for answers, _ in found.values())))
    ratios(**{f"p99_with_{workers}_over_1_at_{number}": found[workers][1][number] / found[1][1][number]
              for workers in WORKERS[1:] for number in CONNECTIONS})  # fmt: skip


if __name__ == "__main__":
    main()
