"""Folds the records of one partition into the writes of one entity (DESIGN §4, rules 2 to 5)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol, TypeAlias

import msgspec

from headgate.errors import ChangeRejected, SchemaMismatch, TruncateUnclear, Unavailable, Undecodable
from headgate.flow.deadletters import dead_letter
from headgate.flow.fitting import Fitting
from headgate.flow.lanes import Lane
from headgate.log.base import Logged, Slice
from headgate.model.change import CLOSER, UNAVAILABLE, Change, RowChange, RowRun, run_of
from headgate.model.pipeline import DeadLetter
from headgate.model.row import Row, key_of_record, keys_of_records
from headgate.stores.base import Write

Decode: TypeAlias = Callable[[bytes | None, bytes | None], Change | None]
DecodeRows: TypeAlias = Callable[[Sequence[bytes | None]], RowRun | Sequence[RowChange]]
"""Records' values → what they do to rows; CLOSER for those that `Decode` must be asked about."""
ReadRows: TypeAlias = Callable[[int, Sequence[str]], dict[str, Row]]
"""(generation, keys) → the rows as they are stored now."""


class Keys(Protocol):
    """Reads the keys of records that others have written."""

    def key(self, key: bytes | None, value: bytes | None) -> bytes:
        """The row's key as a JSON object. Undecodable when the record has none that can be read."""

    def keys(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """The same for many records; None for one that can't be read."""


MOST_ROWS = 500  # in one write: a longer transaction would keep readers waiting (DESIGN §4.7)
MOST_BYTES = 4 << 20  # in one step, beside a single larger record


class _Latest(msgspec.Struct):
    count: int = 0
    latest: list[msgspec.Raw] = []


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_latest = msgspec.json.Decoder(_Latest).decode
_LEFT_OUT = f'"{UNAVAILABLE}"'.encode()
_Decoded: TypeAlias = tuple[Logged, Change | None, ChangeRejected | None]


class Folding:
    """One batch of one lane. Made anew for each batch; `fold` is called once."""

    def __init__(
        self,
        lane: Lane,
        fitting: Fitting,
        decode: Decode,
        read: ReadRows,
        decode_rows: DecodeRows | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Without `decode_rows` every record is decoded as a whole, at three times the cost.

        `keys` is there where others fill the topic; what our capture writes needs none.
        """
        self._keys = keys
        self._entity = lane.entity
        self._fitting = fitting
        self._decode = decode
        self._decode_rows = decode_rows
        self._read = read
        self._partition = lane.partition.number
        self._expected = lane.progress
        self._at = lane.start
        self._moved = False
        self._puts: dict[str, bytes] = {}
        self._deletes: set[str] = set()
        self._flaws: dict[str, str] = {}
        self._letters: list[DeadLetter] = []
        self._bases: dict[str, bytes] | None = None
        self._writes: list[Write] = []

    def fold(self, records: Slice, now_ms: int) -> list[Write]:
        """The writes, each of which expects the progress that the one before it leaves."""
        records = records.part(bisect_left(records.offsets, self._at.offset), len(records))
        changes = self._decode_rows(records.values) if self._decode_rows else [CLOSER] * len(records)
        run = changes if isinstance(changes, RowRun) else run_of(changes)
        if run is None or not self._take_run(records, run):
            self._fold_each(records, changes.each() if isinstance(changes, RowRun) else changes, now_ms)
        self._cut()
        return self._writes

    def _fold_each(self, records: Slice, changes: Sequence[RowChange], now_ms: int) -> None:
        closer = {place: self._decoded(records.record(place)) for place, one in enumerate(changes) if one is CLOSER}
        self._load_bases(list(closer.values()))
        keys = self._key_texts(records) if len(closer) < len(records) else [None] * len(records)
        place = 0
        while place < len(records):
            reached = self._take_rows(keys, changes, place)
            if reached > place:
                self._moved_to(records.offsets[reached - 1])
            elif not self._is_full():
                self._look_closer(closer.get(place) or self._decoded(records.record(place)), now_ms)
                reached += 1
            if self._is_full():
                self._cut()
            place = reached

    def _key_texts(self, records: Slice) -> list[str | None]:
        keys = records.keys if self._keys is None else self._keys.keys(records.keys, records.values)
        return keys_of_records(keys, self._entity.key)

    def _is_full(self) -> bool:
        return len(self._puts) + len(self._deletes) + len(self._flaws) >= MOST_ROWS

    def _moved_to(self, offset: int) -> None:
        self._advance(offset=offset + 1)
        self._moved = True

    # --- changes of rows and nothing else, which most are -----------------------------------------

    def _take_run(self, records: Slice, run: RowRun) -> bool:
        """Takes a whole slice of row changes at once. Answers whether it was as usual as that; else takes nothing:
        it is one write, all keys are read, no change is older than what was applied, and all rows fit."""
        if not 0 < len(records) <= MOST_ROWS or self._at.awaiting:
            return False
        high = self._at.high_water
        if run.first is not None and high is not None and run.first.precedes(high):
            return False
        keys = self._key_texts(records)
        if not (all(keys) and self._all_fit(run.rows)):
            return False
        folded: dict[Any, Any] = dict(zip(run.of_taken(keys), run.rows, strict=True))
        if not all(run.rows):
            self._deletes = {key for key, row in folded.items() if row is None}
            for key in self._deletes:
                del folded[key]
        self._puts = folded
        self._advance(high_water=run.last or high)
        self._moved_to(records.offsets[-1])
        return True

    def _all_fit(self, rows: Sequence[bytes | None]) -> bool:
        try:
            if self._fitting.fits is not None:
                deque(map(self._fitting.fits, filter(None, rows)), 0)
        except msgspec.DecodeError:
            return False
        return True

    def _take_rows(self, keys: Sequence[str | None], changes: Sequence[RowChange], start: int) -> int:
        """Takes what does no more than change a row, up to the first record that does, or that does not fit, or
        until the write is full. Answers how far it came. Each record costs little here: there are very many."""
        if self._at.awaiting:
            return next((place for place in range(start, len(changes)) if changes[place] is CLOSER), len(changes))
        puts, deletes, flaws, bases = self._puts, self._deletes, self._flaws, self._bases
        fits, high, room = self._fitting.fits, self._at.high_water, MOST_ROWS - len(deletes) - len(flaws)
        place = start - 1
        for place, key, change in zip(count(start), keys[start:], changes[start:]):  # noqa: B007 - told at the end
            if not change:
                if change is CLOSER:
                    break
                continue
            if key is None or len(puts) >= room:
                break
            after, at = change
            if at is not None and high is not None and at < high and at.precedes(high):
                continue
            if after is None:
                puts.pop(key, None)
                deletes.add(key)
                room = MOST_ROWS - len(deletes) - len(flaws)
            else:
                try:
                    if fits is not None:
                        fits(after)
                except msgspec.DecodeError:
                    break
                if key in deletes:
                    deletes.discard(key)
                    room += 1
                puts[key] = after
            if at is not None:
                high = at
            if flaws and flaws.pop(key, ""):
                room += 1
            if bases is not None:
                _note_base(bases, key, after)
        else:
            place += 1
        if high is not self._at.high_water:
            self._advance(high_water=high)
        return place

    # --- what has to be looked at as a whole ------------------------------------------------------

    def _look_closer(self, decoded: _Decoded, now_ms: int) -> None:
        record, change, error = decoded
        try:
            if error is not None:
                raise error
            if change is not None:
                self._take(record, change)
        except ChangeRejected as rejection:
            self._reject(record, rejection, now_ms)
        self._moved_to(record.offset)

    def _decoded(self, record: Logged) -> _Decoded:
        try:
            return record, self._decode(record.key, record.value), None
        except ChangeRejected as error:
            return record, None, error

    def _take(self, record: Logged, change: Change) -> None:
        if change.op == "m":
            self._mark(change)
        elif self._at.awaiting:
            return
        elif change.op == "t":
            self._truncate(change)
        elif not self._is_old(change):
            self._change_row(record, change)

    def _mark(self, change: Change) -> None:
        """A snapshot's begin opens a generation beside the old one; its end closes the door to older changes."""
        marker = change.marker
        if marker is None or marker.generation < self._at.generation + self._at.awaiting:
            return
        if marker.partitions > self._entity.partitions:
            raise Unavailable("A snapshot is spread over more partitions than its entity: it is built anew.")
        if marker.phase == "begin":
            self._cut()
            self._bases = {} if self._bases is not None else None
            self._advance(generation=marker.generation, awaiting=False, ended=False, complete=False, high_water=None)
        elif marker.generation == self._at.generation:
            self._advance(ended=True, high_water=change.sequence)

    def _truncate(self, change: Change) -> None:
        if self._is_old(change):
            return
        if self._keys is not None and self._entity.partitions > 1:
            raise TruncateUnclear(
                "The table was truncated, and its topic has several partitions: which rows of the others came before, "
                "nothing tells. Let the topic have one partition, or pass this over once the rows are deleted."
            )
        self._cut()
        self._bases = {} if self._bases is not None else None
        self._advance(epoch=self._at.epoch + 1, high_water=change.sequence or self._at.high_water)

    def _is_old(self, change: Change) -> bool:
        """A restarted source tells old changes again, at new offsets; snapshot reads are exempt."""
        if change.snapshot or change.sequence is None:
            return False
        known = self._at.high_water
        return known is not None and change.sequence.precedes(known)

    def _change_row(self, record: Logged, change: Change) -> None:
        key, row = self._key(record), None
        if change.begins_anew:
            self._advance(high_water=None)
        if change.op == "d":
            self._puts.pop(key, None)
            self._deletes.add(key)
        else:
            row = self._row(key, change)
            self._fitting.check(row)
            self._deletes.discard(key)
            self._puts[key] = row
        if self._bases is not None:
            _note_base(self._bases, key, row)
        self._flaws.pop(key, None)
        if not change.snapshot and change.sequence is not None:
            self._advance(high_water=change.sequence)

    def _key(self, record: Logged) -> str:
        given = record.key if self._keys is None else self._keys.key(record.key, record.value)
        try:
            return key_of_record(given or b"null", self._entity.key)
        except (msgspec.DecodeError, KeyError, UnicodeDecodeError) as error:
            wanted = ", ".join(self._entity.key)
            raise Undecodable(f"The record's key is no JSON object with {wanted}.") from error

    def _row(self, key: str, change: Change) -> bytes:
        if change.after is None:
            raise Undecodable("The change says that a row is there, and carries none.")
        if change.latest:
            return gathered(change, (self._bases or {}).get(key))
        if not change.partial:
            return change.after
        base = (self._bases or {}).get(key)
        return merge(change.after, base)

    def _load_bases(self, decoded: Sequence[_Decoded]) -> None:
        """The rows as they are, for changes that leave columns out: read once for the whole batch."""
        partial = [record for record, change, _ in decoded if change is not None and (change.partial or change.latest)]
        if not partial:
            return
        keys = [key for record in partial if (key := self._key_if_any(record)) is not None]
        stored = self._read(self._at.generation, list(dict.fromkeys(keys)))
        takes_flawed = any(change is not None and change.latest for _, change, _ in decoded)
        self._bases = {
            key: row.json
            for key, row in stored.items()
            if (takes_flawed or not row.flaw) and row.epoch >= self._at.epoch
        }

    def _reject(self, record: Logged, error: ChangeRejected, now_ms: int) -> None:
        """The letter, the mark on its key and the position past it are one write."""
        key = self._key_if_any(record)
        if key in self._puts or key in self._deletes:
            self._cut()  # what came before stands, and is then marked
        self._letters.append(
            dead_letter(self._entity.pipeline, self._entity.name, record, error, now_ms, row=key, at=self._at)
        )
        if key is not None:
            self._flaws[key] = error.code
            if self._bases is not None:
                self._bases.pop(key, None)

    def _key_if_any(self, record: Logged) -> str | None:
        try:
            return self._key(record)
        except Undecodable:
            return None

    def _advance(self, **values: object) -> None:
        self._at = msgspec.structs.replace(self._at, **values)

    def _cut(self) -> None:
        """Closes a write. Completeness is judged where the progress is written."""
        if not self._moved:
            return
        whole = self._at.ended and self._at.offset >= self._at.target
        self._advance(complete=whole)
        self._writes.append(
            Write(
                entity=self._entity.name,
                partition=self._partition,
                expected=self._expected,
                progress=self._at,
                puts=self._puts,
                deletes=frozenset(self._deletes),
                flaws=self._flaws,
                dead_letters=tuple(self._letters),
            )
        )
        self._expected = self._at
        self._moved = False
        self._puts, self._deletes, self._flaws, self._letters = {}, set(), {}, []


def _note_base(bases: dict[str, bytes], key: str, row: bytes | None) -> None:
    if row is None:
        bases.pop(key, None)
    else:
        bases[key] = row


def gathered(change: Change, base: bytes | None) -> bytes:
    """The row of a key that holds its newest records: its key's fields, their `count` so far, and `latest`."""
    known = _Latest() if base is None else _decode_latest(base)
    row: dict[str, Any] = dict(_decode_fields(change.key or b"{}"))
    newest = [msgspec.Raw(change.after or b"null"), *known.latest][: change.latest]
    return msgspec.json.encode(row | {"count": known.count + 1, "latest": newest})


def merge(after: bytes, base: bytes | None) -> bytes:
    """`after` with the columns that it leaves out taken from `base`. SchemaMismatch when there is none."""
    fields = _decode_fields(after)
    left_out = [name for name, value in fields.items() if bytes(value) == _LEFT_OUT]
    if not left_out:
        return after
    if base is None:
        raise SchemaMismatch(
            f"The change leaves out {', '.join(left_out)}, and no trusted earlier row is stored: "
            "a re-snapshot of its table heals it."
        )
    known = _decode_fields(base)
    for name in left_out:
        fields[name] = known.get(name, msgspec.Raw(b"null"))
    return msgspec.json.encode(fields)
