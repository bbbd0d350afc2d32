"""One writer's outbox on the disk: what is in it, what of it is published, and whether its writer lives."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import msgspec

from headgate.audit.chain import Chain, Linked
from headgate.audit.outbox_line import event_in, line_of
from headgate.audit.progress import Progress, read_progress, write_progress
from headgate.audit.segment import (
    ROOM,
    Appending,
    Segment,
    count_lines,
    end_of,
    is_end_of_line,
    lines,
    name_of,
    segments_of,
    sync_folder,
)  # fmt: skip
from headgate.errors import OutboxError, OutboxFull

RESERVE = 16 * 1024 * 1024
"""What is left free on the disk: without it nothing could be noted as published, nor removed to make room."""

_SEGMENT_BYTES = 8 * 1024 * 1024
"""A segment goes when all of its events may."""
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SUFFIX = ".events"
_PLACES = 64
"""Whoever publishes has a few stretches under way."""
_BYTES_AT_ONCE = 8 * 1024 * 1024
_FULL = "there is no room for events of calls: free some on the disk of the data folder, or raise audit.outbox_max_gb"


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How full a file is: bytes that its events take, and how many it could take in all."""

    used: int
    most: int
    """By its own bound and by the disk, whichever is less."""

    @property
    def fill(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.used / self.most) if self.most else 1.0


_Place: TypeAlias = tuple[int, int]
"""The first number of a segment, and an offset there."""


class OutboxFile:
    """A writer's events: segments in a folder of their own. Any number may be open, in any processes; one thread uses
    each.

    All methods raise OutboxError when the files can't be used.
    """

    def __init__(self, folder: Path, writer: str, *, own: bool = False, max_bytes: int = 0) -> None:
        """Opens it: the writer itself (`own`) makes it when it is missing, and appends to it.

        For others it must exist, and a power cut may take back their newest `mark_published`, so that events
        are published twice, which their numbers tell. Beyond `max_bytes`, unless it is 0, `add` is refused.
        """
        self.writer = writer
        self._folder = file_of(folder, writer)
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // 16) if max_bytes else _SEGMENT_BYTES
        self._places: dict[int, _Place] = {}
        """Where the event behind a number begins, of the last numbers that were read."""
        self._appending: Appending | None = None
        self._closed_bytes = 0
        with _wrapped():
            if own:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._go_on()
            elif not self._folder.is_dir():
                raise OutboxError("this outbox is gone, or is none: what it had is published, or look at its folder")

    # --- its writer's -----------------------------------------------------------------------------

    def end(self) -> Chain:
        """The end of the chain, to which the next event is added. The newest event always stays."""
        last = self.last()
        for event in self.events(last - 1, 1) if last else ():
            return Chain(self.writer, event.seq, event.link)
        return Chain(self.writer, last)

    def add(self, events: Sequence[Linked], time_ms: int) -> None:
        """Returns once all the events are on the disk. OutboxFull when there is no room for them.

        After an error none of them is there. The numbers go on from those of the newest event.
        """
        if not events:
            return
        data = b"".join([line_of(event) for event in events])
        with _wrapped():
            self._appending_for(len(data), events[0].seq, time_ms).append(data)

    def require_room(self) -> None:
        """OutboxFull when the disk has less free than `RESERVE`. Costs microseconds."""
        spare = self._appending.spare if self._appending is not None else 0
        if self._free() + spare < RESERVE:
            raise OutboxFull(_FULL)

    def _go_on(self) -> None:
        """Behind the newest event; segments without any are of a writer that was killed, or had no room."""
        segments = segments_of(self._folder)
        while segments and not self._appending:
            newest = segments.pop()
            offset = end_of(newest)
            if offset:
                self._appending = Appending(newest, offset, room=self._room_bytes)
            else:
                newest.path.unlink()
        self._closed_bytes = _bytes_of(segments)

    def _appending_for(self, size: int, seq: int, time_ms: int) -> Appending:
        """The segment that takes so many bytes more: a new one, where the newest is large enough."""
        appending = self._appending
        if self._max_bytes and self._used() + size > self._max_bytes:
            self._closed_bytes = _bytes_of(self._segments_before(appending))  # of which some may be pruned by now
            if self._used() + size > self._max_bytes:
                raise OutboxFull(_FULL)
        if appending is None or (appending.offset and appending.offset + size > self._segment_bytes):
            appending = self._next_segment(seq, time_ms)
        return appending

    def _next_segment(self, seq: int, time_ms: int) -> Appending:
        path = self._folder / name_of(seq, time_ms)
        appending = Appending(Segment(path, seq, time_ms), room=self._room_bytes)
        sync_folder(self._folder)
        if self._appending is not None:
            self._appending.close()
        self._appending = appending
        self._closed_bytes = _bytes_of(self._segments_before(appending))
        return appending

    def _segments_before(self, appending: Appending | None) -> list[Segment]:
        return [each for each in segments_of(self._folder) if appending is None or each.first < appending.segment.first]

    @property
    def _room_bytes(self) -> int:
        return min(ROOM, self._segment_bytes)

    # --- whoever reads it ---------------------------------------------------------------------------

    def events(self, after: int, limit: int, max_bytes: int = _BYTES_AT_ONCE) -> list[Linked]:
        """The events that come next, in order: `limit` of them, and no more than about `max_bytes`, but one.

        Their numbers are by their places, from that in their segment's name on. Of one that was touched since it was
        written, the line is the body, and it has no links.
        """
        found: list[Linked] = []
        with _wrapped():
            for seq, line, place in self._walk(after):
                found.append(event_in(line, seq))
                newest = (seq, place)
                max_bytes -= len(line)
                if len(found) >= limit or max_bytes <= 0:
                    break
        if found:
            self._remember(*newest)
        return found

    def unpublished(self, limit: int) -> list[Linked]:
        """The oldest events that are not known to be published, in order."""
        return self.events(self.published(), limit)

    def published(self) -> int:
        """Up to which number everything is known to be on the log."""
        return self._progress().published

    def backlog(self) -> int:
        """How many events are not known to be published."""
        return max(0, self.last() - self.published())  # the numbers have no gaps

    def last(self) -> int:
        """The newest event's number; 0 when there is none."""
        with _wrapped():
            for segment in reversed(segments_of(self._folder)):
                seq, offset = self._newest_known_in(segment)
                seq += count_lines(segment, offset)
                if seq >= segment.first:
                    return seq
        return 0

    def mark_published(self, upto: int) -> None:
        """Notes that everything up to this number is durable on the log. Never goes back."""
        progress = self._progress()
        if upto > progress.published:
            self._note(msgspec.structs.replace(progress, published=upto, place=self._places.get(upto)))

    def withhold(self, seq: int) -> None:
        """Notes that the log does not take this event: its digest is published in its place, and it stays here."""
        progress = self._progress()
        if seq not in progress.withheld:
            self._note(msgspec.structs.replace(progress, withheld=(*progress.withheld, seq)))

    def withheld(self) -> frozenset[int]:
        """The events of which the log has the digest alone."""
        return frozenset(self._progress().withheld)

    def prune(self, *, before_ms: int, keep: int, limit: int = 1_000) -> int:
        """Removes up to `limit` of the oldest segments, of which all events are published.

        Those whose events are all older than `before_ms` or beyond the newest `keep`, and from the oldest on without
        gaps. The newest one stays, with the end of the chain. Answers how many events were removed.
        """
        published, removed = self.published(), 0
        with _wrapped():
            for segment, following in list(pairwise(segments_of(self._folder)))[:limit]:
                last = following.first - 1
                if last > published or (following.time_ms > before_ms and last > published - keep):
                    break
                segment.path.unlink(missing_ok=True)
                removed += following.first - segment.first
                self._forget_withheld(last)
        return removed

    def room(self) -> Room:
        """How full it is. Costs microseconds to its writer; others read its newest segment."""
        with _wrapped():
            used = self._used() if self._appending is not None else self._used_by_others()
        most = used + max(0, self._free() - RESERVE)
        return Room(used=used, most=min(self._max_bytes or most, most))

    def close(self) -> None:
        """Lets go. Never raises."""
        if self._appending is not None:
            self._appending.close()
            self._appending = None

    def remove(self) -> None:
        """Closes and deletes all of it, for whoever holds its lock and has published all of it."""
        self.close()
        with _wrapped():
            shutil.rmtree(self._folder)

    # --- its small parts ----------------------------------------------------------------------------

    def _walk(self, after: int) -> Iterator[tuple[int, bytes, _Place]]:
        """Each event's number, its line, and the place behind it."""
        segments = segments_of(self._folder)
        begun = max((number for number, each in enumerate(segments) if each.first <= after + 1), default=0)
        for segment in segments[begun:]:
            seq, offset = self._known_in(segment, after)
            for line, end in lines(segment, offset):
                seq += 1
                if seq > after:
                    yield seq, line, (segment.first, end)

    def _known_in(self, segment: Segment, seq: int) -> tuple[int, int]:
        """That number, and where the event behind it begins; the segment's beginning, where that is not known."""
        place = self._places.get(seq)
        if place is None and (progress := self._progress()).published == seq:
            place = progress.place
        if place is not None and place[0] == segment.first and is_end_of_line(segment, place[1]):
            return seq, place[1]
        return segment.first - 1, 0

    def _newest_known_in(self, segment: Segment) -> tuple[int, int]:
        known = [seq for seq, (first, _) in self._places.items() if first == segment.first]
        return self._known_in(segment, max(known, default=self.published()))

    def _remember(self, seq: int, place: _Place) -> None:
        self._places[seq] = place
        if len(self._places) > _PLACES:
            del self._places[next(iter(self._places))]

    def _used(self) -> int:
        return self._closed_bytes + (self._appending.offset if self._appending is not None else 0)

    def _used_by_others(self) -> int:
        segments = segments_of(self._folder)
        return _bytes_of(segments[:-1]) + sum(end_of(newest) for newest in segments[-1:])

    def _forget_withheld(self, upto: int) -> None:
        progress = self._progress()
        kept = tuple(seq for seq in progress.withheld if seq > upto)
        if kept != progress.withheld:
            self._note(msgspec.structs.replace(progress, withheld=kept))

    def _progress(self) -> Progress:
        with _wrapped():
            return read_progress(self._folder)

    def _note(self, progress: Progress) -> None:
        with _wrapped():
            write_progress(self._folder, progress)

    def _free(self) -> int:
        with _wrapped():
            disk = os.statvfs(self._folder.parent)
        return disk.f_bavail * disk.f_frsize


class FileLock:
    """A claim that ends with its process, however that ends.

    It lies on a file of its own, which outlives what it is for.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """The lock, or None while someone else holds it. OutboxError when the folder can't be used."""
        with _wrapped():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return None
                if _is_at(path, descriptor):
                    return cls(path, descriptor)
                os.close(descriptor)  # its holder removed it between our opening and locking

    def release(self, *, remove: bool = False) -> None:
        """Gives the claim up; `remove` deletes the lock's file too."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def writer_lock(folder: Path, writer: str) -> FileLock | None:
    """The claim to be this writer; None while it lives."""
    return FileLock.take(file_of(folder, writer).with_suffix(".lock"))


def publishing_lock(folder: Path, writer: str) -> FileLock | None:
    """The claim to publish this writer's events, without which they would be doubled; None while another does."""
    return FileLock.take(file_of(folder, writer).with_suffix(".publishing"))


def writers(folder: Path) -> list[str]:
    """The writers that have an outbox in this folder, in the order of their names."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in folder.glob(f"*{_SUFFIX}"))


def file_of(folder: Path, writer: str) -> Path:
    """Where a writer's events lie. OutboxError when the name is none that a file can have."""
    if not _WRITER.fullmatch(writer):
        raise OutboxError("a writer's name has letters, digits, points, dashes and underscores: choose another")
    return folder / f"{writer}{_SUFFIX}"


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _bytes_of(segments: Sequence[Segment]) -> int:
    """Of closed ones; one that is pruned meanwhile has none."""
    return sum(size for each in segments if (size := _size_of(each)))


def _size_of(segment: Segment) -> int:
    try:
        return segment.path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _wrapped() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # of the disk, an owner's share, or a file's
            raise OutboxFull(_FULL) from error
        raise OutboxError("the outbox can't be written or read: look at its disk's space and permissions") from error
