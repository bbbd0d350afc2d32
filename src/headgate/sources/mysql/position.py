"""How far a pipeline has captured a MySQL server: the order of its events, and what is noted of it in `state`."""

from __future__ import annotations

from typing import Any

import msgspec

from headgate.errors import SourceError
from headgate.model.change import Sequence
from headgate.sources.base import Notebook

_FILE_SHIFT = 40  # a binary log's file is far smaller than 1 TB


class Last(msgspec.Struct, frozen=True, kw_only=True):
    """The newest transaction that was read: who has the same one has the history that came before it.

    MariaDB's GTIDs are numbers, which servers that never met give out alike.
    """

    gtid: str
    time_s: int
    """Of its first event that changed something; replicas keep it."""
    before: str
    """All GTIDs that were read before it."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a transaction in the binary log: everything before it has been read."""

    file: str
    position: int
    gtids: str
    timeline: str
    """The server whose file and position these are. On another one, GTIDs alone lead on."""
    created_s: int = 0
    """When the server began the file: one of the same name that began at another time is another one. 0: not seen."""
    last: Last | None = None
    """On MariaDB, once a transaction was read."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What must outlast the process. `tables`: table → the generation of its last whole snapshot."""

    place: Place
    tables: dict[str, int] = {}


def sequence_of(file: str, position: int, event: int, timeline: str) -> Sequence:
    """The order of an event: its file's number, the position of its transaction's event, and its row.

    Files are numbered from one up without gaps (`binlog.000001`) as long as a server lives.
    """
    return Sequence((file_number(file) << _FILE_SHIFT) + position, event, timeline)


def file_number(file: str) -> int:
    """The number in a binary log's name."""
    digits = file.rpartition(".")[2]
    if not digits.isdigit():
        raise SourceError("the server's binary logs have no numbers in their names: name them as the server does")
    return int(digits)


class Notes:
    """The note of one pipeline. `state` that comes back empty leads to new snapshots, never to a gap."""

    def __init__(self, state: Notebook, pipeline: str) -> None:
        self._state = state
        self._key = f"mysql/{pipeline}"

    def read(self) -> Note | None:
        """What was noted last."""
        entry = self._state.get(self._key)
        return None if entry is None else _decode(entry.value)

    def write(self, note: Note) -> None:
        """Notes it. The source's lock keeps others from writing at the same time."""
        self._state.put(self._key, _encode(note))

    def forget(self) -> bool:
        """Answers whether there was one."""
        return self._state.delete(self._key)


_decode = msgspec.json.Decoder(Note).decode
_encode: Any = msgspec.json.encode
