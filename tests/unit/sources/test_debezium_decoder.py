"""A connector's records as changes. The records are recorded from a real connector; nothing here was written by hand
but what is not to be understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.connections.registry import Config, Registry, Schema, framed
from headgate.errors import ChangeRejected, Undecodable
from headgate.model.change import CLOSER, PASSED_OVER, UNAVAILABLE, Change, Sequence
from headgate.model.table import Table
from headgate.sources._wire.avro import Avro
from headgate.sources.debezium.beats import row_time, topic_time
from headgate.sources.debezium.decoder import DebeziumDecoder
from tests.unit.sources.recorded import Recorded, avro_schemas, recorded

FORMS = ("plain", "inline", "avro")


class Known(Registry):
    """The registry's answers as they were recorded, and no other."""

    def __init__(self) -> None:
        super().__init__(Config(url="http://127.0.0.1:9"))
        self._recorded = {number: Schema(number, "AVRO", text) for number, text in avro_schemas().items()}

    def by_id(self, number: int) -> Schema | None:
        return self._recorded.get(number)


def decoder(table: str = "public.kinds", decimals: str = "precise", **types: Any) -> DebeziumDecoder:
    return DebeziumDecoder(table, Avro(Known()), types, decimals)


def of(form: str, topic: str) -> list[Recorded]:
    return [record for record in recorded(form) if record.topic == topic]


def changes(form: str, topic: str, with_: DebeziumDecoder | None = None) -> list[Change]:
    by = with_ or decoder(topic)
    found = (by.change(record.key, record.value) for record in of(form, topic))
    return [change for change in found if change is not None]


def row(change: Change) -> dict[str, Any]:
    assert change.after is not None
    found: dict[str, Any] = json.loads(change.after)
    return found


def by_id(form: str) -> Mapping[int, dict[str, Any]]:
    return {row(change)["id"]: row(change) for change in changes(form, "public.kinds") if change.op == "r"}


READABLE = {
    "id": 1, "si": -3, "i": 7, "bi": 9007199254740993, "r": 1.1, "d": 0.1, "n": "123.45", "n2": "10.50", "n0": "42",
    "b": True, "t": "tëxt", "vc": "vc", "ch": "ch   ", "by": "AP8Q", "da": "2024-02-29", "ti": "13:14:15.123456",
    "ti3": "13:14:15.123", "tz": "11:14:15.5Z", "ts": "2026-11-21T02:01:15.5", "ts3": "2026-11-21T02:01:15.123",
    "tsz": "2026-11-21T01:01:15.5Z", "iv": "PT26H3.5S", "u": "7f000000-0000-4000-8000-000000000001", "js": {"a": 1},
    "jb": {"b": [1, 2]}, "ine": "10.0.0.1/8", "ci": "10.0.0.0/8", "ma": "08:00:2b:01:02:03", "bt": "10101",
    "bt1": True, "vb": "0000101", "m": "ok", "ia": [1, 2, None], "ta": ["a", "b,c"], "na": ["1.5", "2"],
    "mo": "12.34", "pt": {"x": 1.0, "y": 2.0, "wkb": "AQEAAAAAAAAAAADwPwAAAAAAAABA", "srid": None},
    "tsv": "'a' 'b'", "ol": 77, "ir": "[1,5)", "dat": ["2026-01-01T00:00:00Z"], "hs": "xxx",
}  # fmt: skip


@pytest.mark.parametrize("form", ["inline", "avro"])
def test_with_a_schema_each_value_is_what_a_person_reads(form: str) -> None:
    rows = by_id(form)
    assert rows[1] == READABLE
    assert list(rows[1]) == list(READABLE)
    assert {name: rows[2][name] for name in ("r", "d", "ts", "tsz")} == {
        "r": "NaN", "d": "Infinity", "ts": "infinity", "tsz": "-infinity",
    }  # fmt: skip
    assert {name: rows[3][name] for name in ("ts", "ti", "tsz")} == {
        "ts": "0044-03-15 00:00:00 BC", "ti": "24:00:00", "tsz": "1500-01-01T00:00:00Z",
    }  # fmt: skip
    assert (rows[4]["n"], rows[4]["n2"], rows[5]["n"], rows[5]["n2"]) == (
        "-0.001", "-0.01", "100000000000000000000", "0.00",
    )  # fmt: skip


def test_without_a_schema_a_row_is_the_connectors_own_bytes() -> None:
    for record in of("plain", "public.kinds"):
        change = decoder().change(record.key, record.value)
        if change is not None and change.after is not None:
            assert record.value is not None and change.after in record.value


@pytest.mark.parametrize("form", FORMS)
def test_operations_places_and_times_are_told(form: str) -> None:
    found = changes(form, "public.kinds")
    assert {change.op for change in found} >= {"r", "c", "d"}
    for change in found:
        assert change.snapshot == change.begins_anew == (change.op == "r")
        assert change.sequence is not None and change.time_ms > 1_790_000_000_000
        assert (change.after is None) == (change.op in "dt")
    order = [change.sequence for change in found if change.op != "r"]
    assert len(set(order)) > 2


@pytest.mark.parametrize("form", FORMS)
def test_what_is_told_in_short_is_what_is_told_at_length(form: str) -> None:
    whole, short = decoder(), decoder()
    for record in of(form, "public.kinds"):
        change = whole.change(record.key, record.value)
        (brief,) = short.rows([record.value])
        if change is None:
            assert brief == PASSED_OVER
        elif change.op in "rt" or change.partial:
            assert brief is CLOSER
        else:
            assert brief == (change.after, change.sequence)


@pytest.mark.parametrize("form", FORMS)
def test_keys_are_read_in_every_format(form: str) -> None:
    by = decoder()
    records = [record for record in of(form, "public.kinds") if record.key is not None]
    keys = by.keys([record.key for record in records], [record.value for record in records])
    assert {json.loads(key or b"")["id"] for key in keys} >= {1, 2, 3, 4, 5, 20}
    with pytest.raises(Undecodable, match="no key"):
        by.key(None, b"{}")
    assert by.keys([None, b"7", b'{"id":1}'], [None] * 3)[0] is None


@pytest.mark.parametrize("form", FORMS)
def test_what_the_source_left_out_is_one_mark_in_columns_of_any_type(form: str) -> None:
    (change,) = changes(form, "public.big")
    assert change.partial
    left_out = {name for name, value in row(change).items() if value == UNAVAILABLE}
    assert left_out == {"t", "by", "ta", "ia", "la", "ua", "jb", "da"}


@pytest.mark.parametrize("form", FORMS)
def test_messages_heartbeats_and_tombstones_are_passed_over(form: str) -> None:
    beside = [record for record in recorded(form) if record.topic in ("message", "__debezium-heartbeat")]
    assert len(beside) == 2
    for record in beside:
        assert decoder().change(record.key, record.value) is None
    assert decoder().change(b'{"id":1}', None) is None
    assert decoder().rows([None]) == [PASSED_OVER]


@pytest.mark.parametrize(
    "value",
    [
        b'{"status":"BEGIN","id":"571","event_count":null,"data_collections":null,"ts_ms":1}',
        b'{"source":{"server":"s"},"databaseName":"d","ddl":"create table t (a int)","tableChanges":[],"ts_ms":1}',
    ],
)
def test_borders_of_transactions_and_changes_of_schemas_are_passed_over(value: bytes) -> None:
    assert decoder().change(None, value) is None


@pytest.mark.parametrize("form", FORMS)
def test_heartbeats_tell_their_times(form: str) -> None:
    (beat,) = [record for record in recorded(form) if record.topic == "__debezium-heartbeat"]
    (written,) = of(form, "public.headgate_heartbeat")
    (change,) = changes(form, "public.headgate_heartbeat")
    by_topic = topic_time(Avro(Known()))(beat.key, beat.value)
    assert by_topic is not None and abs(by_topic - change.time_ms) < 60_000
    assert row_time(decoder())(written.key, written.value) == change.time_ms
    for garbage in (None, b"", b"{}", b"\x00", b"\x00\x00\x00\x00\x63abc", b'{"ts_ms":"x"}'):
        assert topic_time(Avro(Known()))(None, garbage) is None
        assert row_time(decoder())(None, garbage) is None


def test_a_precise_decimal_without_a_schema_is_refused_and_never_guessed() -> None:
    by = decoder(n2="decimal")
    (record, *_) = of("plain", "public.kinds")
    with pytest.raises(Undecodable, match=r"decimal\.handling\.mode=string"):
        by.change(record.key, record.value)
    assert by.rows([record.value]) == [CLOSER]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("10.50", "10.50"), ("-3", "-3"), ("123", "123"), (7, 7), (1.5, 1.5), (None, None), ("NaN", "NaN"),
        ({"scale": 2, "value": "MDk="}, "123.45"), ("1234", None), ("1e10", None), ("MDk=", None), ("x", None),
        (True, None), ({"scale": 2}, None), ([1], None),
    ],
)  # fmt: skip
def test_a_decimal_without_a_schema_is_taken_where_it_can_be_nothing_else(value: Any, read: Any) -> None:
    record = json.dumps({"op": "c", "after": {"id": 1, "n": value}, "source": {"table": "t"}}).encode()
    by = decoder(n="decimal")
    if read is None and value is not None:
        with pytest.raises(Undecodable):
            by.change(b"{}", record)
    else:
        change = by.change(b"{}", record)
        assert change is not None and row(change)["n"] == read
    lenient = decoder(decimals="string", n="decimal").change(b"{}", record)
    assert lenient is not None and row(lenient)["n"] == value


def test_declared_dates_and_documents_can_be_read_without_a_schema_and_times_can_not() -> None:
    (record, *_) = of("plain", "public.kinds")
    change = decoder(da="date", jb="json", ts="string").change(record.key, record.value)
    assert change is not None and (row(change)["da"], row(change)["jb"]) == ("2024-02-29", {"b": [1, 2]})
    for name, type_ in (("ti", "time"), ("ts", "timestamp"), ("iv", "duration")):
        with pytest.raises(Undecodable, match=r"time\.precision\.mode"):
            decoder(**{name: type_}).change(record.key, record.value)


@pytest.mark.parametrize("form", FORMS)
def test_the_table_is_learnt(form: str) -> None:
    by = decoder()
    table = Table(name="public.kinds", columns=(), key=())
    for record in of(form, "public.kinds"):
        if record.key is not None:
            by.learn_key(record.key)
        if by.change(record.key, record.value) is not None:
            table = by.learnt(table)
    types = {column.name: column.type for column in table.columns}
    assert (table.key, set(types)) == (("id",), set(READABLE))
    if form == "plain":
        assert (types["id"], types["b"], types["t"], types["ia"]) == ("integer", "boolean", "string", "array")
    else:
        assert {name: types[name] for name in ("n", "n2", "da", "ti", "tsz", "iv", "jb", "u", "by", "pt")} == {
            "n": "decimal", "n2": "decimal", "da": "date", "ti": "time", "tsz": "timestamp", "iv": "duration",
            "jb": "json", "u": "uuid", "by": "bytes", "pt": "json",
        }  # fmt: skip
        assert [column.nullable for column in table.columns if column.name == "id"] == [False]


def source(**block: Any) -> bytes:
    return json.dumps({"op": "u", "after": {"id": 1}, "source": block}).encode()


@pytest.mark.parametrize(
    ("block", "sequence"),
    [
        ({"sequence": '["24","25"]', "lsn": 25}, Sequence(24, 25)),
        ({"sequence": '[null,"25"]', "lsn": 25}, Sequence(25, 25)),
        ({"sequence": '["24",null]'}, None),
        ({"file": "binlog.000003", "pos": 154, "row": 2, "server_id": 7}, Sequence((3 << 40) + 154, 2, "7")),
        ({"file": "binlog.000003", "pos": 154, "row": 2}, Sequence((3 << 40) + 154, 2, "0")),
        (
            {"gtid": "0-7-16", "file": "mariadb-bin.000001", "pos": 9391, "row": 3, "server_id": 7},
            Sequence(16, (9391 << 24) + 3, "0-7/7 mariadb-bin.000001"),
        ),
        (
            {"gtid": "3e11fa47-71ca-11e1-9e33-c80aa9429562:23", "file": "b.000009", "pos": 4, "row": 0, "server_id": 1},
            Sequence(23, 4 << 24, "3e11fa47-71ca-11e1-9e33-c80aa9429562/1 b.000009"),
        ),
        (
            {"gtid": "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:23", "file": "b.000009", "pos": 4, "server_id": 1},
            Sequence(23, 4 << 24, "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag/1 b.000009"),
        ),
        ({"gtid": None, "file": "b.000009", "pos": 4, "server_id": 0}, Sequence((9 << 40) + 4, 0, "0")),
        ({"file": "", "pos": 0}, None),
        ({"file": "odd", "pos": 4}, None),
        ({}, None),
    ],
)
def test_the_source_tells_its_order(block: dict[str, Any], sequence: Sequence | None) -> None:
    change = decoder().change(b"{}", source(**block))
    assert change is not None and change.sequence == sequence


def test_another_server_counts_anew() -> None:
    one, other = Sequence(9, 0, "1"), Sequence(3, 0, "2")
    assert not other.precedes(one)
    assert Sequence(3, 0, "1").precedes(one)


def of_log(gtid: str, file: str, position: int, row: int = 0) -> Sequence:
    block = {"gtid": gtid, "file": file, "pos": position, "row": row, "server_id": int(gtid.split("-")[1])}
    change = decoder().change(b"{}", source(**block))
    assert change is not None and change.sequence is not None
    return change.sequence


def test_a_connector_that_moves_to_a_replica_loses_nothing_and_takes_nothing_old() -> None:
    """The replica's own log is young, and what it tells began at the primary."""
    reached = of_log("0-7-100", "bin.000050", 9_000)
    assert not of_log("0-7-101", "bin.000002", 400).precedes(reached)
    assert of_log("0-7-99", "bin.000002", 300).precedes(reached)
    assert not of_log("0-7-100", "bin.000002", 350).precedes(reached), "of one that was told in part, all is told again"
    assert not of_log("0-8-1", "bin.000002", 500).precedes(reached), "what begins at the replica itself"


def test_on_one_server_the_place_within_a_transaction_counts_too() -> None:
    reached = of_log("0-7-100", "bin.000050", 9_000, 2)
    assert of_log("0-7-100", "bin.000050", 8_000, 9).precedes(reached)
    assert of_log("0-7-100", "bin.000050", 9_000, 1).precedes(reached)
    assert not reached.precedes(reached)
    assert of_log("0-7-99", "bin.000049", 99_000).precedes(reached)


def test_text_that_is_declared_a_document_is_one() -> None:
    fields = [{"field": name, "type": "string", "optional": True} for name in ("doc", "text")]
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "optional": True, "fields": fields}]}
    payload = {"op": "c", "after": {"doc": '{"a": [1]}', "text": "[]"}, "source": {"db": "shop"}}
    value = json.dumps({"schema": schema, "payload": payload}, separators=(",", ":")).encode()
    by = decoder("shop.t", doc="json")
    change = by.change(b"{}", value)
    assert change is not None
    assert row(change) == {"doc": {"a": [1]}, "text": "[]"}
    types = {column.name: column.type for column in by.learnt(Table(name="shop.t", columns=(), key=("doc",))).columns}
    assert types == {"doc": "json", "text": "string"}


@pytest.mark.parametrize(
    ("snapshot", "is_read", "begins_anew"),
    [("true", True, True), ("first", True, True), ("last", True, True), (True, True, True), ("false", False, False),
     (False, False, False), (None, False, False), ("incremental", True, False)],
)  # fmt: skip
def test_an_incremental_snapshot_does_not_count_anew(snapshot: Any, is_read: bool, begins_anew: bool) -> None:
    change = decoder().change(b"{}", source(snapshot=snapshot))
    assert change is not None
    assert (change.snapshot, change.begins_anew) == (is_read, begins_anew)


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x01\x02",
    "no UTF-8": b'{"op":"c","after":{"a":"\xff"},"source":{}}',
    "a number": b"17",
    "null": b"null",
    "no operation": b'{"after":{"id":1},"source":{}}',
    "an unknown operation": b'{"op":"x","after":{"id":1},"source":{}}',
    "no source": b'{"op":"c","after":{"id":1}}',
    "a row that is text": b'{"op":"c","after":"row","source":{}}',
    "a sequence of words": b'{"op":"c","after":{},"source":{"sequence":"[\\"a\\",\\"b\\"]"}}',
    "an inline schema that is none": b'{"schema":{"type":7},"payload":{"op":"c","after":{},"source":{}}}',
    "an inline schema without payload": b'{"schema":{"type":"struct"}}',
    "a deep nest": b'{"op":"c","source":{},"after":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "Avro with a cut id": b"\x00\x00\x01",
    "Avro by an unknown schema": framed(99, b"abc"),
    "Avro that is cut": framed(2, b"\x02\x02"),
    "Avro with more behind it": framed(6, b"\x02\x02\x02\x02\x02"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_envelope_is_undecodable(case: str) -> None:
    by = DebeziumDecoder("public.kinds", Avro(Known()), {}, None)
    with pytest.raises(ChangeRejected):
        by.change(b'{"id":1}', HOSTILE[case])
    assert by.rows([HOSTILE[case]]) == [CLOSER]


@given(st.binary(max_size=60), st.sampled_from([b"", b'{"op":"c","source":{},"after":', framed(2, b"")]))
def test_any_bytes_are_a_change_or_undecodable(value: bytes, before: bytes) -> None:
    try:
        DebeziumDecoder("public.kinds", Avro(Known()), {}, None).change(value, before + value)
    except ChangeRejected:
        pass


def test_avro_without_a_registry_says_what_is_missing() -> None:
    (record, *_) = of("avro", "public.kinds")
    with pytest.raises(Undecodable, match="`registry`"):
        DebeziumDecoder("public.kinds", None, {}, None).change(record.key, record.value)


def test_a_value_that_belies_its_schema_is_refused() -> None:
    schema = {"type": "struct", "fields": [{"field": "after", "type": "struct", "fields": [
        {"field": "d", "type": "int32", "name": "io.debezium.time.Date"}]}]}  # fmt: skip
    value = msgspec.json.encode({"schema": schema, "payload": {"op": "c", "after": {"d": "x"}, "source": {}}})
    with pytest.raises(Undecodable, match="value of d"):
        decoder().change(b"{}", value)
