"""Rows that are read by a pattern are the rows that the slow way reads: whatever their values hold."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from struct import pack

import pytest

from headgate.model.change import UNAVAILABLE
from headgate.sources.postgres.pattern import Pattern
from headgate.sources.postgres.pgoutput import read_tuple
from headgate.sources.postgres.rows import RowShape
from headgate.sources.postgres.values import TEXT, Form, Types

LEFT_OUT = object()
HEAD = b"x" * 31
PAD = b"\0" * 4


def form(oid: int) -> Form:
    return TEXT if oid == 25 else Types().form(oid)


def shape_of(*oids: int, key: Sequence[str] = ("c0",)) -> RowShape:
    return RowShape("public.t", [(f"c{number}", form(oid)) for number, oid in enumerate(oids)], key)


def message(*values: object) -> bytes:
    """As a row lies in its message: its width first, then its columns."""
    return HEAD + pack(">H", len(values)) + b"".join(map(column, values))


def column(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"t" + pack(">I", len(value)) + value
    return b"n" if value is None else b"u"


def slowly(shape: RowShape, data: bytes) -> tuple[tuple[bytes, bytes, bool], int, int]:
    values, nulls, missing, _ = read_tuple(data + PAD, len(HEAD), shape)
    row = shape.row(values, nulls, missing)
    return (row, shape.key_of(values), missing != 0), nulls, missing


def assert_same(shape: RowShape, *values: object) -> None:
    """Reads the row in both ways, the first time and after its like has been seen."""
    data = message(*values)
    expected, nulls, missing = slowly(shape, data)
    assert shape.read(data, len(HEAD)) in (None, expected)
    shape.seen(nulls, missing)
    assert shape.read(data, len(HEAD)) in (None, expected)


def is_known(shape: RowShape, *values: object) -> bool:
    return shape.read(message(*values), len(HEAD)) is not None


SAMPLES: dict[int, list[bytes]] = {
    20: [b"1", b"-9223372036854775808"],
    25: [b"", b"n", b"Lyon", b'a "quoted"\\ text', "Malmö".encode(), b"\xff\xfe", b"t" * 300, b"nt", b"x" * 70_000],
    16: [b"t", b"f"],
    701: [b"1.5", b"NaN", b"-Infinity", b"1e+300"],
    1700: [b"12.50", b"NaN"],
    1114: [b"2026-01-02 03:04:05", b"2026-01-02 03:04:05.123456", b"infinity", b"0044-03-15 10:00:00 BC",
           b"20026-01-02 03:04:05"],
    1184: [b"2026-01-02 03:04:05+00", b"-infinity", b"0044-03-15 10:00:00+00 BC", b"20026-01-02 03:04:05.5+00"],
    3802: [b"{}", b'{"a": "\\u00e4"}', b'["n"]'],
    17: [b"\\x00ff", b"\\x"],
    1007: [b"{1,NULL,3}", b"{}"],
}  # fmt: skip


def test_random_rows_are_read_alike_in_both_ways() -> None:
    dice = random.Random(11)
    kinds = list(SAMPLES)
    known = 0
    for _ in range(300):
        oids = [20, *dice.choices(kinds, k=dice.randrange(1, 7))]
        shape = shape_of(*oids)
        rest: list[object] = []
        for number in range(12):
            if number % 4 == 0:
                rest = [dice.choice([*SAMPLES[oid], None, LEFT_OUT]) for oid in oids[1:]]
            rest = [
                value if value in (None, LEFT_OUT) else dice.choice(SAMPLES[oid])
                for oid, value in zip(oids[1:], rest, strict=True)
            ]
            row = [dice.choice(SAMPLES[20]), *rest]
            assert_same(shape, *row)
            known += is_known(shape, *row)
    assert known > 500, "many of them must have gone the quick way"


def test_a_text_before_a_null_keeps_its_last_letter() -> None:
    """`Lyon` and `n` are the same bytes as `Lyo`, a null and what follows, but for the length."""
    shape = shape_of(20, 25, 25, 25)
    assert_same(shape, b"1", b"Lyo", None, b"x")
    assert_same(shape, b"1", b"Lyon", b"x", None)
    assert_same(shape, b"1", b"Lyon", None, b"x")
    assert_same(shape, b"1", None, b"n", b"x")
    for _ in range(9):
        shape.seen(0b100, 0)
    assert is_known(shape, b"1", b"Turin", None, b"n")


def test_a_column_that_is_left_out_says_so() -> None:
    shape = shape_of(20, 25)
    assert_same(shape, b"1", LEFT_OUT)
    found = shape.read(message(b"2", LEFT_OUT), len(HEAD))
    assert found == (b'{"c0":2,"c1":"%b"}' % UNAVAILABLE.encode(), b'{"c0":2}', True)


def test_a_key_of_several_parts() -> None:
    shape = shape_of(1184, 25, 20, key=("c1", "c0"))
    assert_same(shape, b"2026-01-02 03:04:05+00", b"a", b"7")
    found = shape.read(message(b"2026-01-02 03:04:05+00", b"a", b"7"), len(HEAD))
    assert found is not None
    assert found[1] == b'{"c1":"a","c0":"2026-01-02T03:04:05Z"}'


def test_another_number_of_columns_is_not_known() -> None:
    shape = shape_of(20, 25)
    assert_same(shape, b"1", b"a")
    assert not is_known(shape, b"1")
    assert not is_known(shape, b"1", b"a", b"b")
    assert not is_known(shape, b"1", b"a", None)


def test_rows_that_are_never_alike_are_not_tried_with_patterns() -> None:
    shape = shape_of(20, *[25] * 12)
    dice = random.Random(3)
    for _ in range(3_000):
        assert_same(shape, b"1", *[dice.choice((b"a", None)) for _ in range(12)])
    assert shape.patterns == []


def test_patterns_follow_what_comes() -> None:
    shape = shape_of(20, 25, 25)
    for row in ((b"1", b"a", b"b"), (b"1", None, b"b"), (b"1", b"a", None)):
        for _ in range(20_000):
            if not is_known(shape, *row):
                shape.seen(*slowly(shape, message(*row))[1:])
        assert is_known(shape, *row)
    assert len(shape.patterns) <= 3


@pytest.mark.parametrize("oid", [1114, 1184])
def test_what_is_cut_is_what_is_converted(oid: int) -> None:
    cut, convert = form(oid).cut, form(oid).convert
    assert cut is not None
    assert convert is not None
    for value in SAMPLES[oid]:
        found = re.fullmatch(cut.pattern, value)
        if found is not None:
            assert cut.template % found.groups() == b'"%b"' % convert(value)


def test_a_pattern_knows_its_nulls() -> None:
    pattern = Pattern(("id", "note"), (form(20), TEXT), (0,), nulls=0b10, missing=0)
    assert (pattern.nulls, pattern.missing) == (2, 0)
    assert pattern.read(message(b"5", None), len(HEAD)) == (b'{"id":5,"note":null}', b'{"id":5}', False)
