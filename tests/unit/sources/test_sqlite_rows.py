"""How SQLite's values become JSON, and what agents are told of a column."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate.sources.sqlite.schema import affinity, column_type

from .grounds import Replica, Run, SqliteGround, ops

VALUES: list[tuple[str, str, str, Any]] = [
    ("INTEGER", "9223372036854775807", "integer", 9223372036854775807),
    ("INTEGER", "-9223372036854775808", "integer", -9223372036854775808),
    ("BIGINT", "'text'", "integer", "text"),
    ("INTEGER", "NULL", "integer", None),
    ("INTEGER", "9e999", "integer", "Infinity"),
    ("REAL", "-9e999", "number", "-Infinity"),
    ("REAL", "0.1", "number", 0.1),
    ("DOUBLE PRECISION", "1e300", "number", 1e300),
    ("REAL", "3", "number", 3.0),
    ("TEXT", "'ünï \U0001f600'", "string", "ünï \U0001f600"),
    ("TEXT", "'a' || char(0) || 'b'", "string", "a\0b"),
    ("VARCHAR(10)", "5", "string", "5"),
    ("TEXT", "CAST(x'fffe' AS TEXT)", "string", "data:application/octet-stream;base64,//4="),
    ("TEXT", "x'00ff'", "string", "AP8="),
    ("BLOB", "x'00ff'", "bytes", "AP8="),
    ("BLOB", "zeroblob(0)", "bytes", ""),
    ("BOOLEAN", "1", "boolean", True),
    ("BOOL", "0", "boolean", False),
    ("BOOLEAN", "2", "boolean", 2),
    ("BOOLEAN", "'yes'", "boolean", "yes"),
    ("DECIMAL(10,2)", "12.5", "decimal", "12.5"),
    ("DECIMAL(10,2)", "'12.50'", "decimal", "12.5"),
    ("NUMERIC", "7", "decimal", "7"),
    ("NUMERIC", "1e-7", "decimal", "0.0000001"),
    ("NUMERIC", "1e30", "decimal", "1000000000000000000000000000000"),
    ("NUMERIC", "'n/a'", "decimal", "n/a"),
    ("DATE", "'2026-02-03'", "date", "2026-02-03"),
    ("DATETIME", "'2026-02-03 04:05:06'", "timestamp", "2026-02-03 04:05:06"),
    ("TIMESTAMP WITH TIME ZONE", "1700000000", "timestamp", 1700000000),
    ("TIME", "'04:05'", "time", "04:05"),
    ("JSON", "'{\"a\": [1, 12345678901234567890.5]}'", "json", {"a": [1, 12345678901234567890.5]}),
    ("JSON", "'null'", "json", None),
    ("JSON", "'{broken'", "json", "{broken"),
    ("JSON", f"'{'[' * 2_000}{']' * 2_000}'", "json", "[" * 2_000 + "]" * 2_000),
    ("JSON", "17", "json", 17),
    ("UUID", "'0b1c'", "uuid", "0b1c"),
    ("", "1.5", "json", 1.5),
    ("", "'t'", "json", "t"),
    ("MONEY", "1.5", "number", 1.5),
]


@pytest.mark.parametrize(("declared", "literal", "kind", "expected"), VALUES)
def test_a_value_is_read_alike_by_snapshot_and_change(
    declared: str, literal: str, kind: str, expected: Any, ground: SqliteGround, replica: Replica
) -> None:
    ground.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})", f"INSERT INTO t VALUES (1, {literal})")
    with Run(ground, replica) as run:
        run.until(lambda: len(replica.rows("t")) == 1, "the snapshot")
        ground.execute(f"INSERT INTO t VALUES (2, {literal})")
        run.until(lambda: len(replica.rows("t")) == 2, "the change")
        assert [repr(row["v"]) for row in replica.rows("t")] == [repr(expected)] * 2
        column = replica.tables["main.t"].column("v")
        assert column is not None and (column.type, column.native) == (kind, declared)


def test_large_numbers_keep_their_digits_in_the_envelope(ground: SqliteGround, replica: Replica) -> None:
    ground.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v JSON)", "INSERT INTO t VALUES (1, '[1.10, 1e400]')")
    with Run(ground, replica) as run:
        run.until(lambda: len(replica.rows("t")) == 1, "the snapshot")
        assert [change.after for change in run.seen if change.op == "r"] == [b'{"id":1,"v":[1.10, 1e400]}']


KEYS = {
    "text": ("TEXT", "'ü,/ %'", "ü,/ %"),
    "blob": ("BLOB", "x'00ff'", "AP8="),
    "integer": ("INT", "-5", -5),
    "real": ("REAL", "2.5", 2.5),
    "infinity": ("REAL", "9e999", "Infinity"),
    "boolean": ("BOOLEAN", "1", True),
    "decimal": ("NUMERIC(4,1)", "2.5", "2.5"),
    "text that is no UTF-8": ("TEXT", "CAST(x'ff' AS TEXT)", "data:application/octet-stream;base64,/w=="),
    "text with a zero byte": ("TEXT", "'a' || char(0)", "a\0"),
}


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("without_rowid", ["", "WITHOUT ROWID"])
def test_a_key_of_any_type_is_found_again(
    case: str, without_rowid: str, ground: SqliteGround, replica: Replica
) -> None:
    declared, literal, expected = KEYS[case]
    ground.execute(f"CREATE TABLE t (k {declared} PRIMARY KEY, v TEXT) {without_rowid}")
    with Run(ground, replica) as run:
        run.until(lambda: "main.t" in replica.tables and bool(run.heads), "the snapshot")
        ground.execute(f"INSERT INTO t VALUES ({literal}, 'a')")
        run.until(lambda: [row["v"] for row in replica.rows("t")] == ["a"], "the insert")
        ground.execute("UPDATE t SET v = 'b'")
        run.until(lambda: [row["v"] for row in replica.rows("t")] == ["b"], "the update")
        ground.execute("DELETE FROM t")
        run.until(lambda: replica.rows("t") == [], "the delete")
        assert ops(run.seen) == [("c", expected), ("u", expected), ("d", expected)]


def test_generated_columns_are_columns(ground: SqliteGround, replica: Replica) -> None:
    ground.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, s INT AS (a + 1) STORED, v INT AS (a + 2))")
    ground.execute("INSERT INTO t (a) VALUES (1)")
    with Run(ground, replica) as run:
        run.catch_up("t")
        ground.execute("UPDATE t SET a = 5")
        run.catch_up("t")
        assert json.dumps(replica.rows("t")) == '[{"id": 1, "a": 5, "s": 6, "v": 7}]'


@pytest.mark.parametrize(
    ("native", "kind", "numbers_as"),
    [
        ("INTEGER", "integer", "INTEGER"), ("tinyint", "integer", "INTEGER"), ("POINT", "integer", "INTEGER"),
        ("NVARCHAR(3)", "string", "TEXT"), ("CLOB", "string", "TEXT"), ("", "json", "BLOB"), ("ANY", "json", "BLOB"),
        ("BLOB", "bytes", "BLOB"), ("FLOAT", "number", "REAL"), ("JSON", "json", "NUMERIC"),
        ("DATE", "date", "NUMERIC"), ("MONEY", "number", "NUMERIC"), ("DATETIME", "timestamp", "NUMERIC"),
        ("CHARINT", "integer", "INTEGER"),
    ],
)  # fmt: skip
def test_a_declared_type_has_a_kind_and_an_affinity(native: str, kind: str, numbers_as: str) -> None:
    assert (column_type(native), affinity(native)) == (kind, numbers_as)
