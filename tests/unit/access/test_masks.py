"""How values look that are not shown as they are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headgate.access.masks import hashed, masked, of_json, treat
from headgate.model.access import Treatment
from headgate.model.entity import Field
from headgate.model.table import ColumnType

KEY = b"k" * 32
MASK = Treatment(kind="mask")


def field(type_: ColumnType = "string", classification: str = "") -> Field:
    return Field(name="f", type=type_, classification=classification)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ada@example.com", "a***@example.com"),
        ("a@example.com", "***@example.com"),
        ("ada.b+c@mail.example.co.uk", "a***@mail.example.co.uk"),
        ("+49 (30) 1234-5678", "***5678"),
        ("4111 1111 1111 1111", "***1111"),
        ("DE89370400440532013000", "***3000"),
        (4111111111111111, "***1111"),
        ("Ada Lovelace", "A***"),
        ("Ørsted", "Ø***"),
        ("Ada", "***"),
        ("", "***"),
        ("42", "***"),
        (42, "***"),
        (3.5, "***"),
        ("192.168.10.20", "***"),
        ("1990-04-01", "***"),
        ("two words@no mail", "t***"),
        (None, None),
    ],
)
def test_a_masked_value_keeps_little(value: Any, shown: str | None) -> None:
    assert masked(value) == shown


@pytest.mark.parametrize("classification", ["personal.phone", "personal.card", "personal.iban"])
def test_numbers_of_persons_keep_their_last_four(classification: str) -> None:
    mask = treat(MASK, field(classification=classification), KEY)
    assert mask("tel 030 1234567 x") == "***567x" and mask("1234567") == "***" and mask(None) is None


@pytest.mark.parametrize("type_", ["date", "timestamp", "boolean", "json", "array", "bytes"])
def test_other_types_are_masked_whole(type_: ColumnType) -> None:
    mask = treat(MASK, field(type_), KEY)
    assert mask("2026-11-21") == mask({"a": "Ada Lovelace"}) == mask(True) == "***" and mask(None) is None


def test_a_hash_is_the_same_for_the_same_value_and_key_alone() -> None:
    one = hashed("ada@example.com", KEY)
    assert one == hashed("ada@example.com", KEY) and one is not None and len(one) == 64
    others = {hashed("ada@example.com", b"other" * 8), hashed("bob@example.com", KEY), hashed(1, KEY), hashed("1", KEY)}
    assert one not in others and len(others) == 4
    assert hashed(1, KEY) == hashed(1.0, KEY), "a number is the same however it is spelled"
    assert hashed(None, KEY) is None and hashed("", KEY) is not None


@pytest.mark.parametrize(
    ("step", "value", "shown"),
    [
        ("year", "1990-04-01", "1990"),
        ("month", "1990-04-01", "1990-04"),
        ("day", "2026-11-21T02:03:04.5Z", "2026-11-21"),
        ("hour", "2026-11-21T02:03:04.5Z", "2026-11-21T02"),
        ("hour", "2026-11-21 02:03", "2026-11-21 02"),
        ("year", "April", "***"),
        ("year", 1990, "***"),
        ("year", None, None),
        (10.0, 1234, 1230),
        (10.0, -1, -10),
        (0.5, 1.74, 1.5),
        (0.1, 0.35, 0.3),
        (100.0, "1234.56", "1200"),
        (2.5, "7", "5.0"),
        (10.0, True, "***"),
        (10.0, "NaN", "***"),
        (10.0, "much", "***"),
        (10.0, [1], "***"),
        (10.0, None, None),
    ],
)
def test_values_are_made_coarser(step: str | float, value: Any, shown: Any) -> None:
    made = treat(Treatment(kind="generalise", step=step), field(), KEY)(value)
    assert made == shown and type(made) is type(shown)


def test_values_are_read_from_json_exactly() -> None:
    floor = of_json(treat(Treatment(kind="generalise", step=0.1), field("number"), KEY))
    assert floor(msgspec.Raw(b"0.30000000000000000001")) == 0.3
    assert floor(msgspec.Raw(b"null")) is None
    mask = of_json(treat(MASK, field("integer"), KEY))
    assert mask(msgspec.Raw(b"9" * 5_000)) == "***", "what can't be read is masked whole"
