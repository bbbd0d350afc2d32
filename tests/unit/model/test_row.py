"""Keys as text, rows as bytes, values as indexes hold them."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.model.row import (
    Row,
    decode_row,
    encode_row,
    index_text,
    key_of_record,
    key_parts,
    key_text,
    keys_of_records,
    sort_key,
)

TEXTS = st.text(max_size=20)
DECIMALS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False),
    st.builds(
        lambda sign, digits, exponent: Decimal((sign, digits, exponent)),
        st.integers(0, 1),
        st.lists(st.integers(0, 9), min_size=1, max_size=60).map(tuple),
        st.integers(-17_000, 132_000),  # Postgres' numeric reaches no further
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: Decimal(str(number))),
    st.integers(-(10**45), 10**45).map(Decimal),
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_key_text_and_back(parts: list[str]) -> None:
    text = key_text(parts)
    assert key_parts(text) == tuple(parts)
    assert text.isascii() and not set(text) & set("/?# :\x00")


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, min_size=1, max_size=3))
def test_different_keys_have_different_texts(one: list[str], other: list[str]) -> None:
    assert (key_text(one) == key_text(other)) == (one == other)


def test_key_of_a_record_takes_its_columns_in_the_keys_order() -> None:
    record = b'{"b": true, "a": 12345678901234567890123, "c": "x,y/\xc3\xbc", "d": 1.10}'
    assert key_of_record(record, ["c", "a", "b", "d"]) == "x%2Cy%2F%C3%BC,12345678901234567890123,true,1.10"
    with pytest.raises(KeyError):
        key_of_record(record, ["e"])


KEY_VALUES = st.integers(-(10**25), 10**25) | st.sampled_from([0, 7, 10, "", "a-b_c.d~e", "ü", 'a"b', "a/b"]) | TEXTS
ODD_KEYS = [None, b"", b"{", b"null", b'{"id":007}', b'{"id":"}', b'{"id":}', b'{"id":1}\n{"id":2}', b'{"id":1.5}',
            b'{"id": 1}', b'{"other":1}', b'{"id":true}', b'{"id":"\xff"}', b'{"id":1,"id":2}']  # fmt: skip


@given(
    st.lists(st.integers(0, 10**20)) | st.lists(st.text("ab-._~09", max_size=5)) | st.lists(KEY_VALUES, max_size=6),
    st.lists(st.sampled_from(ODD_KEYS), max_size=2),
)
def test_many_keys_are_read_as_each_of_them_is(given: list[Any], odd: list[bytes | None]) -> None:
    keys = [json.dumps({"id": value}, separators=(",", ":"), ensure_ascii=False).encode() for value in given]
    found = keys_of_records([*odd, *keys], ["id"])
    assert found[len(odd) :] == [key_text([value]) for value in given]
    assert found == [_key_alone(key) for key in [*odd, *keys]]


def _key_alone(key: bytes | None) -> str | None:
    try:
        return None if key is None else key_of_record(key, ["id"])
    except (KeyError, TypeError, ValueError):
        return None


def test_keys_of_two_columns() -> None:
    keys = [b'{"b":1,"a":"x"}', b'{"a":"y","b":2,"c":3}', b'{"a":"z"}', None]
    assert keys_of_records(keys, ["a", "b"]) == ["x,1", "y,2", None, None]
    assert keys_of_records([], ["a"]) == []


@given(
    st.builds(
        Row,
        st.just("7"),
        st.integers(0, 10_000),
        st.integers(0, 2**50),
        st.binary(max_size=50),
        st.sampled_from(["", "schema_mismatch"]),
    )
)
def test_a_packed_row_and_back(row: Row) -> None:
    assert decode_row("7", encode_row(row)) == row


@given(DECIMALS, DECIMALS)
def test_sort_keys_order_as_decimals_do(one: Decimal, other: Decimal) -> None:
    keys = sort_key(one, numeric=True), sort_key(str(other), numeric=True)
    assert (keys[0] < keys[1]) == (one < other)
    assert (keys[0] == keys[1]) == (one == other)


@given(DECIMALS, DECIMALS)
def test_index_texts_are_equal_where_decimals_are(one: Decimal, other: Decimal) -> None:
    assert (index_text(one) == index_text(other)) == (one == other)


@given(DECIMALS, st.integers(0, 5))
def test_trailing_zeros_change_nothing(number: Decimal, zeros: int) -> None:
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    longer = Decimal((sign, digits + (0,) * zeros, exponent - zeros))
    assert index_text(longer) == index_text(number)
    assert sort_key(longer, numeric=True) == sort_key(number, numeric=True)


@given(st.text(), st.text())
def test_texts_order_by_code_points(one: str, other: str) -> None:
    keys = sort_key(one, numeric=False), sort_key(other, numeric=False)
    assert (keys[0] < keys[1]) == (one < other)
    assert not any(0 in key for key in keys)


@given(st.text(max_size=5), st.text(max_size=5), st.sampled_from(["1", "zz"]), st.sampled_from(["1", "zz"]))
def test_a_zero_byte_and_a_key_may_follow(one: str, other: str, key: str, other_key: str) -> None:
    members = [sort_key(text, numeric=False) + b"\x00" + end.encode() for text, end in ((one, key), (other, other_key))]
    assert (members[0] < members[1]) == ((one, key) < (other, other_key))


def test_what_is_no_number_has_its_place() -> None:
    values: list[Any] = [None, False, True, "-Infinity", -1e300, "-5", 0, "5", 1e300, "Infinity", "NaN", "text"]
    keys = [sort_key(value, numeric=True) for value in values]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert sort_key(-0.0, numeric=True) == sort_key("0.00", numeric=True)


def test_an_absurd_exponent_costs_nothing() -> None:
    for text in ("1e999999999", "-1e-999999999", "1e499999"):
        assert len(index_text(Decimal(text))) < 30
        assert len(sort_key(text, numeric=True)) < 30
    assert sort_key("1e999999999", numeric=True) > sort_key("1e130000", numeric=True)
    assert sort_key("1e-999999999", numeric=True) < sort_key("1e-17000", numeric=True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (10**22, 1e22, True),
        (100, Decimal("1E+2"), True),
        (0, -0.0, True),
        (1, True, False),
        (1, "1", False),
        (None, "", False),
        ("n", None, False),
        (math.inf, math.inf, True),
        ({"b": 1, "a": [1.5]}, {"a": [Decimal("1.5")], "b": 1}, True),
        ([1], [True], False),
    ],
)
def test_equal_values_have_one_index_text(one: Any, other: Any, same: bool) -> None:
    assert (index_text(one) == index_text(other)) == same


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_index_text_does_not_depend_on_the_spelling_of_json(value: Any) -> None:
    spellings = json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)
    texts = {index_text(json.loads(spelling)) for spelling in spellings}
    assert len(texts) == 1
