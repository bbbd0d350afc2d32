"""Types of MariaDB and MySQL: each value is the same of a snapshot and of the binary log, on real servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.ways.test_mysql_source import Owner, Run, now_ms, owner

__all__ = ["owner"]  # a fixture

TYPES = {
    "a": ("tinyint(1)", "1", 1),
    "b": ("bigint unsigned", "18446744073709551615", 18446744073709551615),
    "c": ("decimal(30,10)", "-12345678901234567890.1200000000", "-12345678901234567890.1200000000"),
    "d": ("float", "1.1", 1.1),
    "e": ("double", "0.1", 0.1),
    "f": ("date", "'2026-02-03'", "2026-02-03"),
    "g": ("datetime(6)", "'2026-02-03 04:05:06.120000'", "2026-02-03T04:05:06.12"),
    "h": ("timestamp(3) null", "'2026-02-03 04:05:06.789'", "2026-02-03T04:05:06.789Z"),
    "i": ("time(2)", "'-838:59:58.50'", "-838:59:58.5"),
    "j": ("year", "2026", 2026),
    "k": ("char(5)", "'é'", "é"),
    "l": ("text character set latin1", "'ü'", "ü"),
    "m": ("varbinary(9)", "x'00ff01'", "AP8B"),
    "n": ("binary(4)", "x'01'", "AQAAAA=="),
    "o": ("enum('x','y')", "'y'", "y"),
    "p": ("set('one','two','three')", "'three,one'", "one,three"),
    "q": ("json", '\'{"z": [1, null, "é"]}\'', {"z": [1, None, "é"]}),
    "r": ("bit(1)", "b'1'", True),
    "s": ("bit(10)", "b'101'", "0000000101"),
    "t": ("datetime", "'2026-02-03 00:00:00'", "2026-02-03T00:00:00"),
    "u": ("blob", "''", ""),
    "v": ("mediumint unsigned", "16777215", 16777215),
    "w": ("point", "point(1, 2)", "AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="),
    "x": ("varchar(9)", "null", None),
    "y": ("longtext", "repeat('Ω', 40000)", "Ω" * 40000),
    "z": ("tinyint unsigned", "200", 200),
}
_ODD = {
    "aa": ("int(5) unsigned zerofill", "42", 42),
    "ab": ("decimal(8,2) zerofill", "1.5", "1.50"),
    "ac": ("year", "0", 0),
    "ad": ("set('a','b') not null", "''", ""),
    "ae": ("set('a','b')", "null", None),
    "ag": ("time(1)", "'-00:00:01.3'", "-00:00:01.3"),
    "ah": ("time(4)", "'12:34:56.7891'", "12:34:56.7891"),
    "ai": ("time", "'-12:34:56'", "-12:34:56"),
    "aj": ("enum('ü','é') character set latin1", "'é'", "é"),
    "ak": ("set('ü','é') character set latin1", "'é'", "é"),
    "al": ("varchar(9) character set latin1", "'€'", "€"),
    "am": ("enum('ü','é')", "'é'", "é"),
    "an": ("varchar(9) character set utf16", "'é€'", "é€"),
    "ar": ("varchar(9) character set utf32", "'é😀'", "é😀"),
    "as": ("varchar(9) character set ucs2", "'é€'", "é€"),
    "at": ("text character set utf16le", "'é😀'", "é😀"),
    "au": ("enum('ü','é') character set utf16", "'é'", "é"),
    "ao": ("text character set gbk", "'中文'", "中文"),
    "ap": ("char(9) character set cp1251", "'ключ'", "ключ"),
    "aq": ("varchar(9) character set sjis", "'日本'", "日本"),
    "af": ("time(6)", "'-00:00:00.000001'", "-00:00:00.000001"),
}
"""What a query and the binary log spell differently, on both servers."""
_UUIDS = {
    "a": ("uuid", "'123E4567-e89b-12d3-a456-426655440000'", "123e4567-e89b-12d3-a456-426655440000"),
    "b": ("uuid", "'9b2d0f1e-5c3a-4b7d-8e6f-0a1b2c3d4e5f'", "9b2d0f1e-5c3a-4b7d-8e6f-0a1b2c3d4e5f"),
    "c": ("uuid", "'01890a5d-ac96-774b-bcce-b302099a8057'", "01890a5d-ac96-774b-bcce-b302099a8057"),
    "d": ("uuid", "'00000000-0000-0000-0000-000000000000'", "00000000-0000-0000-0000-000000000000"),
    "e": ("uuid", "null", None),
    "f": ("varchar(9) character set latin1", "'ü'", "ü"),
}
_ADDRESSES = {
    "a": ("inet4", "'10.1.2.0'", "10.1.2.0"),
    "b": ("inet4", "'0.0.0.0'", "0.0.0.0"),
    "c": ("inet6", "'2001:DB8::ff00:42:8329'", "2001:db8::ff00:42:8329"),
    "d": ("inet6", "'::'", "::"),
    "e": ("inet6", "'::1'", "::1"),
    "f": ("inet6", "'::ffff:1.2.3.4'", "::ffff:1.2.3.4"),
    "g": ("inet6", "'fe80::'", "fe80::"),
    "h": ("inet6", "'1:0:0:2:0:0:0:3'", "1:0:0:2::3"),
    "i": ("text", "'é'", "é"),
}


_DOCUMENTS = {
    "a": ("json", "'[1.0, 1e2, 1e15, 1e16, 1.5e300, 1e-7, 0.1, -0.0, 1234567890123456.8, 5e-324]'",
          [1.0, 100.0, 1e15, 1e16, 1.5e300, 1e-7, 0.1, -0.0, 1234567890123456.8, 5e-324]),
    "b": ("json", "'[18446744073709551615, -9223372036854775808, 70000, -70000, 40000, -1]'",
          [18446744073709551615, -9223372036854775808, 70000, -70000, 40000, -1]),
    "c": ("json", "json_object('d', 1.10, 'e', -0.05, 'f', 1234567890.123456789012, 'g', 100)",
          {"d": 1.10, "e": -0.05, "f": 1234567890.123456789012, "g": 100}),
    "d": ("json", "json_object('t', cast('-100:00:01.5' as time(2)), 'u', cast('2020-01-02 03:04:05' as datetime))",
          {"t": "-100:00:01.500000", "u": "2020-01-02 03:04:05.000000"}),
    "e": ("json", "json_array(cast('2020-01-02' as date), x'00ff', true, false, null)",
          ["2020-01-02", "base64:type15:AP8=", True, False, None]),
    "f": ("json", "json_array(repeat('a', 70000), json_object('b', repeat('é', 300)), 100000, 1)",
          ["a" * 70_000, {"b": "é" * 300}, 100_000, 1]),
    "g": ("json", "json_object('', '\"/\\\\\\n\\t', 'ключ', '😀', 'nested', json_object('a', json_array()))",
          {"": '"/\\\n\t', "ключ": "😀", "nested": {"a": []}}),
    "h": ("json", "null", None),
    "i": ("json", "'null'", None),
    "j": ("json", "'\"text\"'", "text"),
    "k": ("json", "json_array(repeat(x'ff', 90))", ["base64:type15:" + "/" * 76 + "\n" + "/" * 44]),
    "l": ("text", "'é'", "é"),
}  # fmt: skip
_VECTORS = {
    "a": ("vector(3)", "to_vector('[1, -0.1, 2.5e-10]')", [1.0, -0.1, 2.5e-10]),
    "b": ("point", "point(1, 2)", "AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="),
    "c": ("vector(9)", "null", None),
    "d": ("varchar(9) character set latin1", "'ü'", "ü"),
    "e": ("set('x','y')", "'y'", "y"),
}
_MARIADBS = [
    pytest.param("mariadb", each, id=f"mariadb-{name}") for name, each in (("uuid", _UUIDS), ("inet", _ADDRESSES))
]
_MYSQLS = [
    pytest.param("mysql", each, id=f"mysql-{name}") for name, each in (("json", _DOCUMENTS), ("vector", _VECTORS))
]


def test_every_type_reads_the_same_from_a_snapshot_and_from_the_binary_log(owner: Owner) -> None:
    reads_the_same(owner, TYPES | _ODD)


@pytest.mark.parametrize(("binlog_server", "types"), [*_MARIADBS, *_MYSQLS], indirect=["binlog_server"])
def test_types_of_one_server_read_the_same_from_a_snapshot_and_from_the_binary_log(
    owner: Owner, types: Mapping[str, tuple[str, str, Any]]
) -> None:
    reads_the_same(owner, types)


def reads_the_same(owner: Owner, types: Mapping[str, tuple[str, str, Any]]) -> None:
    """A row of these values, in a snapshot and in the binary log: the same, to the byte."""
    columns = ", ".join(f"`{name}` {declared}" for name, (declared, _, _) in types.items())
    values = ", ".join(given for _, given, _ in types.values())
    owner.execute("set session time_zone = '+05:00'", f"create table t (id int primary key, {columns})")
    shifted = values.replace("'2026-02-03 04:05:06.789'", "'2026-02-03 09:05:06.789'")
    owner.execute(f"insert into t values (1, {shifted})")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute(f"insert into t values (2, {shifted})")
        run.covering(now_ms())
    expected = {name: value for name, (_, _, value) in types.items()}
    assert run.rows() == [("r", {"id": 1}, {"id": 1, **expected}), ("c", {"id": 2}, {"id": 2, **expected})]
    snapshot, streamed = [change.after or b"" for change in run.changes if change.marker is None]
    assert snapshot[len('{"id":1') :] == streamed[len('{"id":1') :]


@pytest.mark.parametrize("binlog_server", ["mariadb"], indirect=True)
def test_a_uuid_may_be_the_key(owner: Owner) -> None:
    owner.execute("create table t (id uuid primary key, v int)")
    ids = ["123e4567-e89b-12d3-a456-426655440000", "01890a5d-ac96-774b-bcce-b302099a8057"]
    owner.execute(f"insert into t values ('{ids[0]}', 1)")
    with Run(owner.source()) as run:
        run.covering(now_ms())
        assert [column.type for column in run.tables[f"{owner.name}.t"].columns] == ["uuid", "integer"]
        owner.execute(
            f"update t set v = 2 where id = '{ids[0]}'", f"insert into t values ('{ids[1]}', 1)", "delete from t"
        )
        run.covering(now_ms())
    seen = [(op, key["id"]) for op, key, _ in run.rows()]
    assert seen[:3] == [("r", ids[0]), ("u", ids[0]), ("c", ids[1])]
    assert sorted(seen[3:]) == sorted(("d", each) for each in ids)


def test_dates_that_no_calendar_has_are_null(owner: Owner) -> None:
    owner.execute(
        "set session sql_mode = 'allow_invalid_dates'",
        "create table t (id int primary key, d date, e datetime(3), f timestamp)",
    )
    values = (
        "({}, '0000-00-00', '0000-00-00', '0000-00-00'), ({}, '2026-00-10', '2026-10-00', '1970-01-01 00:00:01'),"
        " ({}, '2026-02-31', '2026-02-31 01:02:03', '1970-01-01 00:00:01')"
    )
    owner.execute("set session time_zone = '+00:00'", "insert into t values " + values.format(1, 2, 3))
    with Run(owner.source()) as run:
        run.covering(now_ms())
        owner.execute("insert into t values " + values.format(4, 5, 6))
        run.covering(now_ms())
    first, second = {"d": None, "e": None, "f": None}, {"d": None, "e": None, "f": "1970-01-01T00:00:01Z"}
    rows = [(op, {name: after[name] for name in "def"}) for op, _, after in run.rows()]
    assert rows == [(op, each) for op in "rc" for each in (first, second, second)]
