"""Stores: where entity rows are read from.

Physical form, in every kind: per entity and *build* (the form of its rows, `Entity.build`), rows live in
*generations*. A pointer per entity names the build and generation that readers see. Writers fill any
generation; `switch` moves the pointer once every partition of the build holds that generation whole.
A row is stamped with its partition and that partition's truncate epoch, and is gone for readers when its
epoch is older than the partition's. Indexes are sets of keys, and each key found is checked against its
row (DESIGN §4.6).

A kind is a module with `open_writer(target, entities)` and `open_reader(target)`; see each file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress, Watermark
from headgate.model.question import Question
from headgate.model.row import Row

Cut: TypeAlias = Literal["rows", "bytes", "time"]
"""What bounded an answer. `time`: more may match, and looking further would take too long."""


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """What one step writes for one partition of one entity's build."""

    entity: str
    partition: int
    expected: Progress
    """What must stand in the store, fence included, or nothing is written."""
    progress: Progress
    """What stands there afterwards. Rows go to its `generation`, stamped with its `epoch`."""
    puts: Mapping[str, bytes] = {}
    """Key text → the row's JSON."""
    deletes: frozenset[str] = frozenset()
    flaws: Mapping[str, str] = {}
    """Key text → code of the dead letter: the stored row is kept but marked; absent rows get `{}`."""
    dead_letters: Sequence[DeadLetter] = ()
    """Letters to keep, in place of those with the same ids. One that was never tried again is due to be copied."""
    settled: Sequence[str] = ()
    """Ids of letters of this entity's pipeline that are removed in the same step."""


class Writer(Protocol):
    """The one way into a store. One thread uses it. Entities are those it was opened with."""

    def define(self, entities: Sequence[Entity]) -> None:
        """Publishes the entities' definitions to readers. Idempotent; a later one replaces an earlier."""

    def claim(self, entity: str, partitions: Sequence[int]) -> dict[int, Progress]:
        """Takes over partitions of the entity's current build: raises each fence, atomically.

        Answers the progress as it now stands. Every earlier claimant's next `apply` is refused.
        """

    def read(self, entity: str, generation: int, keys: Sequence[str]) -> dict[str, Row]:
        """The rows of the entity's current build in that generation, as a writer needs them for merging."""

    def apply(self, writes: Sequence[Write]) -> None:
        """Writes rows, indexes, dead letters and progress of all these partitions in one atomic step.

        Refused when any expected progress is not the stored one: then nothing at all was written.
        Index entries follow the store's own old row. After any error the caller claims anew.
        """

    def apply_each(self, steps: Iterable[Sequence[Write]]) -> None:
        """Applies each step as `apply` does, in order; returns once all are written.

        A step may be taken from `steps` before the one before it is known to be written, and may be made of what
        `read` finds: that shows what all steps before it have left. After any error, which may come of any step
        that was taken, those behind it are not written, and the caller claims anew.
        """

    def switch(self, entity: str, generation: int) -> bool:
        """Points readers at this build and generation, if every partition holds it whole and it is not older.

        Answers whether readers now see it. Idempotent, any number of processes may call it.
        """

    def sweep(self, entity: str, limit: int) -> int:
        """Removes up to `limit` rows and index entries of builds, generations and epochs that nobody reads.

        Answers how many it removed; 0 when nothing is left. Safe at any time beside readers and writers.
        """

    def dead_letter_ids(self, pipeline: str) -> Sequence[str]:
        """The ids of all dead letters of a pipeline, the oldest first."""

    def dead_letters(self, pipeline: str, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The dead letters of these ids that are there, in the order of `ids`."""

    def uncopied_dead_letters(self, pipeline: str, limit: int) -> Sequence[DeadLetter]:
        """Up to `limit` letters that are not noted as copied, in no order."""

    def note_copied(self, pipeline: str, ids: Sequence[str]) -> None:
        """Notes that these letters are copied for good. Idempotent."""

    def drop_dead_letters(self, pipeline: str, ids: Sequence[str]) -> int:
        """Removes dead letters; answers how many there were."""

    def close(self) -> None:
        """Lets go. Never raises."""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on a sorted field; None is open."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows, in which order. Equality on lookup or sorted fields, ranges and order on sorted ones.

    `after` is the `Rows.cursor` of the page before, of the same query but for `limit` and `max_bytes`. Without
    `order` rows come in the key text's order; or, where ranges are all there is, in that of the first of
    their fields by name.
    """

    equals: Mapping[str, Any] = {}
    ranges: Mapping[str, Range] = {}
    order: str | None = None
    direction: Literal["asc", "desc"] = "asc"
    limit: int = 100
    max_bytes: int = 256 * 1024
    after: str | None = None


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and the watermark they were read at, from one snapshot of the store."""

    rows: Sequence[Row]
    watermark: Watermark
    cursor: str | None = None
    """Where to go on, when more rows match."""
    cut: Cut | None = None
    """What bounded the page, when more rows match."""


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """A relation to follow from each row, and how far.

    Only related rows that have these values (`equals`, of lookup or sorted fields) count.
    """

    relation: str
    limit: int = 20
    equals: Mapping[str, Any] = {}


class JoinQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Rows by their keys, or by the values of a lookup or sorted field; and what relations of theirs lead to.

    By `keys` rows come in that order; by `field` as `lookup` has them, at most `limit`. `equals` as for `Join`.
    Once rows of `max_bytes` are found, later ones are left out, but never the first of the answer.
    """

    keys: Sequence[str] = ()
    field: str | None = None
    values: Sequence[Any] = ()
    equals: Mapping[str, Any] = {}
    limit: int = 100
    joins: Sequence[Join] = ()
    max_bytes: int = 1 << 20


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """What one relation of one row leads to, in the relation's order."""

    rows: Sequence[Row] = ()
    cut: Cut | None = None
    """What bounded them, when there are more."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and the rows that they lead to, from one snapshot of the store."""

    rows: Sequence[Row]
    related: Mapping[str, Sequence[Related]]
    """Relation → for each of `rows` what it leads to."""
    watermarks: Sequence[Watermark]
    """That of the entity, then those of the relations' entities, each once, by name."""
    cut: Cut | None = None


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows there are; with `more`, there are more than that."""

    rows: int
    more: bool = False


class Reader(Protocol):
    """Reads a store from async code. Every answer is one snapshot: its rows belong to its watermark.

    SnapshotPending until the entity's first generation is whole; UnknownEntity when there is none such;
    Unavailable when the store does not answer. A cancelled read leaves nothing behind.
    """

    async def entities(self) -> Mapping[str, Entity]:
        """The definitions as writers published them, sorted by name; at most a second old."""

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these keys that exist, in the order of `keys`. One round trip."""

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """The rows whose lookup field equals any of the values, in key order, at most `limit`.

        NotIndexed when the field is neither a lookup nor sorted.
        """

    async def find(self, entity: str, query: Query) -> Rows:
        """One page of matching rows. NotIndexed names the indexed fields; InvalidArguments: a bad cursor."""

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to, all of one snapshot. One round trip.

        InvalidArguments: there is no such relation, or a limit below 1. NotIndexed as for `lookup`.
        SnapshotPending when a related entity has no whole generation yet, or none with the relation's order.
        """

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands now."""

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """How many rows of the visible generation have these values; without any, how many there are.

        Counting ends at `most` where values are given. NotIndexed for a field that is neither a lookup nor sorted.
        """

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters of a pipeline, and how many there are in all."""

    async def close(self) -> None:
        """Lets go. Never raises."""


@runtime_checkable
class Prompt(Protocol):
    """What a reader is besides, that can ask for a row without a task that waits for it."""

    def entities_now(self) -> Mapping[str, Entity] | None:
        """As `Reader.entities`; None where it would have to ask."""

    def question(self, entity: str, key: str) -> Question[Rows | None] | None:
        """As `Reader.get` of one key. None, and rows that are None, where only `get` can tell."""
