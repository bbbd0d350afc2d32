"""Takes a batch of records to the store: folds it per lane, writes it in atomic steps, then commits the hint."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import NamedTuple

import msgspec

from headgate.failpoints import reach
from headgate.flow.definition import declared_of
from headgate.flow.fitting import Fitting
from headgate.flow.folding import MOST_BYTES, MOST_ROWS, Folding
from headgate.flow.halting import Halting
from headgate.flow.heartbeat import Heartbeats
from headgate.flow.lanes import Lane, Lanes, with_freshness
from headgate.flow.materializing import Decoding, Materializing
from headgate.log.base import Reader, Slice
from headgate.model.entity import Entity
from headgate.model.position import Partition, Position
from headgate.model.row import Row
from headgate.model.table import Table
from headgate.stores.base import Write, Writer


class Applying:
    """One run's way from records to rows. One thread uses it."""

    def __init__(
        self,
        rooms: Materializing,
        writer: Writer,
        lanes: Lanes,
        reader: Reader,
        beats: Heartbeats,
        halting: Halting,
    ) -> None:
        self._rooms = rooms
        self._writer = writer
        self._lanes = lanes
        self._reader = reader
        self._beats = beats
        self._halting = halting
        self._fittings: dict[str, Fitting] = {}
        self._decodings: dict[str, Decoding] = {}

    def define(self, entities: Sequence[Entity], tables: Mapping[str, Table]) -> None:
        """What rows are checked against from now on."""
        said = {declared.name: declared for declared in declared_of(self._rooms, tables)}
        self._fittings = {entity.name: Fitting(entity, said[entity.name]) for entity in entities}

    def apply(self, records: Sequence[Slice]) -> None:
        """Writes records, in their partitions' order. Refused when another process has taken a partition over.

        While the store does one step the next is made ready.
        """
        self._writer.apply_each(self._steps(records))
        reach("materialize.stepped")
        self._lanes.show_whole()
        self._reader.commit(self._reached({mine.partition for mine in records}))
        reach("materialize.committed")

    def _reached(self, partitions: Set[Partition]) -> Position:
        """How far all lanes of these partitions have come."""
        return {
            partition: min(lane.progress.offset for lane in lanes)
            for partition in partitions
            if (lanes := self._lanes.of(partition))
        }

    def write(self, writes: Sequence[Write]) -> None:
        """One atomic step."""
        self._writer.apply(writes)
        self._lanes.applied(writes)
        self._lanes.tell()

    def _steps(self, records: Sequence[Slice]) -> Iterator[Sequence[Write]]:
        """Atomic steps, each folded when it is asked for.

        What one is based on is what the step before leaves. It may still be under way: should it fail, this run is
        over, and the next one claims everything anew.
        """
        for parts in _rounds(records):
            for step in _grouped(self._fold(parts)):
                reach("materialize.folded")
                yield step
                self._lanes.applied(step)

    def _fold(self, parts: Sequence[_Part]) -> list[list[Write]]:
        """Per lane, its writes in order."""
        folded = []
        for part in parts:
            for lane in self._lanes.of(part.records.partition):
                writes = self._fold_lane(lane, part.records)
                if any(write.dead_letters for write in writes):
                    writes = self._halting.judged(lane, writes, partial(self._fold_before, lane, part.records))
                if writes and part.is_last:
                    fresh = with_freshness(lane, writes[-1].progress, self._beats)
                    writes[-1] = msgspec.structs.replace(writes[-1], progress=fresh)
                if writes:
                    folded.append(writes)
        return folded

    def _fold_lane(self, lane: Lane, records: Slice) -> list[Write]:
        entity = lane.entity.name
        decoding = self._decoding_of(lane.entity.table)
        read = self._read_of(entity)
        folding = Folding(lane, self._fittings[entity], decoding.change, read, decoding.rows, decoding.keys)
        return folding.fold(records, self._rooms.clock())

    def _decoding_of(self, table: str) -> Decoding:
        known = self._decodings.get(table)
        if known is None:
            known = self._decodings[table] = self._rooms.decoding(table)
        return known

    def _fold_before(self, lane: Lane, records: Slice, offset: int) -> list[Write]:
        return self._fold_lane(lane, records.part(0, bisect_left(records.offsets, offset)))

    def fitting(self, entity: str) -> Fitting:
        """What rows of an entity are checked against now."""
        return self._fittings[entity]

    def _read_of(self, entity: str) -> Callable[[int, Sequence[str]], dict[str, Row]]:
        return lambda generation, keys: self._writer.read(entity, generation, keys)


class _Part(NamedTuple):
    """As much of a slice as may become one step."""

    records: Slice
    is_last: bool


def _rounds(records: Sequence[Slice]) -> Iterator[list[_Part]]:
    """The slices in parts that are small enough for one step; the first ones, then the second ones, and so on."""
    cut = [list(_parts(mine)) for mine in records]
    for round_ in range(max(map(len, cut), default=0)):
        yield [_Part(parts[round_], round_ + 1 == len(parts)) for parts in cut if round_ < len(parts)]


def _parts(records: Slice) -> Iterator[Slice]:
    is_small = records.size() <= MOST_BYTES
    for start in range(0, len(records), MOST_ROWS):
        part = records.part(start, min(start + MOST_ROWS, len(records)))
        yield from [part] if is_small else _halved(part)


def _halved(records: Slice) -> Iterator[Slice]:
    """Bounded in bytes too; a record that is larger alone is a part of its own."""
    if len(records) == 1 or records.size() <= MOST_BYTES:
        yield records
        return
    half = len(records) // 2
    yield from _halved(records.part(0, half))
    yield from _halved(records.part(half, len(records)))


def _grouped(folded: Sequence[list[Write]]) -> list[list[Write]]:
    """Groups the lanes' writes into atomic steps: each lane's in order, bounded in rows and bytes."""
    steps: list[list[Write]] = []
    for round_ in range(max(map(len, folded), default=0)):
        steps.extend(chunks([writes[round_] for writes in folded if round_ < len(writes)]))
    return steps


def chunks(writes: Sequence[Write]) -> list[list[Write]]:
    """Bounded in rows, so that readers never wait long, and in bytes, so that no step needs much memory."""
    if len(writes) == 1:
        return [list(writes)]
    bounded: list[list[Write]] = []
    rows = size = 0
    for write in writes:
        rows += len(write.puts) + len(write.deletes) + len(write.flaws)
        size += sum(map(len, write.puts.values()))
        if not bounded or rows > MOST_ROWS or size > MOST_BYTES:
            bounded.append([])
            rows = len(write.puts) + len(write.deletes) + len(write.flaws)
            size = sum(map(len, write.puts.values()))
        bounded[-1].append(write)
    return bounded
