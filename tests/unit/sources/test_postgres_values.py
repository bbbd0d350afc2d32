"""Text of PostgreSQL's types as JSON, by the forms of the built-in types."""

from __future__ import annotations

import json

import pytest

from headgate.sources.postgres.rows import RowShape, Values
from headgate.sources.postgres.values import TEXT, Form, Types, array_form

BOOL, BYTEA, INT8, FLOAT8, NUMERIC, DATE, TIMESTAMP, TIMESTAMPTZ, INTERVAL, JSON, UUID, OIDVECTOR = (
    16, 17, 20, 701, 1700, 1082, 1114, 1184, 1186, 114, 2950, 30,
)  # fmt: skip


def form(oid: int) -> Form:
    return Types().form(oid)


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (BOOL, b"t", b"true"),
        (BOOL, b"f", b"false"),
        (INT8, b"-9223372036854775808", b"-9223372036854775808"),
        (FLOAT8, b"0.30000000000000004", b"0.30000000000000004"),
        (FLOAT8, b"1e+300", b"1e+300"),
        (FLOAT8, b"-0", b"-0"),
        (FLOAT8, b"NaN", b'"NaN"'),
        (FLOAT8, b"-Infinity", b'"-Infinity"'),
        (NUMERIC, b"1.10", b'"1.10"'),
        (NUMERIC, b"NaN", b'"NaN"'),
        (DATE, b"2026-01-02", b'"2026-01-02"'),
        (DATE, b"0044-03-15 BC", b'"0044-03-15 BC"'),
        (TIMESTAMP, b"2026-01-02 03:04:05.123456", b'"2026-01-02T03:04:05.123456"'),
        (TIMESTAMP, b"12026-01-02 03:04:05", b'"12026-01-02T03:04:05"'),
        (TIMESTAMP, b"infinity", b'"infinity"'),
        (TIMESTAMP, b"0044-03-15 00:00:00 BC", b'"0044-03-15 00:00:00 BC"'),
        (TIMESTAMPTZ, b"2026-01-02 03:04:05+00", b'"2026-01-02T03:04:05Z"'),
        (TIMESTAMPTZ, b"-infinity", b'"-infinity"'),
        (TIMESTAMPTZ, b"0044-03-15 00:00:00+00 BC", b'"0044-03-15 00:00:00+00 BC"'),
        (INTERVAL, b"P1Y2M3DT4H5M6.7S", b'"P1Y2M3DT4H5M6.7S"'),
        (BYTEA, b"\\x00ff10", b'"AP8Q"'),
        (BYTEA, b"\\x", b'""'),
        (JSON, b'{"a": [1, null]}', b'{"a": [1, null]}'),
        (JSON, b'"\\u00e9"', b'"\\u00e9"'),
        (JSON, b'"\\ud800"', b'"\\"\\\\ud800\\""'),  # a lone surrogate, which type json takes and no decoder does
        (JSON, b"[" * 600 + b"]" * 600, b'"' + b"[" * 600 + b"]" * 600 + b'"'),  # deeper than a row may be
        (UUID, b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", b'"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
        (OIDVECTOR, b"1 2", b'"1 2"'),
        (999_999, b'anything "at" all\n', b'"anything \\"at\\" all\\n"'),
    ],
)
def test_a_value_becomes_json(oid: int, text: bytes, expected: bytes) -> None:
    assert form(oid).json(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "plain", 'quote " backslash \\ slash /', "line\nbreak\ttab\r\b\f", "\x01\x1f\x7f", "é 漢字 😀", "\u2028"],
)
def test_text_reads_back_as_it_was(text: str) -> None:
    assert json.loads(TEXT.json(text.encode())) == text


def test_text_that_is_no_utf_8_keeps_its_bytes_visible() -> None:
    assert json.loads(TEXT.json(b"caf\xe9")) == "caf\\xe9"


@pytest.mark.parametrize(
    ("element", "text", "expected"),
    [
        (form(INT8), b"{}", []),
        (form(INT8), b"{1,NULL,-3}", [1, None, -3]),
        (form(INT8), b"{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (form(INT8), b"[0:1]={7,8}", [7, 8]),
        (form(INT8), b"[1:1][-2:-1]={{1,2}}", [[1, 2]]),
        (TEXT, b"{}", []),
        (TEXT, b"{a,NULL,\"NULL\",\"\"}", ["a", None, "NULL", ""]),
        (TEXT, b'{"a,b","{c}","d\\"e","f\\\\g"," h"}', ["a,b", "{c}", 'd"e', "f\\g", " h"]),
        (TEXT, b'{{a,b},{"c d",NULL}}', [["a", "b"], ["c d", None]]),
        (TEXT, b'[2:3]={"x=y",z}', ["x=y", "z"]),
        (TEXT, b'{"line\nbreak"}', ["line\nbreak"]),
        (form(BOOL), b"{t,f,NULL}", [True, False, None]),
        (form(NUMERIC), b"{1.10,NaN}", ["1.10", "NaN"]),
        (form(BYTEA), b'{"\\\\x00ff"}', ["AP8="]),
        (form(TIMESTAMPTZ), b'{"2026-01-02 03:04:05+00",infinity}', ["2026-01-02T03:04:05Z", "infinity"]),
        (form(JSON), b'{"{\\"a\\": [1, 2]}"}', [{"a": [1, 2]}]),
    ],
)  # fmt: skip
def test_an_array_becomes_a_json_array(element: Form, text: bytes, expected: list[object]) -> None:
    assert json.loads(array_form(element).json(text)) == expected


def test_an_array_with_a_delimiter_of_its_own() -> None:
    assert json.loads(array_form(TEXT, b";").json(b"{(1,2),(0,0);(3,4),(1,1)}")) == ["(1,2),(0,0)", "(3,4),(1,1)"]


SHAPE = RowShape("public.t", [("id", form(INT8)), ("100% \"", TEXT), ("n", form(NUMERIC))], ["n", "id"])  # fmt: skip


@pytest.mark.parametrize(
    ("values", "nulls", "missing", "expected"),
    [
        ([b"1", b"x", b"2.0"], 0, 0, {"id": 1, '100% "': "x", "n": "2.0"}),
        ([b"1", None, b"2.0"], 0b010, 0, {"id": 1, '100% "': None, "n": "2.0"}),
        ([b"1", None, b"2.0"], 0, 0b010, {"id": 1, '100% "': "__debezium_unavailable_value", "n": "2.0"}),
        ([b"1", b"%s", b"2.0"], 0, 0, {"id": 1, '100% "': "%s", "n": "2.0"}),
    ],
)
def test_a_row_and_its_key(values: Values, nulls: int, missing: int, expected: dict[str, object]) -> None:
    values = list(values)
    assert json.loads(SHAPE.row(values, nulls, missing)) == expected
    assert SHAPE.key_of(values) == b'{"n":"2.0","id":1}'
