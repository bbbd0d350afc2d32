"""Index values: one per value of a field's type, whoever spells it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headgate.errors import NotIndexed, StoreError
from headgate.model.entity import Entity, Field, Group, Relation
from headgate.model.table import ColumnType
from headgate.stores._index import Entry, Indexes, group_bounds, normalise, split_group

THING = Entity(
    name="thing",
    pipeline="p",
    table="public.things",
    key=("id",),
    fields=(Field(name="a b", type="string"), Field(name="size", type="decimal"), Field(name="raw", type="json")),
    lookups=("a b", "size", "raw", "gone"),
    sorted=("size",),
)


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        ("integer", [7, "7", 7.0, "7.00"]),
        ("decimal", ["12.50", 12.5, "1.25e1"]),
        ("number", [True, 1, "1"]),
        ("boolean", [True, "true", "T", 1, "1"]),
        ("boolean", [False, "false", 0]),
        ("string", ["7", 7]),
        ("uuid", ["AB-cd", "ab-CD"]),
        ("timestamp", ["2026-01-01T10:00:00Z", "2026-01-01 10:00:00", "2026-01-01T10:00:00+00:00"]),
        ("time", ["10:00:00Z", "10:00:00"]),
        ("json", [{"a": 1, "b": [2]}, {"b": [2], "a": 1}]),
    ],
)
def test_spellings_of_one_value(kind: ColumnType, spellings: list[Any]) -> None:
    entity = msgspec.structs.replace(THING, fields=(Field(name="size", type=kind),), lookups=("size",), sorted=())
    for definition in (entity, msgspec.structs.replace(entity, lookups=(), sorted=("size",))):
        if kind == "json" and definition.sorted:
            continue
        assert len({Indexes(definition).value("size", spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "seven"),
        ("integer", "1_000"),
        ("integer", "١"),
        ("boolean", "maybe"),
        ("array", [1]),
        ("date", None),
    ],
)
def test_what_does_not_fit_its_type_stays(kind: ColumnType, value: Any) -> None:
    assert normalise(kind, value) == value


def test_a_sorted_lookup_has_one_index() -> None:
    indexes = Indexes(THING)
    assert (indexes.ordered, indexes.equal) == (("size",), ("a b", "raw", "gone"))
    entries = indexes.entries("7", indexes.pick(b'{"a b": "x", "size": null, "other": [1]}'))
    assert [entry.field for entry in entries] == ["size", "a b", "raw", "gone"]
    assert entries[0] == Entry("size", b"0", "7")


def test_no_value_holds_a_zero_byte() -> None:
    indexes = Indexes(THING)
    for field in indexes.names:
        for value in ("a\x00b", "\x00", {"\x00": "\x00"}, "\ud800"):
            assert b"\x00" not in indexes.value(field, value)


def test_a_long_text_is_kept_short_and_apart() -> None:
    indexes = Indexes(THING)
    long, longer = indexes.value("a b", "x" * 10_000), indexes.value("a b", "x" * 10_001)
    assert long != longer and len(long) < 100
    assert indexes.value("a b", "") != indexes.value("a b", None)


def test_picks_exact_numbers() -> None:
    indexes = Indexes(THING)
    one, other = (indexes.value_of("size", b'{"size": 1.00000000000000000000%d}' % last) for last in (1, 2))
    assert one < other
    assert indexes.value_of("size", b'{"size": 1e400}') > other
    with pytest.raises(StoreError):
        indexes.pick(b"[1]")


def test_names_the_fields_there_are() -> None:
    indexes = Indexes(THING)
    indexes.require(("a b", "size"))
    indexes.require(("size",), ordered=True)
    with pytest.raises(NotIndexed, match="a b, gone, raw, size") as refusal:
        indexes.require(("size", "color"))
    assert refusal.value.details == {"missing": ["color"], "indexed": ["a b", "gone", "raw", "size"]}
    with pytest.raises(NotIndexed, match="order: size"):
        indexes.require(("a b",), ordered=True)
    with pytest.raises(NotIndexed, match="none"):
        Indexes(msgspec.structs.replace(THING, lookups=(), sorted=())).require(("a b",))


SHOPPER = Entity(
    name="shopper",
    pipeline="p",
    table="public.shoppers",
    key=("id",),
    fields=(
        Field(name="id", type="integer"),
        Field(name="code", type="string"),
        Field(name="by", type="integer"),
        Field(name="at", type="decimal"),
    ),
    groups=(Group(field="by", order_by="at"), Group(field="by")),
    relations=(
        Relation(name="a", entity="e", field="id", target_field="f", many=True, target_type="integer"),
        Relation(name="b", entity="e", field="code", target_field="f", many=True, target_type="uuid"),
        Relation(name="c", entity="e", field="code", target_field="id", many=False, target_is_key=True),
    ),
)


def test_a_group_has_the_rows_of_a_value_in_their_order() -> None:
    indexes = Indexes(SHOPPER)
    name = indexes.group_of("by", "at")
    assert name is not None and indexes.group_of("by", None) and indexes.group_of("at", "by") is None
    rows = [b'{"by": "7", "at": %s}' % at for at in (b"-1", b"null", b'"2"', b"1e3")]
    found = sorted(rows, key=lambda row: indexes.value_of(name, row))
    assert found == [rows[1], rows[0], rows[2], rows[3]]
    low, high = group_bounds(indexes.value_of(name, rows[0]).partition(b"\xff")[0])
    assert all(low <= indexes.value_of(name, row) + b"\x00" < high for row in rows)
    assert not low <= indexes.value_of(name, b'{"by": 70}') + b"\x00" < high
    assert split_group(indexes.value_of(name, rows[2]))[1] == indexes.value_of(name, rows[2]).split(b"\xff")[1]


def test_only_leads_that_the_key_does_not_say_are_kept() -> None:
    indexes = Indexes(SHOPPER)
    assert [(lead.field, lead.form) for lead in indexes.leads.values()] == [("code", "key"), ("code", "uuid")]
    picked = dict(zip(indexes.names, indexes.pick(b'{"id": 1, "code": "A/b"}'), strict=True))
    values = {lead.form: indexes.value(name, picked[name]) for name, lead in indexes.leads.items()}
    assert values == {"key": b"A%2Fb", "uuid": b"sa/b"}
    assert {indexes.value(name, None) for name in indexes.leads} == {b""}
    assert indexes.value(next(iter(indexes.leads)), "\ud800") == b"", "no key is spelled so"
    with pytest.raises(NotIndexed, match="none"):
        indexes.require((next(iter(indexes.leads)),))


def test_an_ordered_text_is_kept_short_and_apart() -> None:
    indexes = Indexes(msgspec.structs.replace(THING, lookups=(), sorted=("a b",)))
    long, longer = indexes.value("a b", "x" * 10_000), indexes.value("a b", "x" * 10_001)
    assert long != longer and max(len(long), len(longer)) < 1_100
    assert indexes.value("a b", "x" * 900) < min(long, longer) < indexes.value("a b", "y")
