"""What a writer remembers of rows: the least that indexes need, as they would have it, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.model.entity import Entity, Field, Group, Relation
from headgate.model.row import Row, encode_row
from headgate.stores._index import Indexes
from headgate.stores.redis.memory import ABSENT, Memories, Narrowing

FIELDS = ("id", "email", "plan", "total", "owner")
ENTITY = Entity(
    name="order",
    pipeline="shop",
    table="public.orders",
    key=("id",),
    fields=tuple(Field(name=name, type="decimal" if name == "total" else "string") for name in FIELDS),
    lookups=("email", "plan"),
    sorted=("total", "plan"),
    groups=(Group(field="owner", order_by="total"),),
    relations=(Relation(name="owner", entity="owner", field="owner", target_field="id", many=False),),
)
BARE = Entity(name="line", pipeline="shop", table="public.lines", key=("id",), fields=())
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.integers(), max_size=2)


@given(st.dictionaries(st.sampled_from([*FIELDS, "note", 'q"\\']), VALUES), st.sampled_from(["", "bad"]))
def test_indexes_see_no_difference_between_a_row_and_what_is_remembered_of_it(row: dict[str, Any], flaw: str) -> None:
    narrowing, indexes = Narrowing(ENTITY), Indexes(ENTITY)
    whole = Row("7", 3, 5, json.dumps(row).encode(), flaw)
    again = narrowing.row("7", narrowing.of_packed(encode_row(whole)))
    assert again is not None
    assert (again.key, again.partition, again.epoch, again.flaw) == ("7", 3, 5, flaw)
    assert indexes.pick(again.json) == indexes.pick(whole.json)


def test_a_row_without_indexes_costs_its_stamp_which_many_share() -> None:
    narrowing = Narrowing(BARE)
    one, other = (narrowing.of_packed(b"1.2.|" + json) for json in (b'{"a":1}', b'{"a":2}'))
    assert one is other and one == b"1.2.|"
    assert narrowing.of_packed(None) == ABSENT
    assert narrowing.row("7", ABSENT) is None
    assert narrowing.row("7", one) == Row("7", 1, 2, b"{}")


def test_a_memory_is_bounded_and_keeps_what_is_asked_for() -> None:
    memories = Memories(most_bytes=100_000)
    memory = memories.of("order", "b/1")
    kept = 0
    memory.learn({"hot": b"0.0.|1"})
    for number in range(2_000):
        memory.learn({str(number): b"0.0.|" + b"x" * 20})
        memories.tidy()
        assert memory.known(["hot"]) == [b"0.0.|1"], "what is asked for stays"
        assert memory.known([str(number)]) == [b"0.0.|" + b"x" * 20], "what has just been learnt stays"
    kept = sum(entry is not None for entry in memory.known([str(number) for number in range(2_000)]))
    assert 100 < kept < 700


def test_bounds_are_shared_and_what_no_space_asks_for_goes() -> None:
    memories = Memories(most_bytes=20_000)
    left = memories.of("order", "b/1")
    left.learn({"1": b"0.0.|"})
    left.layout = b"4"
    for number in range(500):
        memories.of("order", "b/2").learn({str(number): b"0.0.|"})
        memories.tidy()
    assert memories.of("order", "b/1").known(["1"]) == [None]
    assert memories.of("order", "b/1").layout is None, "nothing is known, so it is of no layout"


@pytest.mark.parametrize("entity", [None, "order"])
def test_forgetting(entity: str | None) -> None:
    memories = Memories()
    for name in ("order", "line"):
        memories.of(name, "b/1").learn({"1": b"0.0.|"})
        memories.of(name, "b/1").layout = b"4"
    memories.forget(entity)
    assert memories.of("order", "b/1").known(["1"]) == [None]
    assert memories.of("order", "b/1").layout is None
    assert memories.of("line", "b/1").known(["1"]) == [None if entity is None else b"0.0.|"]
