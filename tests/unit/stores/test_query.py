"""Plans: which index answers a query, and between which bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import InvalidArguments
from headgate.model.entity import Entity, Field
from headgate.stores._index import Indexes
from headgate.stores._query import Interval, Place, cursor_of, plan_of
from headgate.stores.base import Query, Range

INDEXES = Indexes(
    Entity(
        name="thing",
        pipeline="p",
        table="public.things",
        key=("id",),
        fields=(Field(name="plan", type="string"), Field(name="size", type="integer"), Field(name="day", type="date")),
        lookups=("plan",),
        sorted=("size", "day"),
    )
)


@pytest.mark.parametrize(
    ("query", "kind", "field"),
    [
        (Query(), "keys", ""),
        (Query(equals={"plan": "x"}), "equal", "plan"),
        (Query(equals={"plan": "x", "size": 1}, ranges={"day": Range(ge="2026")}), "equal", "plan"),
        (Query(equals={"size": 1}, ranges={"day": Range(ge="2026")}), "ordered", "size"),
        (Query(ranges={"size": Range(ge=1), "day": Range(ge="2026")}), "ordered", "day"),
        (Query(equals={"plan": "x"}, order="size"), "ordered", "size"),
    ],
)
def test_the_index_that_gives_the_order(query: Query, kind: str, field: str) -> None:
    plan = plan_of(INDEXES, query)
    assert (plan.kind, plan.indexed.field) == (kind, field)
    assert {check.field for check in plan.others} == {*query.equals, *query.ranges} - {field}


@given(
    value=st.integers(-5, 5),
    ge=st.none() | st.integers(-5, 5),
    gt=st.none() | st.integers(-5, 5),
    le=st.none() | st.integers(-5, 5),
    lt=st.none() | st.integers(-5, 5),
)
def test_an_interval_holds_what_its_bounds_say(
    value: int, ge: int | None, gt: int | None, le: int | None, lt: int | None
) -> None:
    (interval,) = plan_of(INDEXES, Query(ranges={"size": Range(ge=ge, gt=gt, le=le, lt=lt)})).checks
    wanted = (
        (ge is None or value >= ge)
        and (gt is None or value > gt)
        and (le is None or value <= le)
        and (lt is None or value < lt)
    )
    assert interval.holds(INDEXES.value("size", value)) == wanted
    assert not interval.holds(INDEXES.value("size", None))


def test_an_equality_is_known_by_its_interval() -> None:
    (one,) = plan_of(INDEXES, Query(equals={"size": "7"})).checks
    assert one.only == INDEXES.value("size", 7)
    assert Interval("size").only is None
    assert Interval("size", b"5\x00").only is None


@given(value=st.binary(max_size=20), key=st.text(st.characters(codec="ascii"), max_size=20))
def test_a_cursor_leads_back_to_its_place(value: bytes, key: str) -> None:
    query = Query(order="size")
    cursor = cursor_of(plan_of(INDEXES, query), Place(value, key))
    assert plan_of(INDEXES, Query(order="size", after=cursor, limit=3)).after == Place(value, key)
    with pytest.raises(InvalidArguments):
        plan_of(INDEXES, Query(order="size", ranges={"size": Range(ge=1)}, after=cursor))


@given(st.text(max_size=40))
def test_garbage_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(InvalidArguments):
        plan_of(INDEXES, Query(after=text))
