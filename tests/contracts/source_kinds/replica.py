"""What a reader of the log makes of a capture: the rows of each table, by the rules of the log alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from headgate.model.change import Change
from headgate.model.change import Sequence as SourceSequence
from headgate.model.envelope import encode_change, source_prefix
from headgate.model.table import Table
from headgate.sources.base import Batch, Capture, Head
from headgate.telemetry import wall_clock_ms

from .base import Ground

DEADLINE_S = 60.0


class Replica:
    """Applies changes as records: a snapshot fills beside the rows and takes their place at its end.

    What is strictly older than the newest change applied is dropped, and after a snapshot what is older
    than its end. It outlives the runs that feed it, as a log and a store do.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.tables: dict[str, Table] = {}
        self._rows: dict[str, dict[bytes, dict[str, Any]]] = {}
        self._filling: dict[str, dict[bytes, dict[str, Any]]] = {}
        self._high_water: dict[str, SourceSequence] = {}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of an unqualified table, whatever their order."""
        return list(self._rows.get(self._ground.qualified(table), {}).values())

    def holds(self, table: str) -> bool:
        """Whether the rows are those of the owner now."""
        return sorted(map(_text, self.rows(table))) == sorted(map(_text, self._ground.rows(table)))

    def take(self, batch: Batch) -> list[Change]:
        """Applies a batch and answers its changes, both as they come out of the log's envelope."""
        self.tables.update({table.name: table for table in batch.tables})
        return [self._apply(self._through_the_log(change)) for change in batch.changes]

    def _through_the_log(self, change: Change) -> Change:
        prefix = source_prefix(self._ground.connector, "shop", "database", change.table)
        read = self._ground.decode(change.key, encode_change(change, prefix))
        assert read is not None
        return read

    def _apply(self, change: Change) -> Change:
        if change.op == "m":
            self._mark(change)
        elif change.op == "r":
            assert change.key is not None and change.after is not None and change.snapshot
            self._filling[change.table][change.key] = json.loads(change.after)
        elif not self._is_old(change):
            self._set(self._rows.setdefault(change.table, {}), change)
            if change.table in self._filling:
                self._set(self._filling[change.table], change)
        return change

    def _mark(self, change: Change) -> None:
        assert change.marker is not None and change.key is None
        if change.marker.phase == "begin":
            self._filling[change.table] = {}
        else:
            assert change.sequence is not None
            self._rows[change.table] = self._filling.pop(change.table)
            self._high_water[change.table] = change.sequence

    def _is_old(self, change: Change) -> bool:
        assert change.sequence is not None
        if change.sequence < self._high_water.get(change.table, change.sequence):
            return True
        self._high_water[change.table] = change.sequence
        return False

    def _set(self, rows: dict[bytes, dict[str, Any]], change: Change) -> None:
        if change.op == "t":
            rows.clear()
        elif change.op == "d":
            rows.pop(change.key or b"", None)
        else:
            assert change.key is not None and change.after is not None and not change.partial
            rows[change.key] = json.loads(change.after)


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


class Run:
    """One run of capture, feeding a replica; closed at the end of its block."""

    def __init__(
        self,
        ground: Ground,
        replica: Replica,
        tables: Sequence[str] = (),
        *,
        batch: int = 1000,
        resnapshot: Sequence[str] = (),
        confirm: bool = True,
    ) -> None:
        self.replica = replica
        self.seen: list[Change] = []
        self.heads: list[Head] = []
        self.confirms = confirm
        self.capture: Capture = ground.source(tables, batch=batch).capture(
            resnapshot=[ground.qualified(table) for table in resnapshot], now_ms=wall_clock_ms
        )
        self.batches: Iterator[Batch] = self.capture.batches(0.05)

    def step(self) -> Batch:
        """The next batch, applied and, if this run does so, confirmed."""
        batch = next(self.batches)
        self.seen += self.replica.take(batch)
        if batch.head is not None:
            self.heads.append(batch.head)
        if self.confirms:
            self.capture.confirm(batch.token)
        return batch

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Takes batches until something holds. Fails when it doesn't within the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
            self.step()

    def catch_up(self, *tables: str) -> list[Change]:
        """Takes batches until the replica holds the owner's rows and a head has come; answers the new changes."""
        before, heads = len(self.seen), len(self.heads)
        self.until(lambda: all(map(self.replica.holds, tables)), f"the rows of {', '.join(tables)}")
        self.until(lambda: len(self.heads) > heads, "a head")
        return self.seen[before:]

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.capture.close()
