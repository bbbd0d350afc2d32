"""How a writer's steps go to Redis: each one transaction, and the next made ready while it is under way.

What is watched is what other writers change: the progress of the partitions, and the entity's layout, which a sweep
raises when it takes rows away. The questions of a step ride behind the transaction of the one before it, on the same
connection, so that a step costs no round trip of its own: not even the first one of a batch, as its keys are watched
since the last step of the batch before, unless something else was asked on the connection since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, repeat
from operator import is_, ne

import msgspec

from headgate.errors import Refused, StoreError
from headgate.failpoints import reach
from headgate.model.row import Row
from headgate.stores._catalog import Space, decode_progress
from headgate.stores._delta import touched
from headgate.stores.base import Write
from headgate.stores.redis import letters
from headgate.stores.redis.keys import Keys, SpaceKeys
from headgate.stores.redis.link import Command, Link, Posted, transaction
from headgate.stores.redis.memory import ABSENT, Memories, Memory
from headgate.stores.redis.packing import Packed
from headgate.stores.redis.rows import Kept
from headgate.stores.redis.steps import decode_rows, until_done

_encode = msgspec.json.encode
_WATCHED_AHEAD = 8
"""Of how many steps the keys are watched for the next one: partitions take turns."""


class Stepping:
    """The steps of one writer. One thread uses it."""

    def __init__(self, link: Link, keys: Keys, kept: Mapping[str, Kept]) -> None:
        self._link = link
        self._keys = keys
        self._kept = kept
        self._memories = Memories()
        self._ahead: _Ahead | None = None
        self._turn = 0
        """The link's when that was sent."""
        self._recent: deque[Sequence[bytes]] = deque(maxlen=_WATCHED_AHEAD)

    def forget(self, entity: str | None = None) -> None:
        """Forgets what is remembered of an entity's rows, or of all: someone else may have changed them."""
        self._memories.forget(entity)

    def apply(self, steps: Iterable[Sequence[Write]]) -> None:
        """Does the steps in order; returns when all are done. After an error nothing is remembered."""
        flying: _Step | None = None
        if self._link.turns != self._turn:
            self._ahead = None  # someone else's transaction, or another connection: nothing is watched any more
        try:
            for writes in steps:
                step = self._prepared(writes)
                if flying is not None and not self._is_done(flying):
                    self._do_again(flying.writes)
                    step = self._prepared(writes)
                self._launch(step)
                flying = step
            if flying is not None and not self._is_done(flying):
                self._do_again(flying.writes)
            self._turn = self._link.turns
        except BaseException:
            self._ahead = None
            self._memories.forget()
            self._link.drop()
            raise

    def _is_done(self, step: _Step) -> bool:
        assert step.transaction is not None
        return self._link.is_done(step.transaction)

    def _do_again(self, writes: Sequence[Write]) -> None:
        """Until a sweep, or another partition's new generation, does not come between."""

        def attempt() -> bool | None:
            self._memories.forget()
            self._ahead = None
            self._recent.clear()  # with what is another's by now, each step to come would be done again too
            step = self._prepared(writes)
            self._launch(step)
            return True if self._is_done(step) else None

        until_done(attempt)

    # --- what a step depends on ------------------------------------------------------------------

    def _prepared(self, writes: Sequence[Write]) -> _Step:
        """Asks for what is not known, and makes the commands at once where that is nothing."""
        self._memories.tidy()
        step = _Step(writes, [self._place(write) for write in writes])
        self._ask(step)
        for write, place in zip(writes, step.places, strict=True):
            if not write.flaws:
                self._put(write, place)
        if not any(place.asked for place in step.places):
            step.packed = self._packed(step)
        return step

    def _place(self, write: Write) -> _Place:
        kept = self._of(write.entity)
        (progress,) = self._keys.progress(write.entity, kept.build, [write.partition])
        space = Space(kept.build, write.progress.generation)
        return _Place(
            space.text(),
            self._keys.space(write.entity, space),
            progress,
            self._keys.layout(write.entity),
            self._memories.of(write.entity, space.text()),
        )

    def _of(self, entity: str) -> Kept:
        try:
            return self._kept[entity]
        except KeyError as error:
            raise StoreError(f"this writer was not opened with the entity {entity!r}") from error

    def _ask(self, step: _Step) -> None:
        watched = list(dict.fromkeys(key for place in step.places for key in (place.progress, place.layout)))
        self._recent.append(watched)
        if self._ahead is None or not self._ahead.keys.keys() >= set(watched):
            self._ahead = self._watch(watched)
        step.watched = self._ahead
        for write, place in zip(step.writes, step.places, strict=True):
            place.keys = touched(write)
            place.known = place.memory.known(place.keys)
            if write.flaws:
                known = zip(place.keys, place.known, strict=True)
                place.asked = [key for key, one in known if one is None or key in write.flaws]
            elif None in place.known:
                place.asked = list(compress(place.keys, map(is_, place.known, repeat(None))))
            if place.asked:
                place.rows = self._link.post([("MGET", *map(place.space.row, place.asked))])

    def _watch(self, keys: Sequence[bytes]) -> _Ahead:
        return _Ahead(
            {key: number for number, key in enumerate(keys)}, self._link.post([("WATCH", *keys), ("MGET", *keys)])
        )

    # --- a step on its way -----------------------------------------------------------------------

    def _launch(self, step: _Step) -> None:
        """Compares what is watched with what the step expects, sends the transaction, and watches for the next."""
        assert step.watched is not None
        found = self._link.collect(step.watched.posted)[1]
        self._check(step, found)
        current = [_is_current(place.memory, found[step.watched.keys[place.layout]]) for place in step.places]
        if not all(current):
            step.packed = None
            self._ask_for_all(step)
        self._learn(step)
        packed = step.packed or self._packed(step)
        reach("materialize.before_step")
        step.transaction = self._link.post([packed])
        reach("materialize.sent")
        self._ahead = self._watch(list(dict.fromkeys(key for keys in self._recent for key in keys)))

    def _check(self, step: _Step, found: Sequence[bytes | None]) -> None:
        assert step.watched is not None
        for write, place in zip(step.writes, step.places, strict=True):
            packed = found[step.watched.keys[place.progress]]
            if packed != _encode(write.expected) and (packed is None or decode_progress(packed) != write.expected):
                raise Refused(
                    f"partition {write.partition} of {write.entity} is not where this writer left it: claim it anew",
                    entity=write.entity,
                    partition=write.partition,
                )

    def _ask_for_all(self, step: _Step) -> None:
        for place in step.places:
            place.asked = place.keys
            if place.asked:
                place.rows = self._link.post([("MGET", *map(place.space.row, place.asked))])

    def _learn(self, step: _Step) -> None:
        for write, place in zip(step.writes, step.places, strict=True):
            if place.rows is not None:
                (replies,) = self._link.collect(place.rows)
                learnt = list(map(self._of(write.entity).narrowing.of_packed, replies))
                place.memory.learn(dict(zip(place.asked, learnt, strict=True)))
                place.known = _filled(place, learnt)
                if write.flaws:
                    place.stored = decode_rows(place.asked, replies)
                    self._put(write, place)

    # --- a step as commands ----------------------------------------------------------------------

    def _put(self, write: Write, place: _Place) -> None:
        """Makes what depends on nothing that is stored, but for the rows that are flawed."""
        kept = self._of(write.entity)
        place.puts = kept.put(place.space, write, place.stored)
        place.now = kept.remembered(write, place.keys, place.stored)

    def _packed(self, step: _Step) -> Packed:
        commands: list[Command] = []
        for write, place in zip(step.writes, step.places, strict=True):
            commands.append(("SET", place.progress, _encode(write.progress)))
            if place.keys:
                commands.append(("SADD", self._keys.spaces(write.entity), place.name))
                commands += place.puts
                commands += self._moves(write, place)
            if write.progress.generation != write.expected.generation:
                commands.append(("INCR", place.layout))
            for letter in write.dead_letters:
                commands += letters.keep(self._keys, letter)
            if write.settled:
                commands += letters.remove(self._keys, self._of(write.entity).pipeline, write.settled)
        return transaction(commands)

    def _moves(self, write: Write, place: _Place) -> Sequence[Command]:
        """Mends indexes and counts where rows are others than is remembered, and remembers them."""
        if place.known == place.now:
            return []
        is_other = map(ne, place.known, place.now)
        changed = [
            (key, old or ABSENT, new)
            for key, old, new in compress(zip(place.keys, place.known, place.now, strict=True), is_other)
        ]
        place.memory.learn({key: new for key, _, new in changed})
        kept = self._of(write.entity)
        return kept.move(place.space, kept.stamp(write), changed)


class _Ahead(msgspec.Struct, frozen=True):
    """Keys that are watched, each with its place in the reply that says what they were when that began."""

    keys: dict[bytes, int]
    posted: Posted


class _Place(msgspec.Struct):
    """Where a write goes, and what is there."""

    name: str
    space: SpaceKeys
    progress: bytes
    layout: bytes
    memory: Memory
    keys: list[str] = []
    """What the write touches."""
    known: list[bytes | None] = []
    """What is remembered of each of these."""
    puts: list[Command] = []
    """What stores the rows themselves."""
    now: list[bytes] = []
    """What is to be remembered of each key once the write is done."""
    asked: list[str] = []
    """Those of which nothing is, and those that it flaws, whose rows must be read."""
    rows: Posted | None = None
    stored: dict[str, Row] = {}
    """The rows that the write flaws."""


class _Step(msgspec.Struct):
    """Writes on their way."""

    writes: Sequence[Write]
    places: list[_Place]
    watched: _Ahead | None = None
    packed: Packed | None = None
    """All of it, once nothing is left to ask."""
    transaction: Posted | None = None


def _filled(place: _Place, learnt: Sequence[bytes]) -> list[bytes | None]:
    """What is known of all keys, once the store has said what it holds of those that were asked for."""
    if len(place.asked) == len(place.keys):
        return [*learnt]
    said = dict(zip(place.asked, learnt, strict=True))
    known = zip(place.keys, place.known, strict=True)
    return [said.get(key) if one is None else one for key, one in known]


def _is_current(memory: Memory, layout: bytes | None) -> bool:
    """Whether what is remembered holds. What is learnt from now on is of this layout."""
    layout = layout or b""
    is_current = memory.layout in (None, layout)
    if not is_current:
        memory.forget()
    memory.layout = layout
    return is_current
