"""What many entities cost: a governed look-up and a list of tools, with 10, 100 and 1,000 of them in one server.

The deployment of doors.py with everything on, and so much more in its config; each entity has a look-up tool of its
own. Look-ups come over 16 connections, lists over one; the rules of all 1,000 callers give them all entities.

    python bench/doors_entities.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from doors_house import CALLERS, House, Served
from doors_load import ERAS, Ask, Taken, ask_once, cores, load, on_core, post
from measure import cpu_seconds, line, milliseconds, ratios, rss_mib

from headgate.stack import Valkey

ENTITIES = (10, 100, 1_000)
CONNECTIONS = 16
ROWS = 10_000


def lists(house: House, port: int) -> Iterator[Ask]:
    """tools/list by every caller in turn."""
    made = [
        Ask(post(port, ERAS[0], "tools/list", {}, number=number, bearer=house.bearer(number)), b'"lookup_customer"')
        for number in range(CALLERS)
    ]
    return itertools.cycle(made)


def measured(folder: Path, valkey: Valkey, core: int, entities: int, seconds: float) -> dict[str, float]:
    """Rates of look-ups and of lists, by name."""
    house = House(folder, valkey.url(entities.bit_length()), ROWS, entities=entities)
    took = house.fill()
    gate = Served(house, [core])
    try:
        answers, warming = 0, house.asks(gate.port, ERAS[0])
        while answers < CALLERS:
            answers += len(load(gate.port, warming, 1, seconds / 4).took)
        used = [cpu_seconds(gate.process.pid)]
        looked_up = load(gate.port, house.asks(gate.port, ERAS[0]), CONNECTIONS, seconds)
        used.append(cpu_seconds(gate.process.pid))
        listing = lists(house, gate.port)
        size = len(ask_once(gate.port, next(listing)))
        used.append(cpu_seconds(gate.process.pid))
        listed = load(gate.port, listing, 1, seconds)
        used.append(cpu_seconds(gate.process.pid))
        rss = rss_mib(gate.process.pid)
    finally:
        gate.stop()
    _say("lookup", entities, looked_up, CONNECTIONS, used[1] - used[0], rss_mib=rss, filled_in_s=round(took))
    _say("tools/list", entities, listed, 1, used[3] - used[2], answer_bytes=size)
    return {"lookup": len(looked_up.took) / looked_up.seconds, "list": len(listed.took) / listed.seconds}


def _say(what: str, entities: int, taken: Taken, connections: int, cpu_s: float, **more: int) -> None:
    line(
        "headgate",
        what=what,
        entities=entities,
        connections=connections,
        calls_per_s=round(len(taken.took) / taken.seconds),
        **milliseconds(taken.took),
        cpu_us=round(cpu_s / len(taken.took) * 1e6),
        **more,
    )


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work, and fewer entities")
    quick = parser.parse_args().quick
    core, other = cores()
    counts = ENTITIES[:2] if quick else ENTITIES
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch, on_core(other), contextlib.ExitStack() as up:
        Path(scratch).chmod(0o711)  # Valkey may run as another account
        valkey = Valkey(Path(scratch) / "valkey", progress=lambda said: print(said, file=sys.stderr))
        valkey.start()
        up.callback(valkey.stop)
        found = {}
        for count in counts:
            (folder := Path(scratch) / f"house-{count}").mkdir()
            found[count] = measured(folder, valkey, core, count, 1.0 if quick else 5.0)
    least = counts[0]
    ratios(**{f"{what}_with_{count}_over_{least}": found[count][what] / found[least][what]
              for what in ("lookup", "list") for count in counts[1:]})  # fmt: skip


if __name__ == "__main__":
    main()
