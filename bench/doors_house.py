"""Headgate as doors.py measures it: everything on, in a process of its own, and what it recorded afterwards.

A SQLite table is captured for real into Valkey. `headgate serve` answers `lookup_customer` from there: tokens of 1,000
callers, a policy of 20 rules with a mask, budgets of 10,000 a minute in Valkey, and an outbox on disk. Nobody publishes
meanwhile, so that the outbox is the whole record.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
from doors_load import Ask, ask_once, call, start_on

from headgate.app import OUTBOX, App
from headgate.audit.checkpoints import Witness
from headgate.audit.outbox_file import writers
from headgate.audit.signing import PublicKeys, public_key_in
from headgate.audit.trail import Foreign, outbox_trail
from headgate.audit.verify import Verifier
from headgate.config import ServerConfig, load
from headgate.errors import HeadgateError

TOOL = "lookup_customer"
CALLERS = 1_000
RULES = 20
ASKS = 20_000
"""Requests that are encoded before, and come again in turns."""
EXPRESS = ("on", "off")
EVENT_BYTES = 1_500
"""About what an event of such a call takes on the disk."""
ISSUER = "https://bench.example"
SECRET = "a bench's secret, no other one's, 32+"
READY_S = 60.0
FILL_S = 300.0
"""How long filling the store may take, beside what each row takes."""
FILL_ROWS_PER_S = 1_000
"""Far less than any machine has managed, so that only what stands still is given up."""
PROGRAM = Path(sys.executable).parent / "headgate"

_CONFIG = f"""\
data: data
server: {{{{port: 0{{more}}}}}}
access:
  policy: policy.yaml
  policy_key: "{"k" * 32}"
  issuers: [{{{{issuer: "{ISSUER}", algorithms: [HS256], secret: "{SECRET}"}}}}]
  budgets: {{{{read: 10000}}}}
connections:
  cache: {{{{kind: redis, url: "{{url}}"}}}}
state: cache
pipelines:
  shop:
    source: {{{{kind: sqlite, path: "{{source}}"}}}}
    store: cache
    partitions: 1
    freshness_bound_s: 86400
entities:
  customer:
    from: shop.main.customers
    fields: {{{{email: {{{{class: personal.email}}}}, name: {{{{class: none}}}},
             plan: {{{{class: none}}}}, city: {{{{class: none}}}}}}}}
"""
_SERVING = re.compile(r"serving MCP at http://[^:]+:(\d+)/")
_PAUSE_S = 0.05


def has_express() -> bool:
    """Whether this version has an express lane to switch."""
    return "express" in ServerConfig.model_fields


class House:
    """One folder with its table in Valkey, the configs, and the callers' requests."""

    def __init__(self, folder: Path, url: str, rows: int, *, entities: int = 1) -> None:
        """Of `entities` all but one are there to be listed, with one row each."""
        self.folder = folder
        self.rows = rows
        self._others = [f"other_{number:04}" for number in range(1, entities)]
        self._url = url
        self._make_table()
        self._write_policy()
        self._tokens = [_token(number) for number in range(CALLERS)]

    # --- what is served ---

    def config(self, express: str = "") -> Path:
        """The config with the lane on, off, or as this version has it."""
        more = f", express: {express}" if express and has_express() else ""
        file = self.folder / f"headgate{express}.yaml"
        others = "".join(f"  {name}: {{from: shop.main.{name}}}\n" for name in self._others)
        file.write_text(_CONFIG.format(more=more, url=self._url, source=self.folder / "shop.db") + others)
        return file

    def _make_table(self) -> None:
        with contextlib.closing(sqlite3.connect(self.folder / "shop.db")) as shop:
            shop.execute("create table customers (id integer primary key, email text, name text, plan text, city text)")
            rows = ((n, f"c{n}@shop.example", _name(n), "free", "Uppsala") for n in range(1, self.rows + 1))
            shop.executemany("insert into customers values (?, ?, ?, ?, ?)", rows)
            for name in self._others:
                shop.execute(f"create table {name} (id integer primary key, name text, amount integer)")
                shop.execute(f"insert into {name} values (1, 'one', 1)")
            shop.commit()

    def _write_policy(self) -> None:
        rules = [
            {"name": f"rule {number}", "to": {"claims": {"team": f"t{number}"}}, "tools": ["lookup*", "find"],
             "entities": {"customer": {"fields": {"email": "mask"}}, "other_*": {}}}
            for number in range(RULES)
        ]  # fmt: skip
        (self.folder / "policy.yaml").write_text(json.dumps({"rules": rules}))

    def fill(self) -> float:
        """Captures and materializes the whole table; answers how long that took, in seconds."""
        began = time.perf_counter()
        with App(load(self.config())) as app:
            app.start_flow()
            asyncio.run(self._filled(app))
        return time.perf_counter() - began

    async def _filled(self, app: App) -> None:
        deadline = time.monotonic() + FILL_S + self.rows / FILL_ROWS_PER_S
        while True:
            with contextlib.suppress(HeadgateError):  # until the snapshot is whole
                if (await app.reader.count("customer")).rows == self.rows and await self._is_fresh(app):
                    break
            assert time.monotonic() < deadline, "the store was never filled"
            await asyncio.sleep(_PAUSE_S)
        await app.reader.close()

    async def _is_fresh(self, app: App) -> bool:
        """Whether a heartbeat has covered every entity."""
        for name in ("customer", *reversed(self._others)):
            if not (await app.reader.watermark(name)).as_of_ms:
                return False
        return True

    # --- what is asked ---

    def bearer(self, number: int) -> str:
        """One caller's token."""
        return self._tokens[number % CALLERS]

    def asks(self, port: int, era: str) -> Iterator[Ask]:
        """Requests of all callers for rows anywhere in the table, again and again."""
        chosen = random.Random(era)
        return itertools.cycle([self._ask(port, era, place, chosen.randint(1, self.rows)) for place in range(ASKS)])

    def _ask(self, port: int, era: str, place: int, row: int) -> Ask:
        request = call(port, era, TOOL, {"customer_id": row}, number=place, bearer=self.bearer(place))
        return Ask(request, _name(row).encode())

    def check_mask(self, port: int, era: str) -> None:
        """That the rules hold: the row comes, its address does not."""
        said = ask_once(port, self._ask(port, era, 1, 7))
        assert b"c7@shop.example" not in said, said

    # --- what is recorded ---

    def verify(self, answers: int) -> dict[str, Any]:
        """That the record holds one event for each answer, and that its chain is whole."""
        data = self.folder / "data"
        own = public_key_in(data)
        assert own is not None
        # What filled the store has published its own events, and its file is gone.
        here = set(writers(data / OUTBOX))
        verifier = Verifier(PublicKeys([own]), [each for each in Witness(data).all() if each.writer in here])
        answered = others = 0
        began = time.perf_counter()
        for taken in outbox_trail(data / OUTBOX):
            assert not isinstance(taken, Foreign), taken.message
            verifier.take(taken)
            if b'"dev.headgate.call.v1"' in taken.body and b'"status":"answered"' in taken.body:
                answered += 1
            else:
                others += 1
        report = verifier.report()
        assert report.breached == 0, report.breaches
        assert answered == answers, f"{answers} answers, and {answered} events of them"
        return {
            "answers": answers,
            "events": answered,
            "other_events": others,
            "chain": "whole",
            "verified_per_s": round((answered + others) / (time.perf_counter() - began)),
        }


class Served:
    """`headgate serve` on these cores, with whatever more its command takes."""

    def __init__(self, house: House, cores: Sequence[int], express: str = "", *more: str) -> None:
        command = [str(PROGRAM), "serve", "--config", str(house.config(express)), *more]
        self.process = start_on(cores, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.port = _port_of(self.process)

    def stop(self) -> None:
        """Ends it in order, so that its chain has an end."""
        self.process.terminate()
        try:
            self.process.wait(READY_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()


def fsync_ms(folder: Path, seconds: float) -> float:
    """How long this disk takes to make the bytes of one event durable: the median, one after the other."""
    took = []
    descriptor = os.open(folder / "syncs", os.O_CREAT | os.O_WRONLY)
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        os.write(descriptor, b"e" * EVENT_BYTES)
        os.fdatasync(descriptor)
        took.append(time.perf_counter() - began)
    os.close(descriptor)
    return round(sorted(took)[len(took) // 2] * 1000, 3)


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := _SERVING.search(line):
            return int(found[1])
    raise AssertionError(f"the server ended before it served:\n{''.join(said)}")


def _name(row: int) -> str:
    return f"Customer-{row}-"


def _token(number: int) -> str:
    claims = {"iss": ISSUER, "aud": "headgate", "sub": f"agent-{number}", "scope": "data:read",
              "team": f"t{number % RULES}", "exp": int(time.time()) + 6 * 3_600}  # fmt: skip
    return jwt.encode(claims, SECRET, algorithm="HS256")
