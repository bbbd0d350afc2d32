"""What a write does to rows and indexes: the ways that take all columns at once do what is done row by row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hiredis
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.model.entity import Entity, Field
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress
from headgate.model.row import Row, encode_row
from headgate.stores._catalog import Space
from headgate.stores._delta import Delta, after, note, touched
from headgate.stores._index import Indexes
from headgate.stores.base import Write
from headgate.stores.redis.keys import Keys
from headgate.stores.redis.link import Command, pack
from headgate.stores.redis.rows import Kept
from headgate.stores.redis.steps import commands_of

FIELDS = tuple(Field(name=name, type="string") for name in ("id", "email", "plan"))


def entity(**indexes: Any) -> Entity:
    return Entity(name="order", pipeline="shop", table="public.orders", key=("id",), fields=FIELDS, **indexes)


ONE = entity(lookups=("email",))
ENTITIES = [entity(), ONE, entity(lookups=("email", "plan")), entity(lookups=("plan",), sorted=("email",))]
SPACE = Keys("t").space("order", Space("b", 1))
KEYS = st.sampled_from([str(number) for number in range(6)] + ["Zo%C3%AB"])
VALUES = st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["a", "b", "c" * 197, "d" * 198, "e" * 300])
ROWS = st.builds(
    lambda email, plan: msgspec.json.encode({"email": email, "plan": plan}), VALUES, VALUES
) | st.sampled_from([rb'{"email":"\u0041","plan":"p\n"}', b'{"plan": "x", "email" : "y"}', b"{}"])
STORED = st.builds(
    lambda json, partition, epoch, flaw: (partition, epoch, json, flaw),
    ROWS, st.integers(0, 1), st.integers(0, 2), st.sampled_from(["", "", "schema_mismatch"]),
)  # fmt: skip


@st.composite
def writes(draw: st.DrawFn) -> Write:
    return Write(
        entity="order",
        partition=0,
        expected=Progress(),
        progress=Progress(epoch=draw(st.integers(0, 2))),
        puts=draw(st.dictionaries(KEYS, ROWS, max_size=6)),
        deletes=draw(st.frozensets(KEYS, max_size=3)),
        flaws=draw(st.just({}) | st.dictionaries(KEYS, st.just("undecodable"), max_size=2)),
        dead_letters=list[DeadLetter](),
    )


def done(commands: list[Command], stored: dict[bytes, set[bytes]]) -> tuple[dict[bytes, set[bytes]], Counter[bytes]]:
    """The sorted sets that these commands leave, and what they add to counts."""
    sets, counts = {name: set(members) for name, members in stored.items()}, Counter[bytes]()
    reader = hiredis.Reader()
    reader.feed(pack(commands).data)
    while isinstance(words := reader.gets(), list):
        verb, name, *rest = words
        if verb == b"ZREM":
            sets[name] = sets.get(name, set()) - set(rest)
        elif verb == b"ZADD":
            assert set(rest[::2]) == {b"0"}
            sets[name] = sets.get(name, set()) | set(rest[1::2])
        elif verb == b"HINCRBY":
            counts[rest[0]] += int(rest[1])
    return {name: members for name, members in sets.items() if members}, counts


@pytest.mark.parametrize("described", ENTITIES)
@given(writes(), st.dictionaries(KEYS, STORED, max_size=7))
def test_indexes_and_counts_are_as_by_whole_rows(
    described: Entity, write: Write, there: dict[str, tuple[int, int, bytes, str]]
) -> None:
    kept, indexes = Kept(described), Indexes(described)
    stored = {key: Row(key, *parts) for key, parts in there.items()}
    keys = touched(write)
    assert keys == list(dict.fromkeys((*write.puts, *write.deletes, *write.flaws)))

    now = kept.remembered(write, keys, stored)
    of_packed = kept.narrowing.of_packed
    left = {key: after(write, key, stored.get(key)) for key in keys}
    assert now == [of_packed(encode_row(row) if row else None) for row in left.values()]

    known = [of_packed(encode_row(stored[key]) if key in stored else None) for key in keys]
    changed = [each for each in zip(keys, known, now, strict=True) if each[1] != each[2]]
    delta, filled = Delta(), Delta()
    for row in stored.values():
        note(filled, indexes, None, row, row.key)
    for key in keys:
        note(delta, indexes, stored.get(key), left[key], key)
    before, _ = done(commands_of(indexes, SPACE, filled), {})
    wanted, counts = done(commands_of(indexes, SPACE, delta), before)
    found, counted = done(kept.move(SPACE, kept.stamp(write), changed), before)
    assert (found, +counted, -counted) == (wanted, +counts, -counts)


@given(st.permutations(range(4)), st.integers(0, 4))
def test_texts_that_rows_take_from_each_other(order: list[int], moved: int) -> None:
    """Each row gets the text of another one, in one write."""
    kept = Kept(ONE)
    old = [b'0.0.|"%d"' % number for number in range(4)]
    new = [b'0.0.|"%d"' % number for number in [*order[:moved], *range(10, 14 - moved)]]
    changed = [(str(n), was, now) for n, (was, now) in enumerate(zip(old, new, strict=True)) if was != now]
    before = {SPACE.equal("email", b"s%d" % number): {b"%d" % number} for number in range(4)}
    found, counted = done(kept.move(SPACE, b"0.0.|", changed), before)
    wanted: dict[bytes, set[bytes]] = {}
    for number, now in enumerate(new):
        wanted.setdefault(SPACE.equal("email", b"s" + now[6:-1]), set()).add(b"%d" % number)
    assert found == wanted and not counted
