"""PostgreSQL's values, long columns, keys and truncates, as they come out of capture. On a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from headgate.model.change import UNAVAILABLE
from tests.ways.postgres_owner import Owner, Run, after, key

LONG = "x" * 10_000  # kept outside the row, where `STORAGE EXTERNAL` keeps it from being compressed


@pytest.fixture
def owner(database: str) -> Iterator[Owner]:
    with closing(Owner(database)) as made:
        yield made


TYPES: list[tuple[str, list[tuple[str | None, Any]]]] = [
    ("smallint", [("-32768", -32768), (None, None)]),
    ("integer", [("2147483647", 2147483647)]),
    ("bigint", [("-9223372036854775808", -9223372036854775808), ("9007199254740993", 9007199254740993)]),
    ("real", [("0.1", 0.1), ("NaN", "NaN"), ("1e38", 1e38)]),
    ("double precision", [("0.30000000000000004", 0.30000000000000004), ("-Infinity",) * 2, ("1e-300", 1e-300)]),
    ("numeric", [("12345678901234567890.123456789012345678901234567890",) * 2, ("NaN",) * 2, ("Infinity",) * 2]),
    ("numeric(10,2)", [("1.1", "1.10"), ("-0.05", "-0.05")]),
    ("money", [("12.5", "$12.50")]),
    ("boolean", [("true", True), ("false", False)]),
    ("text", [("",) * 2, ("a\"b\\c\nd\te\x01",) * 2, ("漢字 😀",) * 2, ("\\N",) * 2, ("\\.",) * 2]),
    ("varchar(20)", [("it's", "it's")]),
    ("char(5)", [("ab", "ab   ")]),
    ('"char"', [("z", "z")]),
    ("name", [("a_name", "a_name")]),
    ("bytea", [("\\x", ""), ("\\x00ff5c0a", "AP9cCg==")]),
    ("date", [("2026-01-02",) * 2, ("infinity",) * 2, ("0044-03-15 BC",) * 2]),
    ("time", [("23:59:59.999999",) * 2]),
    ("timetz", [("03:04:05+02", "03:04:05+02")]),
    ("timestamp", [("2026-01-02 03:04:05.123456", "2026-01-02T03:04:05.123456"), ("-infinity",) * 2]),
    ("timestamp", [("0044-03-15 01:02:03 BC",) * 2, ("20260-01-02 00:00:00", "20260-01-02T00:00:00")]),
    ("timestamptz", [("2026-01-02 03:04:05.5+02", "2026-01-02T01:04:05.5Z"), ("infinity",) * 2]),
    ("interval", [("1 year 2 mons 3 days 04:05:06.7", "P1Y2M3DT4H5M6.7S"), ("-1 day", "P-1D"), ("0", "PT0S")]),
    ("uuid", [("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",) * 2]),
    ("json", [('{"b": 1, "a": [null, 1.50]}', {"b": 1, "a": [None, 1.5]}), ('"x"', "x"), ("null", None)]),
    ("jsonb", [('{"a": {"b": "q\\"\\n"}, "n": 1234567890123456789}', {"a": {"b": 'q"\n'}, "n": 1234567890123456789})]),
    ("integer[]", [("{}", []), ("{1,NULL,3}", [1, None, 3]), ("{{1},{3}}", [[1], [3]]), ("[0:1]={5,6}", [5, 6])]),
    ("text[]", [('{a,"b,c","",NULL,"NULL","q\\"q","b\\\\s"}', ["a", "b,c", "", None, "NULL", 'q"q', "b\\s"])]),
    ("numeric[]", [("{1.10,NaN}", ["1.10", "NaN"])]),
    ("boolean[]", [("{t,f}", [True, False])]),
    ("timestamptz[]", [('{"2026-01-02 03:04:05+00"}', ["2026-01-02T03:04:05Z"])]),
    ("bytea[]", [('{"\\\\x00ff"}', ["AP8="])]),
    ("jsonb[]", [('{"{\\"a\\": 1}"}', [{"a": 1}])]),
    ("uuid[]", [("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"])]),
    ("box[]", [("{(1,1),(0,0)}", ["(1,1),(0,0)"])]),
    ("int4range", [("[1,5)",) * 2, ("empty",) * 2]),
    ("tstzrange", [("[2026-01-01 00:00:00+00,)", '["2026-01-01 00:00:00+00",)')]),
    ("int4multirange", [("{[1,3),[5,7)}",) * 2]),
    ("inet", [("192.168.0.1/24",) * 2, ("::1",) * 2]),
    ("cidr", [("10.0.0.0/8",) * 2]),
    ("macaddr", [("08:00:2b:01:02:03",) * 2]),
    ("bit(3)", [("101",) * 2]),
    ("varbit", [("10101",) * 2]),
    ("tsvector", [("fat cat", "'cat' 'fat'")]),
    ("tsquery", [("fat & cat", "'fat' & 'cat'")]),
    ("point", [("(1.5,-2)",) * 2]),
    ("polygon", [("((0,0),(1,1),(1,0))",) * 2]),
    ("pg_lsn", [("16/B374D848",) * 2]),
    ("oid", [("4294967295", 4294967295)]),
    ("regclass", [("mood_table", "public.mood_table")]),
    ("mood", [('so "so"',) * 2]),
    ("mood[]", [('{sad,"so \\"so\\""}', ["sad", 'so "so"'])]),
    ("pair", [('(1,"a b")',) * 2]),
    ("positive", [("7", 7)]),
    ("positive[]", [("{7,8}", [7, 8])]),
    ("tags", [("{a,b}", ["a", "b"])]),
    ("deep", [("3", 3)]),
]  # fmt: skip

OWN_TYPES = """
    create type mood as enum ('sad', 'so "so"');
    create table mood_table (id int);
    create type pair as (n int, words text);
    create domain positive as int check (value > 0);
    create domain deep as positive;
    create domain tags as text[];
"""


def test_every_type_keeps_its_value_and_reads_the_same_in_snapshot_and_stream(owner: Owner) -> None:
    owner.execute(OWN_TYPES)
    columns = ", ".join(f"c{number} {type_}" for number, (type_, _) in enumerate(TYPES))
    owner.execute(f"create table every (id int primary key, {columns})")
    height = max(len(values) for _, values in TYPES)

    def fill(first: int) -> None:
        for line in range(height):
            texts = [values[line % len(values)][0] for _, values in TYPES]
            places = ", ".join(f"%s::{type_}" for type_, _ in TYPES)
            owner.execute(f"insert into every values ({first + line}, {places})", *texts)

    fill(0)
    with Run(owner.source("every")) as run:
        snapshot = {key(change)["id"]: change.after for change in run.rows(height)}
        run.streaming()
        fill(100)
        stream = {key(change)["id"]: change.after for change in run.rows(height)}
    for line in range(height):
        row = json.loads(stream[100 + line] or b"")
        for number, (type_, values) in enumerate(TYPES):
            assert (type_, row[f"c{number}"]) == (type_, values[line % len(values)][1])
        assert (snapshot[line] or b"").split(b",", 1)[1] == (stream[100 + line] or b"").split(b",", 1)[1]


def test_columns_say_what_an_agent_may_expect(owner: Owner) -> None:
    owner.execute(OWN_TYPES)
    owner.execute(
        "create table t (id bigint primary key, n numeric(9,2), f real, b bool, s text, d date, h timetz,"
        " at timestamptz, i interval, raw bytea, j jsonb, u uuid, a int[], m mood, p positive, g tags, r int4range)"
    )
    (table,) = owner.source("t").tables()
    assert {column.name: column.type for column in table.columns} == {
        "id": "integer", "n": "decimal", "f": "number", "b": "boolean", "s": "string", "d": "date", "h": "time",
        "at": "timestamp", "i": "duration", "raw": "bytes", "j": "json", "u": "uuid", "a": "array", "m": "string",
        "p": "integer", "g": "array", "r": "string",
    }  # fmt: skip
    native = table.column("n")
    assert native is not None and native.native == "numeric(9,2)"


# --- long columns, keys, truncate ------------------------------------------------------------------


def _documents(owner: Owner) -> None:
    owner.execute("create table docs (id int primary key, title text, body text)")
    owner.execute("alter table docs alter body set storage external")
    owner.execute("insert into docs values (1, 'a', %s)", LONG)


def test_an_unchanged_long_column_is_left_out_and_said_so(owner: Owner) -> None:
    _documents(owner)
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("update docs set title = 'b'")
        (change,) = run.rows(1)
        assert (change.op, change.partial) == ("u", True)
        assert after(change) == {"id": 1, "title": "b", "body": UNAVAILABLE}


def test_an_unchanged_long_column_comes_from_the_full_old_row(owner: Owner) -> None:
    _documents(owner)
    owner.execute("alter table docs replica identity full")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("update docs set title = 'b'")
        owner.execute("update docs set id = 2")
        changed, deleted, created = run.rows(3)
        assert after(changed) == {"id": 1, "title": "b", "body": LONG}
        assert json.loads(changed.before or b"") == {"id": 1, "title": "a", "body": LONG}
        assert (deleted.op, key(deleted)) == ("d", {"id": 1})
        assert (created.op, after(created), created.partial) == ("c", {"id": 2, "title": "b", "body": LONG}, False)


def test_a_key_change_with_an_unchanged_long_column_is_whole(owner: Owner) -> None:
    _documents(owner)
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("update docs set id = 2")
        deleted, created = run.rows(2)
        assert (deleted.op, key(deleted), json.loads(deleted.before or b"")) == ("d", {"id": 1}, {"id": 1})
        assert (created.op, created.partial, after(created)) == ("c", False, {"id": 2, "title": "a", "body": LONG})


def test_a_row_that_moved_on_before_it_was_read_is_whole_in_the_end(owner: Owner) -> None:
    _documents(owner)
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("update docs set id = 2; update docs set id = 3")
        changes = run.rows(4)
        assert [(change.op, *key(change).values()) for change in changes] == [("d", 1), ("c", 2), ("d", 2), ("c", 3)]
        assert changes[1].partial
        assert after(changes[3])["body"] == LONG


def test_a_unique_index_may_be_the_key(owner: Owner) -> None:
    owner.execute("create table t (id int, code text not null unique, v int); create index on t (v)")
    owner.execute("alter table t replica identity using index t_code_key")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.tables["public.t"].key == ("code",)
        owner.execute("insert into t values (1, 'a', 0)")
        owner.execute("update t set code = 'b'")
        owner.execute("delete from t")
        assert [(c.op, key(c)) for c in run.rows(4)] == [
            ("c", {"code": "a"}), ("d", {"code": "a"}), ("c", {"code": "b"}), ("d", {"code": "b"}),
        ]  # fmt: skip


def test_included_columns_are_no_part_of_the_key(owner: Owner) -> None:
    owner.execute("create table t (id int, more text, primary key (id) include (more))")
    owner.execute("insert into t values (1, 'a')")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.tables["public.t"].key == ("id",)
        owner.execute("update t set more = 'b'")
        (change,) = run.rows(1)
        assert (change.op, key(change), change.before) == ("u", {"id": 1}, None)


def test_a_truncate_of_several_tables_is_one_change_each(owner: Owner) -> None:
    owner.execute("create table a (id int primary key); create table b (id int primary key references a)")
    owner.execute("insert into a values (1); insert into b values (1)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute("truncate a cascade")
        changes = run.rows(2)
        assert sorted((change.op, change.table, change.key) for change in changes) == [
            ("t", "public.a", None),
            ("t", "public.b", None),
        ]
