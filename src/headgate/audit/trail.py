"""Trails: the events of the record where they lie (outboxes, the log, an export), as entries to verify."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import msgspec

from headgate.audit.event import CONTENT_TYPE
from headgate.audit.outbox_file import OutboxFile, file_of, writers
from headgate.audit.publisher import CALLS_TOPIC, LINK_HEADER, PREVIOUS_HEADER, SEQ_HEADER, WRITER_HEADER
from headgate.audit.verify import Entry
from headgate.errors import OutboxError, RecordDamaged, Unavailable
from headgate.log.base import Log, Logged
from headgate.model.position import Partition

_AT_ONCE = 2_000
_POLL_S = 1.0
_PATIENCE = 30
"""So many polls without a record before the log's end make it unavailable."""


class Foreign(msgspec.Struct, frozen=True, gc=False):
    """Something in a trail that is no entry, and where it stands."""

    message: str


Taken: TypeAlias = Entry | Foreign
Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with how much is read, and of how much."""


class _Envelope(msgspec.Struct, frozen=True):
    id: str


_id_in = msgspec.json.Decoder(_Envelope).decode


def event_id_in(body: bytes) -> str:
    """The CloudEvents id of an event; empty where there is none to be read."""
    try:
        return _id_in(body).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def nobody(done: int, total: int) -> None:
    """Tells nobody."""


# --- outboxes ------------------------------------------------------------------------------------


def outbox_trail(folder: Path, *, unpublished: bool = False, progress: Progress = nobody) -> Iterator[Taken]:
    """The events of every outbox of a folder, writer by writer; `unpublished` ones alone where that is asked.

    OutboxError when one can't be read. One that is published and removed meanwhile is left out.
    """
    files = [file for writer in writers(folder) if (file := _opened(folder, writer))]
    try:
        starts = [file.published() if unpublished else 0 for file in files]
        ends = [file.last() for file in files]
        total, done = sum(max(0, end - start) for start, end in zip(starts, ends, strict=True)), 0
        for file, start, end in zip(files, starts, ends, strict=True):
            for entry in _of_file(file, start, end):
                yield entry
                done += 1
                if done % _AT_ONCE == 0:
                    progress(done, total)
    finally:
        for file in files:
            file.close()


def _opened(folder: Path, writer: str) -> OutboxFile | None:
    try:
        return OutboxFile(folder, writer)
    except OutboxError:
        if file_of(folder, writer).exists():
            raise
        return None


def _of_file(file: OutboxFile, after: int, end: int) -> Iterator[Taken]:
    while after < end and (events := file.events(after, _AT_ONCE)):
        for event in events:
            after = event.seq
            try:
                if event_id_in(event.body) != event.id:
                    raise ValueError("the id beside an event is not its own")
                yield Entry(file.writer, event.seq, event.id, event.previous, event.link, event.body)
            except (TypeError, ValueError):
                yield Foreign(f"the event {event.seq} of the outbox {file.writer} is no event of ours any more")


# --- the log -------------------------------------------------------------------------------------


def log_trail(log: Log, *, progress: Progress = nobody) -> Iterator[Taken]:
    """Every event that is on the log now, a writer's in the log's order. Unavailable when the log does not answer."""
    ends = log.end([CALLS_TOPIC.name])
    total, done = sum(ends.values()), 0
    for partition, end in sorted(ends.items()):
        for record in _of_partition(log, partition, end):
            yield record if isinstance(record, Foreign) else _entry_of(record)
            done += 1
            if done % _AT_ONCE == 0:
                progress(done, total)


def _of_partition(log: Log, partition: Partition, end: int) -> Iterator[Logged | Foreign]:
    if end == 0:
        return
    with closing(log.read({partition: None}, tell_ends=True)) as reader:
        silent = 0
        while silent < _PATIENCE:
            try:
                records = reader.poll(_AT_ONCE, _POLL_S)
            except RecordDamaged as error:
                if error.offset >= end:
                    return
                yield _foreign(partition, error.offset)
                reader.seek({partition: error.offset + 1})
                records = ()
            silent = 0 if records else silent + 1
            for record in records:
                if record.offset < end:
                    yield record
            if reader.reached().get(partition, 0) >= end:
                return
    raise Unavailable("the log does not hand out its events: look whether its brokers run")


def _entry_of(record: Logged) -> Taken:
    try:
        return _parsed(record)
    except (KeyError, ValueError, TypeError, AttributeError):  # a damaged file may hold values of any type
        return _foreign(record.partition, record.offset)


def _foreign(partition: Partition, offset: int) -> Foreign:
    return Foreign(f"the record at offset {offset} of {partition.topic} is no event of the record")


def _parsed(record: Logged) -> Entry:
    """ValueError or KeyError for a record that is not wholly as the publisher makes it."""
    headers = dict(record.headers)
    previous, link, seq = headers[PREVIOUS_HEADER], headers[LINK_HEADER], headers[SEQ_HEADER]
    writer, body = headers[WRITER_HEADER], record.value
    if body is None or writer != record.key or len(headers) != len(record.headers) or len(headers) != 5:
        raise ValueError("no record of ours")
    if headers["content-type"] != CONTENT_TYPE or str(int(seq)).encode() != seq:
        raise ValueError("no header of ours")
    return Entry(writer.decode(), int(seq), event_id_in(body), _unhex(previous), _unhex(link), body)


def _unhex(text: bytes) -> bytes:
    data = bytes.fromhex(text.decode())
    if data.hex().encode() != text:
        raise ValueError("hex in another form")
    return data
