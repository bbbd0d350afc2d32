"""An outbox's files: events lie in lines of segments, which fill, are read while they do, and go when all of it may."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from headgate.audit import outbox_file, segment
from headgate.audit.chain import Chain, Linked
from headgate.audit.outbox_file import OutboxFile, file_of
from headgate.audit.progress import NAME
from headgate.audit.segment import segments_of
from headgate.errors import OutboxError, OutboxFull

BOUND = 16 * 4_000
"""Segments have 4,000 bytes then."""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OutboxFile]:
    with closing(OutboxFile(tmp_path, "w-1", own=True, max_bytes=BOUND)) as opened:
        yield opened


def body(number: int, size: int = 300) -> bytes:
    return json.dumps({"id": f"e-{number}", "x": "x" * size}).encode()


def added(file: OutboxFile, numbers: Sequence[int], *, time_ms: int = 0, size: int = 300) -> list[Linked]:
    """Events of these numbers, in one step."""
    chain = file.end()
    events = [chain.add(f"e-{number}", body(number, size)) for number in numbers]
    file.add(events, time_ms)
    return events


def filled(file: OutboxFile, count: int) -> list[Linked]:
    """So many events, each in a step of its own, whose times are their numbers."""
    return [event for number in range(1, count + 1) for event in added(file, [number], time_ms=number)]


def read(folder: Path, after: int = 0) -> list[Linked]:
    """What somebody else reads."""
    with closing(OutboxFile(folder, "w-1")) as other:
        return other.events(after, 1_000_000)


# --- lines in segments ---------------------------------------------------------------------------


def test_events_come_back_as_they_were_whatever_they_are(file: OutboxFile, tmp_path: Path) -> None:
    chain = Chain("w-1")
    bodies = [b'{"a":1}', b"", b"no json", b"{\n}", b"\x00\xff", b'{"nul":"\x00"}', body(7)]
    events = [chain.add(f'an "id" \n {number}', each) for number, each in enumerate(bodies)]
    file.add(events, 0)
    assert read(tmp_path) == events


def test_a_line_can_be_read_by_a_person(file: OutboxFile, tmp_path: Path) -> None:
    (event,) = added(file, [1])
    (only,) = segments_of(file_of(tmp_path, "w-1"))
    line = json.loads(only.path.read_bytes().partition(b"\n")[0])
    assert line == {
        "seq": 1, "id": "e-1", "previous": event.previous.hex(), "link": event.link.hex(), "event": json.loads(body(1)),
    }  # fmt: skip


def test_segments_follow_each_other_and_are_read_as_one(file: OutboxFile, tmp_path: Path) -> None:
    events = filled(file, 50)
    segments = segments_of(file_of(tmp_path, "w-1"))
    assert len(segments) > 4 and segments[0].first == 1
    assert all(each.path.stat().st_size <= BOUND // 16 for each in segments)
    assert read(tmp_path) == events
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        assert (other.last(), other.backlog()) == (50, 50)
        for after in range(51):
            assert other.events(after, 3) == events[after : after + 3]
        assert len(other.events(0, 50, max_bytes=1)) == 1


def test_a_step_larger_than_a_segment_is_whole_in_one(file: OutboxFile, tmp_path: Path) -> None:
    added(file, [1])
    events = added(file, [2, 3], size=5_000)
    assert [each.first for each in segments_of(file_of(tmp_path, "w-1"))] == [1, 2]
    assert read(tmp_path)[1:] == events


def test_what_is_read_goes_on_where_it_was_published(file: OutboxFile, tmp_path: Path) -> None:
    events = filled(file, 30)
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        assert other.events(0, 20) == events[:20]
        other.mark_published(20)
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        assert other.unpublished(5) == events[20:25]
        assert (other.last(), other.backlog()) == (30, 10)


@pytest.mark.parametrize("noted", [b"", b"{", b'{"published":20,"place":[1,7]}', b'{"published":20,"place":[999,0]}'])
def test_notes_that_are_not_true_mislead_nobody(file: OutboxFile, tmp_path: Path, noted: bytes) -> None:
    events = filled(file, 30)
    (file_of(tmp_path, "w-1") / NAME).write_bytes(noted)
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        assert other.unpublished(30) == events[other.published() :]
        assert other.last() == 30


# --- what ends in the middle ---------------------------------------------------------------------


def test_what_a_killed_writer_left_half_done_is_no_event(file: OutboxFile, tmp_path: Path) -> None:
    events = added(file, range(1, 6))
    path = segments_of(file_of(tmp_path, "w-1"))[-1].path
    whole = path.read_bytes()
    end = whole.rindex(b"\n") + 1
    last = whole.rindex(b"\n", 0, end - 1) + 1
    for cut in [*range(last, end, 37), end - 1]:
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert read(tmp_path) == events[:4], cut
        with closing(OutboxFile(tmp_path, "w-1", own=True, max_bytes=BOUND)) as again:
            assert again.last() == 4
            assert again.end().link == events[3].link
    with closing(OutboxFile(tmp_path, "w-1", own=True, max_bytes=BOUND)) as again:
        (after,) = added(again, [6])
    assert read(tmp_path) == [*events[:4], after]


def test_a_segment_that_has_nothing_yet_is_none(file: OutboxFile, tmp_path: Path) -> None:
    events = added(file, [1, 2])
    (file_of(tmp_path, "w-1") / segment.name_of(3, 7)).write_bytes(bytes(100))
    assert read(tmp_path) == events
    with closing(OutboxFile(tmp_path, "w-1", own=True, max_bytes=BOUND)) as again:
        assert again.last() == 2
        assert len(segments_of(file_of(tmp_path, "w-1"))) == 1


def test_a_step_that_fails_leaves_nothing_behind(
    file: OutboxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = added(file, [1])
    write = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        return write(descriptor, data[: len(data) // 2] if any(data) else data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(OutboxFull):
            added(file, range(2, 8))
    assert read(tmp_path) == events
    events += added(file, [9])
    assert read(tmp_path) == events


def test_what_could_not_be_taken_back_is_before_anything_else_is_written(
    file: OutboxFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = added(file, [1])
    following = [Chain("w-1", 1, event.link).add(f"e-{number}", body(number, number * 200)) for number in (2, 3, 0)]
    write, broken = os.pwrite, True

    def failing(descriptor: int, data: bytes, offset: int) -> int:
        done = write(descriptor, data, offset) if any(data) or not broken else 0
        if broken:
            raise OSError(5, "the disk says no")
        return done

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing)
        for each in following[:2]:
            with pytest.raises(OutboxError):
                file.add([each], 0)
        broken = False
        file.add(following[2:], 0)
    assert read(tmp_path) == [event, following[2]]


# --- what was touched ----------------------------------------------------------------------------


def test_a_touched_line_is_another_event_of_the_same_number(file: OutboxFile, tmp_path: Path) -> None:
    events = filled(file, 20)
    chance = random.Random(7)
    for each in segments_of(file_of(tmp_path, "w-1")):
        original = each.path.read_bytes()
        used = original.rindex(b"\n") + 1
        for _ in range(20):
            place, bit = chance.randrange(used), 1 << chance.randrange(8)
            touched = bytearray(original)
            touched[place] ^= bit
            each.path.write_bytes(touched)
            found = read(tmp_path)
            assert found != events, (each.first, place, bit)
            number = each.first + original.count(b"\n", 0, place)
            assert found[: number - 1] == events[: number - 1]
            assert found[number - 1] != events[number - 1] and found[number - 1].seq == number
        each.path.write_bytes(original)


# --- what goes -----------------------------------------------------------------------------------


def test_segments_go_when_all_of_their_events_may(file: OutboxFile, tmp_path: Path) -> None:
    filled(file, 50)
    segments = segments_of(file_of(tmp_path, "w-1"))
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        assert other.prune(before_ms=1_000, keep=0) == 0, "nothing is published"
        other.mark_published(segments[2].first)
        for seq in (1, 40):
            other.withhold(seq)
        assert other.prune(before_ms=0, keep=1_000) == 0
        assert other.prune(before_ms=segments[1].time_ms, keep=1_000) == segments[1].first - 1
        assert other.withheld() == {40}
        assert other.prune(before_ms=0, keep=0) == segments[2].first - segments[1].first, "the third is half published"
        other.mark_published(50)
        assert other.prune(before_ms=1_000, keep=0, limit=1) == segments[3].first - segments[2].first
        other.prune(before_ms=1_000, keep=0)
        assert (other.last(), len(other.events(0, 100))) == (50, 50 - segments[-1].first + 1)
    assert segments_of(file_of(tmp_path, "w-1")) == segments[-1:], "the end of the chain stays"


def test_what_goes_makes_room(file: OutboxFile, tmp_path: Path) -> None:
    with pytest.raises(OutboxFull):
        filled(file, 1_000)
    assert 0.9 < file.room().fill <= 1.0
    with closing(OutboxFile(tmp_path, "w-1", max_bytes=BOUND)) as other:
        assert other.room() == file.room()
        other.mark_published(other.last())
        other.prune(before_ms=1_000, keep=0)
    added(file, [2_000])
    assert file.room().fill < 0.2


def test_a_disk_without_room_takes_no_more_than_is_left_for_notes(
    file: OutboxFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(file, [1])
    file.require_room()
    monkeypatch.setattr(outbox_file, "RESERVE", 1 << 60)
    with pytest.raises(OutboxFull):
        file.require_room()


def test_one_that_was_removed_meanwhile_has_nothing(file: OutboxFile, tmp_path: Path) -> None:
    added(file, [1])
    with closing(OutboxFile(tmp_path, "w-1")) as other:
        file.remove()
        assert (other.events(0, 10), other.last(), other.backlog(), other.room().used) == ([], 0, 0, 0)
    assert list(tmp_path.iterdir()) == []
