"""The lanes of one process: each is one partition of one entity, with the progress that the store holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from headgate.errors import Unavailable
from headgate.failpoints import reach
from headgate.flow.heartbeat import Heartbeats
from headgate.flow.refills import Refills
from headgate.flow.touching import Touching
from headgate.log.base import Log
from headgate.model.entity import Entity
from headgate.model.position import Partition, Position, Progress
from headgate.stores.base import Write, Writer

OnLost: TypeAlias = Callable[[str], None]
"""Called with a table's name."""
OnSwitched: TypeAlias = Callable[[Entity, int], None]


@dataclass
class Lane:
    """One partition of one entity."""

    entity: Entity
    partition: Partition
    progress: Progress
    """As the store holds it."""
    start: Progress
    """What the next write goes on from: `progress`, but for what taking over the partition has changed."""
    visible: bool = False
    """Whether readers see the generation that rows go to. Until then its freshness is not theirs."""
    halted: bool = False
    """Whether it takes no records for the rest of this run, and keeps its position."""


class Lanes:
    """The lanes that are this process's now. Used by the thread that materializes."""

    def __init__(
        self,
        entities: Sequence[Entity],
        writer: Writer,
        log: Log,
        *,
        topic_of: Callable[[str], str],
        lost: OnLost,
        distrust: bool,
        refills: Refills | None = None,
        touching: Touching | None = None,
        switched: OnSwitched | None = None,
    ) -> None:
        """`lost` is told of each table whose topic no longer holds what a position needs; `topic_of` names topics.

        With `distrust`, no position is trusted but that of a build that was never filled: reading has failed.
        With `refills`, others fill the topics: no marker says where a generation begins and ends. `touching` tells
        those who wait for rows. `switched` is told of each generation that readers are found to see.
        """
        self._refills = refills
        self._touching = touching or Touching()
        self._switched = switched
        self._writer = writer
        self._lost = lost
        self._distrust = distrust
        self._log = log
        self._of_topic: dict[str, list[Entity]] = {}
        for entity in entities:
            self._of_topic.setdefault(topic_of(entity.table), []).append(entity)
        self._lanes: dict[tuple[str, Partition], Lane] = {}
        self._has_letters = False

    @property
    def topics(self) -> list[str]:
        """The topics that feed these entities."""
        return sorted(self._of_topic)

    def assign(self, partitions: frozenset[Partition]) -> Position:
        """Takes partitions over at the store, and answers where to read each from."""
        topics = sorted({partition.topic for partition in partitions})
        ends, identities = self._log.end(topics), self._log.identities(topics)
        self._refuse_others(partitions.union(ends))
        start: dict[Partition, int] = {}
        for topic in topics:
            mine = sorted(partition for partition in partitions if partition.topic == topic)
            for entity in self._of_topic[topic]:
                claimed = self._writer.claim(entity.name, [partition.number for partition in mine])
                self._touching.entity(entity.name)  # whoever had them may have ended before it told of its last step
                reach("materialize.claimed")
                for partition in mine:
                    stored = claimed[partition.number]
                    begin = self._begin(entity, stored, ends.get(partition, 0), identities.get(topic, ""))
                    self._lanes[entity.name, partition] = Lane(entity, partition, stored, begin)
                    start[partition] = min(start.get(partition, begin.offset), begin.offset)
        self.show_whole()
        if self._refills is not None:  # what others have written may have lost its beginning
            return {partition: offset for partition, offset in start.items() if offset > 0}
        return start

    def _refuse_others(self, partitions: frozenset[Partition]) -> None:
        """Another number of partitions than an entity was built for has moved its keys: the next run begins anew."""
        counts: dict[str, int] = {}
        for topic, number in partitions:
            counts[topic] = max(counts.get(topic, 0), number + 1)
        for topic, count in counts.items():
            if any(entity.partitions != count for entity in self._of_topic[topic]):
                raise Unavailable(f"The topic {topic} has another number of partitions now: its entities begin anew.")

    def revoke(self, partitions: frozenset[Partition]) -> None:
        """Gives partitions up. Their next claimant fences us off."""
        self._lanes = {place: lane for place, lane in self._lanes.items() if lane.partition not in partitions}

    def of(self, partition: Partition) -> list[Lane]:
        """The lanes that a partition's records go to."""
        return [
            lane
            for entity in self._of_topic.get(partition.topic, ())
            if (lane := self._lanes.get((entity.name, partition))) is not None and not lane.halted
        ]

    def halt(self, lane: Lane) -> None:
        """The lane stands still, and so does its freshness. The others of its partition go on."""
        lane.halted = True

    def all(self) -> list[Lane]:
        """Every lane."""
        return list(self._lanes.values())

    def applied(self, writes: Sequence[Write]) -> None:
        """Notes what the store holds now."""
        for write in writes:
            self._has_letters |= bool(write.dead_letters)
            lane = next(lane for lane in self.all() if _is_of(lane, write))
            if lane.visible:
                self._touching.wrote(write, lane.progress)
            if write.progress.generation != lane.progress.generation:
                lane.visible = False
            lane.progress = lane.start = write.progress

    def take_has_letters(self) -> bool:
        """Whether a step has left dead letters since this was last asked."""
        has_letters, self._has_letters = self._has_letters, False
        return has_letters

    def _begin(self, entity: Entity, stored: Progress, end: int, identity: str) -> Progress:
        """Where to go on. A log that has lost what came before is read from its start, for a newer snapshot.

        Until that begins, rows stand still, and so does their freshness: they never go back in time.
        """
        if self._refills is not None:
            return self._begin_refill(self._refills, entity, stored, end, identity)
        if stored.offset == 0:
            return msgspec.structs.replace(stored, log=identity, target=end)
        recreated = stored.log != identity
        if not recreated and not self._distrust and stored.offset <= end:
            return stored
        if not recreated:
            self._lost(entity.table)  # capture sees by itself that a topic is another one
        return msgspec.structs.replace(
            stored, offset=0, log=identity, target=0, awaiting=True, ended=False, complete=False, high_water=None
        )

    def _begin_refill(self, refills: Refills, entity: Entity, stored: Progress, end: int, identity: str) -> Progress:
        """Where others fill the topic: what it holds from its start to its end now is a generation."""
        table, partitions = entity.table, entity.partitions
        generation = refills.generation(table, identity, stored.generation, partitions)
        is_held = stored.log == identity and stored.generation == generation
        if is_held and not self._distrust and 0 < stored.offset <= end:
            return stored
        if is_held and stored.offset > 0:
            generation = refills.begin(table, identity, stored.generation, partitions)
        return msgspec.structs.replace(
            stored, offset=0, log=identity, target=end, generation=generation, awaiting=False, ended=True,
            complete=end == 0, high_water=None,
        )  # fmt: skip

    def are_outdone(self) -> bool:
        """Whether someone has begun a newer generation of topics that others fill."""
        held: dict[str, int] = {}
        for lane in self.all():
            held[lane.entity.table] = min(held.get(lane.entity.table, lane.start.generation), lane.start.generation)
        refills = self._refills
        return refills is not None and any(refills.is_outdone(table, least) for table, least in held.items())

    def show_whole(self) -> None:
        """Switches readers to generations that are whole by now, and tells what they now see otherwise.

        Also after a crash before the switch.
        """
        for lane in self.all():
            if lane.progress.complete and not lane.visible:
                lane.visible = self._writer.switch(lane.entity.name, lane.progress.generation)
                reach("materialize.switched")
                if lane.visible:
                    self._touching.entity(lane.entity.name)
                if lane.visible and self._switched is not None:
                    self._switched(lane.entity, lane.progress.generation)
        self._touching.tell()

    def tell(self) -> None:
        """Tells those who wait for rows which ones were written since they were last told. Returns at once."""
        self._touching.tell()

    def are_of(self, beats: Heartbeats) -> bool:
        """Whether the topics are still those that positions count in, and have no more partitions than are read."""
        return not any(
            beats.is_another(lane.partition.topic, lane.start.log, lane.entity.partitions) for lane in self.all()
        )

    def freshen(self, beats: Heartbeats, reached: Position) -> list[Write]:
        """The writes that move lanes' freshness and nothing else.

        Where others fill the topics, also their positions, to what was `reached` by reading: no record of theirs may
        lie before a partition's end, as what ends a transaction takes a place too.
        """
        writes = []
        for lane in self.all():
            before = lane.progress if self._refills is None else _moved(lane, reached)
            progress = lane.progress if lane.halted else with_freshness(lane, before, beats)
            if progress != lane.progress and (self._refills is not None or progress.as_of_ms != lane.progress.as_of_ms):
                writes.append(_progress_only(lane, progress))
        return writes


def with_freshness(lane: Lane, progress: Progress, beats: Heartbeats) -> Progress:
    """The progress with the newest heartbeat's time that its offset has reached.

    While a generation is filled beside the visible one, the visible one stands still, and so does its time: also where
    a whole snapshot comes in one step, after which readers see the old rows until they are switched.
    """
    is_seen = lane.visible and progress.generation == lane.progress.generation
    if not is_seen or not progress.complete:
        return progress
    partitions = lane.entity.partitions
    as_of_ms = beats.as_of_ms(lane.partition, progress.offset, progress.log, partitions, progress.as_of_ms)
    return msgspec.structs.replace(progress, as_of_ms=as_of_ms)


def _is_of(lane: Lane, write: Write) -> bool:
    return lane.entity.name == write.entity and lane.partition.number == write.partition


def _moved(lane: Lane, reached: Position) -> Progress:
    offset = max(lane.start.offset, reached.get(lane.partition, 0))
    complete = lane.start.ended and offset >= lane.start.target
    return msgspec.structs.replace(lane.start, offset=offset, complete=complete)


def _progress_only(lane: Lane, progress: Progress) -> Write:
    return Write(entity=lane.entity.name, partition=lane.partition.number, expected=lane.progress, progress=progress)
