"""Tries dead letters again, without any row ever going back.

A row's letters are settled together. What counts is the newest: a change carries its whole row, so that what is
older is in it. It is folded and checked as when it came, by the order that its partition had reached then, and
only while its row still bears the flaw: a later change, truncate or snapshot has healed it otherwise, and the
letters are removed without a trace in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from headgate.errors import Undecodable
from headgate.flow.deadletters import record_of
from headgate.flow.fitting import Fitting
from headgate.flow.folding import Folding
from headgate.flow.lanes import Lane
from headgate.flow.materializing import Materializing
from headgate.log.base import slices_of
from headgate.model.pipeline import DeadLetter
from headgate.model.row import Row
from headgate.stores.base import Write, Writer

_NO_ROW = (
    "It can be read now, but not when it came: whether its row has changed since is not known. Read its table again "
    "(resnapshot_table), then drop it."
)


class Verdicts(msgspec.Struct):
    """What trying letters again has come to, as parts of one write of their lane."""

    puts: dict[str, bytes] = {}
    deletes: set[str] = set()
    flaws: dict[str, str] = {}
    kept: list[DeadLetter] = []
    """Letters that failed again, with their new reasons."""
    settled: list[str] = []
    left: list[list[str]] = []
    """Groups whose next older letter must be looked at now."""

    def write(self, lane: Lane) -> Write:
        """One atomic, fenced step that leaves the lane's position as it is."""
        return Write(
            entity=lane.entity.name,
            partition=lane.partition.number,
            expected=lane.progress,
            progress=lane.progress,
            puts=self.puts,
            deletes=frozenset(self.deletes),
            flaws=self.flaws,
            dead_letters=self.kept,
            settled=self.settled,
        )


class Retrying:
    """One run's retries of one entity. One thread uses it."""

    def __init__(self, rooms: Materializing, writer: Writer, fitting: Fitting) -> None:
        self._rooms = rooms
        self._writer = writer
        self._fitting = fitting

    def judge(self, lane: Lane, groups: Sequence[Sequence[str]]) -> Verdicts:
        """What becomes of these letters. A group holds the ids of all letters of one row, by offset."""
        verdicts = Verdicts()
        ids = [group[-1] for group in groups]
        letters = {letter.id: letter for letter in self._writer.dead_letters(self._rooms.pipeline, ids)}
        keys = list(dict.fromkeys(letter.row for letter in letters.values() if letter.row is not None))
        rows = self._writer.read(lane.entity.name, lane.progress.generation, keys)
        for group in groups:
            letter = letters.get(group[-1])
            if letter is not None:
                self._judge_one(verdicts, lane, letter, group, rows)
        return verdicts

    def _judge_one(
        self, verdicts: Verdicts, lane: Lane, letter: DeadLetter, group: Sequence[str], rows: dict[str, Row]
    ) -> None:
        if letter.row is not None and not _is_flawed(lane, letter, rows.get(letter.row)):
            verdicts.settled += group
            return
        write = self._fold(lane, letter)
        if write.dead_letters:
            self._keep(verdicts, letter, write.dead_letters[0].code, write.dead_letters[0].message)
        elif letter.row is None:
            self._keep(verdicts, letter, Undecodable.code, _NO_ROW)
        elif write.puts or write.deletes:
            verdicts.puts.update(write.puts)
            verdicts.deletes.update(write.deletes)
            verdicts.settled += group
        else:  # it was old when it came: the one before it is what the row lacks
            verdicts.settled.append(letter.id)
            if len(group) > 1:
                verdicts.left.append(list(group[:-1]))

    def _keep(self, verdicts: Verdicts, letter: DeadLetter, code: str, message: str) -> None:
        now_ms = self._rooms.clock()
        verdicts.kept.append(msgspec.structs.replace(letter, code=code, message=message, tried_ms=now_ms))
        if letter.row is not None:
            verdicts.flaws[letter.row] = code

    def _fold(self, lane: Lane, letter: DeadLetter) -> Write:
        """The letter's record alone, as its lane would have folded it when it came."""
        then = msgspec.structs.replace(
            lane.progress, offset=letter.offset, high_water=letter.high_water, awaiting=False
        )
        past = Lane(lane.entity, lane.partition, then, then)
        decoding = self._rooms.decoding(lane.entity.table)
        folding = Folding(past, self._fitting, decoding.change, self._reads(lane), keys=decoding.keys)
        (write,) = folding.fold(slices_of([record_of(letter)])[0], self._rooms.clock())
        return write

    def _reads(self, lane: Lane) -> Callable[[int, Sequence[str]], dict[str, Row]]:
        return lambda generation, keys: self._writer.read(lane.entity.name, generation, keys)


def _is_flawed(lane: Lane, letter: DeadLetter, stored: Row | None) -> bool:
    """Whether nothing has healed the letter's row since."""
    at = lane.progress
    is_of_now = letter.generation == at.generation and letter.epoch == at.epoch
    return is_of_now and stored is not None and bool(stored.flaw)
