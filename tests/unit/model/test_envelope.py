"""The Debezium envelope: what goes in comes out, and what is none is refused with a clear error."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import Undecodable
from headgate.model.change import CLOSER, PASSED_OVER, UNAVAILABLE, Change, Marker, RowRun, Sequence, run_of
from headgate.model.envelope import decode_change, decode_rows, encode_change, source_prefix

PREFIX = source_prefix("sqlite", "shop", "shop.db", "main.people")

objects = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text(max_size=12) | st.floats(allow_nan=False,
                                                                                             allow_infinity=False),
    max_size=4,
).map(lambda row: json.dumps(row).encode())  # fmt: skip
rows = st.none() | objects
sequences = st.none() | st.builds(Sequence, st.integers(0, 2**64), st.integers(0, 2**64))


@given(
    op=st.sampled_from(["c", "u", "d", "r", "t"]),
    key=rows,
    before=rows,
    after=rows,
    sequence=sequences,
    time_ms=st.integers(0, 2**52),
    snapshot=st.booleans(),
)
def test_a_change_comes_out_as_it_went_in(
    op: Any, key: bytes | None, before: bytes | None, after: bytes | None, sequence: Sequence | None, time_ms: int,
    snapshot: bool,
) -> None:  # fmt: skip
    change = Change(
        op=op, table="main.people", key=key, before=before, after=after, sequence=sequence, time_ms=time_ms,
        snapshot=snapshot,
    )  # fmt: skip
    assert decode_change(key, encode_change(change, PREFIX)) == change


GARBAGE = [b"", b"{", b"[]", b"null", b'{"op":"u"}', b'{"op":"c","source":{},"after":7}', b'{"op":"c","source":{}}',
           b'{"op":"d","source":{},"after":{}}', b'{"op":"u","source":{"sequence":"x"},"after":{}}', b"\xff\xfe",
           b'{"op":"u","source":{},"after":{"a":"\xff"}}', b'{"op":"u","source":{},"after":{}},{"op":"u"}',
           b'{"op":"u","source":{"sequence":"[null,\\"7\\"]"},"after":{}}', b'{"op":["u"],"source":{},"after":{}}',
           b'{"op":"u","source":null,"after":{}}', b"[" * 10_000]  # fmt: skip
values = st.lists(
    st.none()
    | st.sampled_from(GARBAGE)
    | st.builds(
        lambda op, before, after, sequence, snapshot: encode_change(
            Change(op=op, table="main.people", before=before, after=after, sequence=sequence, snapshot=snapshot), PREFIX
        ),
        st.sampled_from(["c", "u", "d", "r", "t"]),
        rows,
        rows | st.just(json.dumps({"big": UNAVAILABLE}).encode()) | st.just('{"name":"Zoë"}'.encode()),
        sequences | st.just(Sequence(5, 6, "server-1")),
        st.booleans(),
    ),
    max_size=12,
)


@given(values=values)
def test_the_quick_way_says_what_the_whole_one_says_or_nothing(values: list[bytes | None]) -> None:
    decoded = decode_rows(values)
    found = decoded.each() if isinstance(decoded, RowRun) else decoded
    assert len(found) == len(values)
    for value, said in zip(values, found, strict=True):
        if value is None:
            assert said == PASSED_OVER
        elif said is CLOSER:
            assert not _is_plain(value), "a change of a row alone need not be looked at again"
        else:
            change = decode_change(None, value)
            assert said == (change.after, None if change.snapshot else change.sequence)
            assert not change.partial and (change.op == "d") == (change.after is None)


PLACES = st.integers(0, 12) | st.sampled_from([99, 100, 2**63, 2**64 - 1])
TIMELINES = st.sampled_from(["", "a", "b", "a 7", "a 8", 'q"\\'])


@given(
    places=st.lists(st.builds(Sequence, PLACES, PLACES, TIMELINES), max_size=6) | st.lists(st.none(), max_size=3),
    is_sorted=st.booleans(),
    is_snapshot=st.booleans(),
    gone=st.sets(st.integers(0, 5)),
    tombs=st.sets(st.integers(0, 5)),
)
def test_a_run_is_of_changes_that_are_in_order(
    places: list[Any], is_sorted: bool, is_snapshot: bool, gone: set[int], tombs: set[int]
) -> None:
    """Whatever decodes them: none is older than the one before it, and all that is said of a run is said of each."""
    if is_sorted and None not in places:
        places.sort(key=lambda place: place[:2])
    values: list[bytes | None] = []
    for number, place in enumerate(places):
        row = None if number in gone else b'{"n":%d}' % number
        op: Any = "u" if row else "d"
        change = Change(op=op, table="main.people", after=row, sequence=place, snapshot=is_snapshot)
        values += [encode_change(change, PREFIX), *([None] if number in tombs else [])]
    decoded = decode_rows(values)
    each = decoded.each() if isinstance(decoded, RowRun) else decoded
    for run in (decoded, run_of(each)):
        if not isinstance(run, RowRun):
            continue
        taken = run.of_taken(each)
        said = [change[1] for change in taken if change and change[1] is not None]
        assert run.rows == [change[0] for change in taken if change]
        assert (run.first, run.last) == ((said[0], said[-1]) if said else (None, None))
        assert not any(newer.precedes(older) for older, newer in itertools.pairwise(said))
    is_plain = is_snapshot or all(place is not None and not place[2] for place in places)
    if is_plain and (is_sorted or is_snapshot):
        assert isinstance(decoded, RowRun), "nothing is unusual here"


def _is_plain(value: bytes) -> bool:
    try:
        change = decode_change(None, value)
    except Undecodable:
        return False
    is_deleted, is_there = change.op == "d" and change.after is None, change.op in "cur" and change.after is not None
    is_ours = b'"connector"' in value
    return is_ours and not change.partial and (is_deleted or is_there)


@pytest.mark.parametrize("phase", ["begin", "end"])
def test_a_marker_comes_out_as_it_went_in(phase: Any) -> None:
    marker = Marker(phase, 1_700_000_000_000)
    change = Change(op="m", table="main.people", sequence=Sequence(5, 5), snapshot=True, marker=marker)
    assert decode_change(None, encode_change(change, PREFIX)) == change


def test_a_row_keeps_its_bytes() -> None:
    row = b'{"a" : 1.10, "b":12345678901234567890123, "c":"\\u00fc"}'
    change = Change(op="c", table="main.people", after=row)
    assert decode_change(None, encode_change(change, PREFIX)).after == row


def test_the_value_is_what_debezium_says_it_is() -> None:
    change = Change(op="u", table="main.people", key=b'{"id":1}', after=b'{"id":1}', sequence=Sequence(7, 8), time_ms=3)
    assert json.loads(encode_change(change, PREFIX)) == {
        "op": "u",
        "before": None,
        "after": {"id": 1},
        "source": {
            "version": "headgate", "connector": "sqlite", "name": "shop", "db": "shop.db", "schema": "main",
            "table": "people", "ts_ms": 3, "snapshot": "false", "sequence": '["7","8"]',
        },
        "ts_ms": 3,
    }  # fmt: skip


@pytest.mark.parametrize("table", ["main.people", 'main.we"ird\\ \n.na.me', "public.ünï"])
def test_any_name_of_a_table_survives(table: str) -> None:
    change = Change(op="c", table=table, after=b"{}")
    prefix = source_prefix("sqlite", 'sh"op', "d\\b", table)
    assert decode_change(None, encode_change(change, prefix)) == change


def test_a_column_that_the_source_left_out_makes_the_change_partial() -> None:
    row = json.dumps({"id": 1, "body": UNAVAILABLE}).encode()
    change = Change(op="u", table="main.people", after=row, partial=True)
    assert decode_change(None, encode_change(change, PREFIX)) == change


def test_debeziums_own_envelope_is_understood() -> None:
    value = {
        "before": None,
        "after": {"id": 1},
        "source": {"version": "3.2", "connector": "postgresql", "name": "s", "ts_ms": 9, "snapshot": "first",
                   "db": "d", "sequence": '[null,"24023128"]', "schema": "public", "table": "t", "lsn": 24023128},
        "transaction": None,
        "op": "r",
        "ts_ms": 10,
    }  # fmt: skip
    null_commit = json.dumps(value).encode()
    with_commit = null_commit.replace(b"[null,", b'[\\"24023000\\",')
    assert decode_change(None, null_commit).sequence == Sequence(0, 24023128)
    change = decode_change(b'{"id":1}', with_commit)
    assert (change.table, change.snapshot, change.time_ms) == ("public.t", True, 9)
    assert change.sequence == Sequence(24023000, 24023128)


def test_a_message_of_others_is_no_marker() -> None:
    value = b'{"op":"m","source":{"schema":"s","table":"t"},"message":{"prefix":"theirs","content":"aGk="}}'
    assert decode_change(None, value).marker is None


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x00\x01\x02",
    "no UTF-8": b'{"op":"c","after":{"a":"\xff\xfe"},"source":{"schema":"\xff"}}',
    "a row that is no UTF-8": b'{"op":"c","after":{"a":"\xff\xfe"}}',
    "a row that is a deep nest": b'{"op":"c","after":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a number": b"17",
    "null": b"null",
    "an array": b'[{"op":"c"}]',
    "cut short": b'{"op":"c","after":{"id":1',
    "more behind it": b'{"op":"c"} {"op":"c"}',
    "no operation": b'{"after":{"id":1}}',
    "an unknown operation": b'{"op":"x","after":{"id":1}}',
    "an operation of another type": b'{"op":1}',
    "a row that is text": b'{"op":"c","after":"row"}',
    "a row that is an array": b'{"op":"c","after":[1]}',
    "a row that is a number": b'{"op":"c","before":1}',
    "a source that is text": b'{"op":"c","source":"here"}',
    "a time that is text": b'{"op":"c","source":{"ts_ms":"now"}}',
    "a sequence that is no list": b'{"op":"c","source":{"sequence":"7"}}',
    "a sequence of one": b'{"op":"c","source":{"sequence":"[\\"7\\"]"}}',
    "a sequence of words": b'{"op":"c","source":{"sequence":"[\\"a\\",\\"b\\"]"}}',
    "a marker without content": b'{"op":"m","message":{"prefix":"headgate.snapshot"}}',
    "a marker of another phase": (
        b'{"op":"m","message":{"prefix":"headgate.snapshot","content":{"type":"snapshot","phase":"x","generation":1}}}'
    ),
    "a marker of another kind": (
        b'{"op":"m","message":{"prefix":"headgate.snapshot","content":{"type":"y","phase":"end","generation":1}}}'
    ),
    "a deep nest": b'{"op":"c","message":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "an inline schema": b'{"schema":{"type":"struct"},"payload":{"op":"c","after":{"id":1}}}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_envelope_is_undecodable(case: str) -> None:
    with pytest.raises(Undecodable, match="no Debezium envelope"):
        decode_change(None, HOSTILE[case])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_change_or_undecodable(value: bytes) -> None:
    try:
        decode_change(None, b'{"op":"c","after":' + value + b"}")
    except Undecodable:
        pass
