"""Tables that stand still on their own, and tables that are to be snapshotted again.

A change too large for the log stops its table alone: what came after it can't be trusted until the whole
table has been read again. Both facts live in `state`, so that they outlast the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from headgate.errors import HeadgateError
from headgate.flow.layout import Layout
from headgate.model.pipeline import Fault, resnapshot_requests
from headgate.state.base import State

_decode = msgspec.json.Decoder(Fault).decode


class Stops:
    """The stopped tables of one pipeline, and the wanted snapshots."""

    def __init__(self, state: State, pipeline: str) -> None:
        self._state = state
        self._stopped = f"stopped/{pipeline}/"
        self._wanted = resnapshot_requests(pipeline)
        self._logs = f"snapshot-log/{pipeline}/"
        self._faults = stopped(state, pipeline)

    def asked(self, tables: Iterable[str]) -> list[str]:
        """Which of these tables someone wants read again."""
        asked = {key.removeprefix(self._wanted) for key in self._state.scan(self._wanted)}
        return sorted(asked.intersection(tables))

    def has_requests(self) -> bool:
        """Whether someone wants any table of the pipeline read again. Any thread may ask."""
        return bool(self._state.scan(self._wanted))

    def wanted(self, lying: Mapping[str, Layout]) -> list[str]:
        """Tables to be read whole: someone asked, or they do not lie in the log as their last snapshot does."""
        known = {key.removeprefix(self._logs): entry.value for key, entry in self._state.scan(self._logs).items()}
        moved = [table for table, layout in lying.items() if known.get(table) != _noted(layout)]
        return sorted({*self.asked(lying), *moved})

    def snapshotted(self, table: str, layout: Layout) -> None:
        """A snapshot of this table has gone whole to that topic, and to all of its partitions."""
        self._state.put(self._logs + table, _noted(layout))

    def is_stopped(self, table: str) -> bool:
        """Whether this table's changes are passed over."""
        return table in self._faults

    def faults(self) -> tuple[Fault, ...]:
        """Why tables stand still, in the order of their names."""
        return tuple(fault for _, fault in sorted(self._faults.items()))

    def stop(self, table: str, error: HeadgateError, now_ms: int) -> None:
        """Stops one table."""
        message = f"Table {table} stands still until it is read again (--resnapshot): {error.message}"
        fault = Fault(code=error.code, message=message, since_ms=now_ms)
        self._faults[table] = fault
        self._state.put(self._stopped + table, msgspec.json.encode(fault))

    def remind(self) -> None:
        """Notes again what `state` has lost: a table must not count again only because its server came back empty."""
        for table, fault in self._faults.items():
            if self._state.get(self._stopped + table) is None:
                self._state.put(self._stopped + table, msgspec.json.encode(fault))

    def restart(self, table: str) -> None:
        """A snapshot of this table begins: it counts again, and is no longer wanted."""
        self._state.delete(self._wanted + table)
        if self._faults.pop(table, None) is not None:
            self._state.delete(self._stopped + table)


def _noted(layout: Layout) -> bytes:
    return f"{layout.identity} {layout.partitions}".encode()


def stopped(state: State, pipeline: str) -> dict[str, Fault]:
    """The stopped tables of a pipeline and why."""
    prefix = f"stopped/{pipeline}/"
    return {key.removeprefix(prefix): _decode(entry.value) for key, entry in state.scan(prefix).items()}


def want_resnapshot(state: State, pipeline: str, table: str) -> None:
    """Asks whoever captures the pipeline to read this table again, whole: within about a second."""
    state.put(resnapshot_requests(pipeline) + table, b"1")
