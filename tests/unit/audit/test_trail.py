"""Trails where they lie: a byte that is flipped anywhere in an outbox, on the log or in an export is found."""

from __future__ import annotations

import io
import random
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headgate.audit.chain import first_link
from headgate.audit.checkpoints import Witness
from headgate.audit.export import export_trail, write_export
from headgate.audit.outbox_file import OutboxFile, file_of
from headgate.audit.publisher import CALLS_TOPIC, Publisher
from headgate.audit.segment import segments_of
from headgate.audit.signing import PublicKeys, Signer
from headgate.audit.trail import Foreign, Taken, log_trail, outbox_trail
from headgate.audit.verify import Entry, Report, Verifier
from headgate.errors import HeadgateError
from headgate.log.base import Record
from headgate.log.sqlite import open_log
from headgate.log.sqlite.database import SPAN
from tests.unit.audit.test_publisher import until
from tests.unit.audit.trails import chain_of, checkpoints, keys_of

PLACES = 150
"""So many bytes are flipped, one at a time, in each kind of trail."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the outbox of one dead writer, and its newest checkpoint at the witness."""
    events, made = chain_of(tmp_path, count=30, every=10)
    with closing(OutboxFile(tmp_path / "outbox", "w-1", own=True)) as file:
        file.add(events, 0)
    checkpoints(tmp_path).witness(made[-1])
    return tmp_path


@pytest.fixture
def log(data: Path) -> Iterator[Path]:
    """The same on an embedded log."""
    path = data / "log.db"
    with closing(open_log(path, clock=lambda: 0)) as opened:
        publisher = Publisher(opened, data / "outbox", clock=lambda: 0)
        publisher.start()
        until(lambda: publisher.backlog() == 0)
        publisher.close()
    yield path


def checked(trail: Iterable[Taken], data: Path) -> Report:
    """What is found in a trail."""
    verifier = Verifier(keys_of(data), Witness(data).all())
    for taken in trail:
        verifier.foreign(taken.message) if isinstance(taken, Foreign) else verifier.take(taken)
    return verifier.report()


def read_outbox(data: Path) -> list[Taken]:
    return list(outbox_trail(data / "outbox"))


def read_log(path: Path) -> list[Taken]:
    with closing(open_log(path, clock=lambda: 0)) as opened:
        return list(log_trail(opened))


def test_an_outbox_is_read_whole(data: Path) -> None:
    report = checked(read_outbox(data), data)
    assert (report.events, report.breached, report.writers[0].final) == (33, 0, True)


def test_the_log_is_read_whole(data: Path, log: Path) -> None:
    report = checked(read_log(log), data)
    assert (report.events, report.breached, report.writers[0].final) == (33, 0, True)


def test_only_what_waits_is_read_where_that_is_asked(data: Path) -> None:
    with closing(OutboxFile(data / "outbox", "w-1")) as file:
        file.mark_published(20)
    waiting = list(outbox_trail(data / "outbox", unpublished=True))
    assert [entry.seq for entry in waiting if isinstance(entry, Entry)] == list(range(21, 34))


@pytest.mark.parametrize("member", ["seq", "id", "previous", "link", "event"])
def test_each_member_of_an_outboxs_line_counts(data: Path, member: str) -> None:
    path = the_segment(data)
    before = path.read_bytes().splitlines()[4]
    line = msgspec.json.decode(before)
    line[member] = {
        "seq": 1_005, "id": f"f{line['id'][1:]}", "event": line["event"] | {"subject": "another"}
    }.get(member, first_link("w-2").hex())  # fmt: skip
    path.write_bytes(path.read_bytes().replace(before, msgspec.json.encode(line)))
    report = checked(read_outbox(data), data)
    assert report.breached and "5" in report.breaches[0].message + str(report.breaches[0].seq)


def the_segment(data: Path) -> Path:
    """The only one of the only outbox."""
    (segment,) = segments_of(file_of(data / "outbox", "w-1"))
    return segment.path


@pytest.mark.parametrize("headers", [b"\xc1", b"", 7, "x"])
def test_a_record_of_the_log_whose_headers_can_not_be_read_is_named_and_the_others_are_read(
    data: Path, log: Path, headers: object
) -> None:
    with closing(sqlite3.connect(log)) as database:
        database.execute("update records set headers = ? where place % ? in (0, 4, 5, 32)", [headers, SPAN])
        assert database.execute("select changes()").fetchone() == (4,)
        database.commit()
    read = read_log(log)
    named = [taken.message for taken in read if isinstance(taken, Foreign)]
    topic = CALLS_TOPIC.name
    assert named == [f"the record at offset {offset} of {topic} is no event of the record" for offset in (0, 4, 5, 32)]
    assert len(read) == 33
    assert checked(read, data).breached


def flips(size: int) -> list[tuple[int, int]]:
    """Places in that many bytes and what to flip there, the same ones each time."""
    chance = random.Random(7)
    return [(chance.randrange(size), 1 << chance.randrange(8)) for _ in range(PLACES)]


def flipped(file: Path, place: int, bit: int) -> None:
    """The file with one bit of one byte flipped."""
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ bit]))


def is_found_or_no_part(read: Iterable[Taken] | None, whole: list[Taken], data: Path) -> bool:
    """Whether a flipped byte is found, or lies where it changes nothing of what the trail says."""
    return read is None or list(read) == whole or checked(read, data).breached > 0


def settled(file: Path) -> None:
    """All in the one file."""
    with closing(sqlite3.connect(file)) as database:
        database.execute("pragma wal_checkpoint(truncate)")


def test_a_byte_flipped_anywhere_in_an_outbox_is_found(data: Path, tmp_path: Path) -> None:
    file = the_segment(data)
    original, whole = file.read_bytes(), read_outbox(data)
    for place, bit in flips(len(original)):
        file.write_bytes(original)
        flipped(file, place, bit)
        assert read_outbox(data) != whole and checked(read_outbox(data), data).breached > 0, place


def test_a_byte_flipped_anywhere_on_the_log_is_found(data: Path, log: Path, tmp_path: Path) -> None:
    whole = read_log(log)
    settled(log)
    found = 0
    for number, (place, bit) in enumerate(flips(log.stat().st_size)):
        copy = tmp_path / f"copy-{number}.db"
        shutil.copyfile(log, copy)
        flipped(copy, place, bit)
        try:
            read: list[Taken] | None = read_log(copy)
        except HeadgateError:
            read = None
        assert is_found_or_no_part(read, whole, data), place
        found += read != whole
    assert found > PLACES // 4


def test_a_byte_flipped_anywhere_in_an_export_is_found(data: Path) -> None:
    file = io.BytesIO()
    assert write_export(outbox_trail(data / "outbox"), file, Signer(data)) == 33
    original = file.getvalue()
    assert checked(read_export(original, keys_of(data)), data).breached == 0
    for place, bit in flips(len(original)):
        text = bytearray(original)
        text[place] ^= bit
        assert checked(read_export(bytes(text), keys_of(data)), data).breached > 0, place


def test_an_export_that_is_cut_off_anywhere_is_found(data: Path) -> None:
    file = io.BytesIO()
    write_export(outbox_trail(data / "outbox"), file, Signer(data))
    original = file.getvalue()
    for place, _ in flips(len(original)):
        report = checked(read_export(original[:place], keys_of(data)), data)
        assert report.breached > 0, place


def test_lines_of_an_export_can_not_be_taken_out_at_its_beginning(data: Path) -> None:
    """The chain alone would take it for one that has expired."""
    file = io.BytesIO()
    write_export(outbox_trail(data / "outbox"), file, Signer(data))
    cut = file.getvalue().partition(b"\n")[2]
    (breach,) = checked(read_export(cut, keys_of(data)), data).breaches
    assert "lines were changed, taken out or added" in breach.message


def test_an_export_of_another_machine_needs_its_key(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = io.BytesIO()
    write_export(outbox_trail(data / "outbox"), file, Signer(data))
    strange = keys_of(tmp_path_factory.mktemp("other"))
    messages = [taken.message for taken in read_export(file.getvalue(), strange) if isinstance(taken, Foreign)]
    assert len(messages) == 1 and "none of the trusted ones" in messages[0]


def test_an_event_that_is_no_json_is_exported_too(tmp_path: Path) -> None:
    entry = Entry("w-1", 1, "", bytes(32), bytes(32), b"\xff\n")
    file = io.BytesIO()
    write_export([entry], file, Signer(tmp_path))
    assert list(read_export(file.getvalue(), keys_of(tmp_path))) == [entry]


def read_export(text: bytes, keys: PublicKeys) -> list[Taken]:
    return list(export_trail(io.BytesIO(text), len(text), keys))


@pytest.mark.parametrize(
    "record",
    [
        Record(key=b"x", value=b"{}", headers=()),
        Record(key=None, value=None, headers=()),
        Record(key=b"w-1", value=b"{}", headers=(("headgate-writer", b"w-1"), ("headgate-seq", b"one"))),
    ],
)
def test_a_record_of_others_among_the_events_is_named(data: Path, log: Path, record: Record) -> None:
    with closing(open_log(log, clock=lambda: 0)) as opened, closing(opened.appender()) as appender:
        appender.append(CALLS_TOPIC.name, record)
        appender.flush(10.0)
    (breach,) = checked(read_log(log), data).breaches
    assert breach.kind == "foreign" and "offset 33" in breach.message
