"""One byte of the record that is another, wherever it lies: `headgate audit verify` finds it, and names what it is in.

The places are drawn by DRILL_SEED, or by a seed of our own.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from headgate.audit.checkpoints import CHECKPOINT_TYPE, WITNESS
from headgate.audit.outbox_file import file_of, writers
from headgate.audit.publisher import CALLS_TOPIC, SEQ_HEADER
from headgate.audit.segment import segments_of
from headgate.log.sqlite.database import SPAN
from tests.ways.asking import ask
from tests.ways.deployment import PROGRAM, Process, ready, until
from tests.ways.serving import Shop

CALLS = 12
SEED = int(os.environ.get("DRILL_SEED", "20261201"))


class Record(NamedTuple):
    """A data folder: a record in the log, the outbox of a process that was killed, and an export of both."""

    folder: Path

    @property
    def outbox(self) -> Path:
        (writer,) = writers(self.folder / "data" / "outbox")
        (segment,) = segments_of(file_of(self.folder / "data" / "outbox", writer))
        return segment.path

    @property
    def log(self) -> Path:
        return self.folder / "data" / "log.db"

    @property
    def witness(self) -> Path:
        return self.folder / "data" / WITNESS

    @property
    def export(self) -> Path:
        return self.folder / "export.jsonl"

    def verify(self) -> tuple[int, str]:
        """What the command says of all of it."""
        words = [str(PROGRAM), "audit", "verify", "--log", "--outbox", "--export", self.export.name]
        said = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=300)
        return said.returncode, said.stdout + said.stderr


class Stretch(NamedTuple):
    """Bytes of a file, and patterns by which the command may name what they belong to."""

    file: Path
    start: int
    length: int
    names: Sequence[str]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Record:
    record = Record(tmp_path_factory.mktemp("record"))
    with Shop(record.folder).serving() as process:
        call(process)
    killed = Process(record.folder, "serve")
    until(lambda: ready(killed.url()))
    call(killed)
    killed.crash()
    subprocess.run([PROGRAM, "audit", "export", "-o", record.export.name], cwd=record.folder, check=True)
    for file in (record.log, record.witness):
        rows(file, "pragma journal_mode = delete")  # so that all of it is in one file
    assert record.verify()[0] == 0
    return record


@pytest.fixture
def record(untouched: Record, tmp_path: Path) -> Record:
    """One of its own."""
    shutil.copytree(untouched.folder, tmp_path, dirs_exist_ok=True)
    return Record(tmp_path)


def call(process: Process) -> None:
    with httpx.Client(timeout=60) as client:
        for number in range(CALLS):
            assert ask(client, process.url(), "lookup_customer", {"customer_id": 1 + number}).result


def rows(file: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What SQLite answers, once it is done."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        return database.execute(statement, values).fetchall()


def stretch(file: Path, before: bytes, found: bytes, *names: str) -> Stretch:
    """Where bytes lie that stand behind others."""
    start = file.read_bytes().index(before + found) + len(before)
    return Stretch(file, start, len(found), names)


# --- what is touched -----------------------------------------------------------------------------


def a_line_of_the_outbox(record: Record) -> list[Stretch]:
    return [
        stretch(record.outbox, b"", line + b"\n", rf" #{seq}\b", f"the event {seq} of the outbox")
        for seq, line in enumerate(lines_of(record.outbox), 1)
    ]


def its_links(record: Record) -> list[Stretch]:
    return [
        stretch(record.outbox, before.encode(), links.encode(), rf" #{seq}\b", f"the event {seq} of the outbox")
        for seq, line in enumerate(lines_of(record.outbox), 1)
        for before, links in re.findall(r'("id":"[^"]+",)("previous":"[0-9a-f]+","link":"[0-9a-f]+")', line.decode())
    ]


def lines_of(outbox: Path) -> list[bytes]:
    """Its events' lines; behind them is room for more."""
    return outbox.read_bytes().split(b"\n")[:-1]


def a_record_of_the_log(record: Record, having: bytes = b"") -> list[Stretch]:
    logged = rows(
        record.log,
        "select place % ?1, key, value, headers from records join partitions on place / ?1 = id where topic = ?2",
        SPAN,
        CALLS_TOPIC.name,
    )
    return [
        stretch(record.log, b"", key + value, rf" #{_seq(headers)}\b", f"the record at offset {offset} of ")
        for offset, key, value, headers in logged
        if having in value
    ]


def a_checkpoint_in_the_log(record: Record) -> list[Stretch]:
    return a_record_of_the_log(record, CHECKPOINT_TYPE.encode())


def a_checkpoint_kept_apart(record: Record) -> list[Stretch]:
    return [
        stretch(record.witness, b"", body, "checkpoint")
        for (body,) in rows(record.witness, "select body from checkpoint")
    ]


def a_line_of_the_export(record: Record) -> list[Stretch]:
    return [
        stretch(record.export, b"", line, rf" #{json.loads(line)['seq']}\b", f"line {number} of the export")
        for number, line in enumerate(record.export.read_bytes().splitlines()[:-1], 1)
    ]


def the_end_of_the_export(record: Record) -> list[Stretch]:
    end = record.export.read_bytes().splitlines()[-1]
    return [stretch(record.export, b"", end, "last line", "the export is signed by", "the export had")]


def _seq(headers: bytes) -> int:
    return int(dict(msgspec.msgpack.decode(headers))[SEQ_HEADER])


TOUCHED: list[Callable[[Record], list[Stretch]]] = [
    a_line_of_the_outbox, its_links, a_record_of_the_log, a_checkpoint_in_the_log, a_checkpoint_kept_apart,
    a_line_of_the_export, the_end_of_the_export,
]  # fmt: skip


@pytest.mark.parametrize("touched", TOUCHED, ids=lambda touched: touched.__name__)
def test_a_byte_that_is_another_is_found_and_named(record: Record, touched: Callable[[Record], list[Stretch]]) -> None:
    chance = random.Random(f"{SEED} {touched.__name__}")
    chosen = chance.choice(touched(record))
    place, bit = chosen.start + chance.randrange(chosen.length), 1 << chance.randrange(8)
    data = bytearray(chosen.file.read_bytes())
    data[place] ^= bit
    chosen.file.write_bytes(data)
    code, said = record.verify()
    assert code in (1, 2) and "Traceback" not in said, (SEED, place, bit, said)
    assert any(re.search(name, said) for name in chosen.names), (SEED, place, bit, chosen.names, said)


@pytest.mark.parametrize("touched", ["number", "order"])
def test_an_event_of_another_number_or_in_anothers_place_is_found_and_named(record: Record, touched: str) -> None:
    chance = random.Random(f"{SEED} {touched}")
    lines = lines_of(record.outbox)
    one, other = chance.sample(range(len(lines)), 2)
    if touched == "number":
        lines[one] = lines[one].replace(b'{"seq":', b'{"seq":100', 1)
    else:
        lines[one], lines[other] = lines[other], lines[one]
    record.outbox.write_bytes(b"\n".join([*lines, b""]))
    code, said = record.verify()
    assert code == 1 and re.search(rf"( #|the event ){one + 1}\b", said), (SEED, one, other, said)


def test_a_checkpoint_kept_apart_does_not_grow_old_by_a_byte(record: Record) -> None:
    """One that is older than the log's retention asks nothing of the log."""
    data = record.witness.read_bytes()
    record.witness.write_bytes(re.sub(rb'"time_ms":1\d', b'"time_ms":10', data))
    code, said = record.verify()
    assert code == 1 and "SIGNATURE" in said, said
