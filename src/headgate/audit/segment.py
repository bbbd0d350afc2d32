"""One segment of an outbox: a file of lines, which its writer extends by room before it writes, and others read.

A line that is written lies in blocks that the disk has already: to sync it, the disk need not note where it lies, nor
that the file has grown. Behind the last line are the zeros of that room, until the segment is closed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from headgate.audit.outbox_line import is_line

_NAME = re.compile(r"(\d+)-(-?\d+)\.jsonl")
ROOM = 512 * 1024
"""Made at once: it takes the disk a millisecond or two, once for some hundred events."""
_READ = 128 * 1024


class Segment(msgspec.Struct, frozen=True):
    """A segment, by its name: the number of its first event, and when that was written."""

    path: Path
    first: int
    time_ms: int


def segments_of(folder: Path) -> list[Segment]:
    """The segments in a folder, in their order; none where it is gone."""
    try:
        matches = [match for each in folder.iterdir() if (match := _NAME.fullmatch(each.name))]
    except FileNotFoundError:
        return []
    return sorted(
        (Segment(folder / match[0], int(match[1]), int(match[2])) for match in matches),
        key=lambda segment: segment.first,
    )


def name_of(first: int, time_ms: int) -> str:
    """The name of a segment, by which a folder's list of names is in its order."""
    return f"{first:012}-{time_ms}.jsonl"


def sync_folder(folder: Path) -> None:
    """Returns once the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lines(segment: Segment, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """The lines from there on, without their ends, each with the offset behind it; none where the file is gone.

    Bytes without the end of a line are no line: they are just being written, or their writer was killed at it.
    """
    rest = b""
    for chunk in _chunks(segment, offset):
        rest += chunk
        begin = 0
        while (end := rest.find(b"\n", begin)) >= 0 and rest[begin]:
            offset += end + 1 - begin
            yield rest[begin:end], offset
            begin = end + 1
        rest = rest[begin:]
        if rest[:1] == b"\0":
            return
    if _has_another_end(rest):
        yield rest, offset + len(rest)


def count_lines(segment: Segment, offset: int = 0) -> int:
    """How many lines there are from there on. A millisecond for a whole segment."""
    return sum(chunk.count(b"\n") for chunk in _chunks(segment, offset))


def end_of(segment: Segment) -> int:
    """The offset behind the last line. Reads but the room behind it."""
    with suppress(FileNotFoundError), segment.path.open("rb", buffering=0) as file:
        begin = file.seek(0, os.SEEK_END)
        while begin:
            begin = max(0, begin - _READ)
            file.seek(begin)
            found = file.read(_READ).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
    return 0


def is_end_of_line(segment: Segment, offset: int) -> bool:
    """Whether a line may begin there."""
    return offset == 0 or any(chunk[:1] == b"\n" for chunk in islice(_chunks(segment, offset - 1), 1))


def _chunks(segment: Segment, offset: int) -> Iterator[bytes]:
    with suppress(FileNotFoundError), segment.path.open("rb", buffering=0) as file:
        file.seek(offset)
        while chunk := file.read(_READ):
            yield chunk


def _has_another_end(rest: bytes) -> bool:
    """Whether that is a whole line of which the very end was changed."""
    return is_line(rest.partition(b"\0")[0][:-1])


class Appending:
    """A segment to which its writer appends, from where its last line ends.

    What fails leaves it as it was. OSError when the disk has no room or can't be written.
    """

    def __init__(self, segment: Segment, offset: int = 0, *, room: int = ROOM) -> None:
        """Makes the file where it is not there, for its owner alone; it grows by so much `room` at a time."""
        self.segment = segment
        self.offset = offset
        """Where the next line begins: so many bytes are written."""
        self._descriptor = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC, 0o600)
        self._room = offset
        self._step = room
        self._half_written = 0
        os.ftruncate(self._descriptor, offset)  # a line that a killed writer left half done

    @property
    def spare(self) -> int:
        """How many bytes of it are on the disk without being used."""
        return self._room - self.offset

    def append(self, data: bytes) -> None:
        """Returns once the bytes are on the disk."""
        self._wipe()
        self._make_room(len(data))
        self._half_written = len(data)
        try:
            _write(self._descriptor, data, self.offset)
        except OSError:
            with suppress(OSError):
                self._wipe()  # else it is tried before anything else is written
            raise
        self._half_written = 0
        self.offset += len(data)

    def close(self) -> None:
        """Lets go of it, and of the room that it does not need. Never raises."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, self.offset)
        os.close(self._descriptor)

    def _make_room(self, size: int) -> None:
        missing = self.offset + size - self._room
        if missing <= 0:
            return
        added = -(-missing // self._step) * self._step
        try:
            _write(self._descriptor, bytes(added), self._room)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._room)
            raise
        self._room += added

    def _wipe(self) -> None:
        """Takes back what was written in part, or was not certainly synced."""
        if self._half_written:
            _write(self._descriptor, bytes(self._half_written), self.offset)
            self._half_written = 0


def _write(descriptor: int, data: bytes, offset: int) -> None:
    if os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(errno.ENOSPC, "a part of it alone has found room")
