"""A gate in a process of its own, as tests start, ask and stop it, and the record that it leaves."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from headgate.audit.event import CallEvent, decode_cloudevent
from headgate.audit.outbox_file import OutboxFile

ROOT = Path(__file__).parents[3]
DEADLINE_S = 120.0


class Gate:
    """A gate in a process of its own, served over HTTP: the shop's, or the fixture of the conformance suite."""

    def __init__(self, folder: Path, transport: Literal["http", "local", "conformance"], *more: str) -> None:
        self.folder = folder
        gate = ["tests.ways.clients.gate", transport]
        module = ["tests.conformance.fixture"] if transport == "conformance" else gate
        command = [sys.executable, "-m", *module, str(folder), *more]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], DEADLINE_S)
        assert ready, "the gate did not say where it is"
        announced = json.loads(self._process.stdout.readline())
        self.url: str = announced["url"]
        self.tokens: dict[str, str] = announced["tokens"]

    def close(self) -> int:
        """Asks it to end, and answers its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


def events_in(folder: Path) -> list[CallEvent]:
    """The call events that a gate left in its folder."""
    return [decode_cloudevent(body) for body in bodies_in(folder) if b"dev.headgate.call.v1" in body]


def counted_in(folder: Path) -> Counter[str]:
    """How many strangers a gate counted, by reason."""
    counts: Counter[str] = Counter()
    for body in bodies_in(folder):
        if b"dev.headgate.refusals.v1" in body:
            for group in msgspec.json.decode(body)["data"]["counts"]:
                counts[group["reason"]] += group["count"]
    return counts


def bodies_in(folder: Path) -> list[bytes]:
    """Every event that a gate left in its folder."""
    file = OutboxFile(folder / "outbox", "w-test", own=False)
    try:
        return [stored.body for stored in file.unpublished(1_000)]
    finally:
        file.close()
