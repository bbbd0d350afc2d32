"""Which generation the rows of a topic that others fill belong to.

Nobody writes a marker there. What the topic holds, from its start on, is the first generation. Another topic under
its name, a lost position, or someone's wish begins a newer one, beside the old. As all partitions of an entity must
come to the same generation, whatever process they are read by, its number is kept in `state`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headgate.errors import StateConflict, Unavailable
from headgate.model.pipeline import resnapshot_requests
from headgate.state.base import State

_TRIES: Final = 20


class _Refill(msgspec.Struct, frozen=True):
    generation: int
    log: str = ""
    """The identity of the topic that it is of; empty when that is not known."""
    partitions: int = 0
    """Over how many partitions that spread its keys then."""


_decode = msgspec.json.Decoder(_Refill).decode


class Refills:
    """The generations of one pipeline's tables. Safe in any number of processes."""

    def __init__(self, state: State, pipeline: str) -> None:
        self._state = state
        self._prefix = f"refill/{pipeline}/"
        self._wishes = resnapshot_requests(pipeline)

    def spread(self, table: str, log: str) -> int | None:
        """Over how many partitions the topic `log` spread its keys when it was first read; None: it was not."""
        found, _ = self._read(table)
        return found.partitions if found is not None and found.log == log else None

    def generation(self, table: str, log: str, held: int, partitions: int) -> int:
        """What rows of the topic `log` belong to. `held` is the newest that the store holds, of whatever topic.

        Unavailable when the topic had another number of partitions.
        """
        found, _ = self._read(table)
        if found is None or found.log != log:
            return self._raise(table, _Refill(held if found is None else held + 1, log, partitions))
        if found.partitions != partitions:
            raise Unavailable("A topic has got more partitions: what becomes of its entity is decided anew.")
        return found.generation if found.generation >= held else self._raise(table, _Refill(held, log, partitions))

    def begin(self, table: str, log: str, held: int, partitions: int) -> int:
        """A generation newer than `held`: what the store holds can't be gone on with."""
        return self._raise(table, _Refill(held + 1, log, partitions))

    def is_outdone(self, table: str, held: int) -> bool:
        """Whether a newer generation than this has begun. Takes wishes up first."""
        if self._state.get(self._wishes + table) is not None:
            newest = self._read(table)[0] or _Refill(held)
            self._raise(table, msgspec.structs.replace(newest, generation=max(held, newest.generation) + 1))
            self._state.delete(self._wishes + table)
        found, _ = self._read(table)
        return found is not None and found.generation > held

    def _raise(self, table: str, wanted: _Refill) -> int:
        """Moves to a generation of at least so much, unless another process has by now."""
        for _ in range(_TRIES):
            found, version = self._read(table)
            if found is not None and found.log == wanted.log and found.generation >= max(wanted.generation, 1):
                return found.generation
            known = found.generation if found is not None else 0
            moved = known + 1 if found is not None and found.log not in ("", wanted.log) else known
            refill = msgspec.structs.replace(wanted, generation=max(moved, wanted.generation, 1))
            try:
                self._state.put(self._prefix + table, msgspec.json.encode(refill), expect=version)
            except StateConflict:
                continue
            return refill.generation
        raise StateConflict("many processes change a table's generation at once: it is tried again")

    def _read(self, table: str) -> tuple[_Refill | None, int]:
        entry = self._state.get(self._prefix + table)
        if entry is None:
            return None, 0
        found = _decode(entry.value)
        is_whole = found.partitions > 0 or not found.log  # else it was noted by a version that knew less
        return found if is_whole else None, entry.version
