"""Records of any topic as changes of rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import ChangeRejected, Undecodable
from headgate.model.change import CLOSER, Change
from headgate.model.table import Table
from headgate.sources.topic.decoder import TopicDecoder


def decoder(*key: str, latest: int = 0) -> TopicDecoder:
    return TopicDecoder("topic.orders", key or ("id",), latest, None)


def read(by: TopicDecoder, key: bytes | None, value: Any) -> tuple[Any, Any]:
    """Key and row."""
    change = by.change(key, value if isinstance(value, bytes) else json.dumps(value).encode())
    assert change is not None and change.after is not None
    return json.loads(change.key or b"null"), json.loads(change.after)


def test_a_value_that_holds_its_key_is_the_row_as_it_is() -> None:
    value = b'{"id" : 7, "amount": 1.10}'
    change = decoder().change(b"anything", value)
    assert change == Change(op="u", table="topic.orders", key=b'{"id":7}', after=value)
    assert decoder().rows([value]) == [(value, None)]
    assert decoder().keys([b"anything"], [value]) == [b'{"id":7}']


@pytest.mark.parametrize("key", [b'{"id":"a"}', b'"a"', b"a"])
def test_else_the_records_key_is_put_into_the_row(key: bytes) -> None:
    by = decoder()
    assert read(by, key, {"amount": 1}) == ({"id": "a"}, {"id": "a", "amount": 1})
    assert by.rows([b'{"amount":1}']) == [CLOSER]
    assert by.keys([key], [b'{"amount":1}']) == [b'{"id":"a"}']


def test_a_key_of_several_fields() -> None:
    by = decoder("region", "number")
    assert read(by, None, {"region": "eu", "number": 1})[0] == {"region": "eu", "number": 1}
    assert read(by, b'{"region":"eu","number":2}', {"v": 1})[0] == {"region": "eu", "number": 2}
    with pytest.raises(Undecodable, match="region, number"):
        by.change(b'"eu"', b'{"v":1}')


@pytest.mark.parametrize("key", [b'{"id":7}', b"7", b'{"id":7,"more":1}'])
def test_a_tombstone_removes_the_row_of_its_key(key: bytes) -> None:
    change = decoder().change(key, None)
    assert change is not None and change.op == "d"
    assert decoder().keys([key], [None]) == [b'{"id":7}']
    assert decoder().rows([None]) == [CLOSER]


HOSTILE = [b"", b"7", b"null", b"[]", b'"x"', b"{", b'{"a":"\xff"}', b"\x00\x00\x00\x00\x01", b'{"id":null}', b"{}",
           b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_what_is_no_object_with_its_key_is_refused(value: bytes) -> None:
    with pytest.raises(ChangeRejected):
        decoder().change(None, value)
    assert decoder().keys([None], [value]) == [None]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_are_a_row_or_refused(key: bytes, value: bytes) -> None:
    try:
        decoder().change(key, value)
    except ChangeRejected:
        pass


def test_one_of_the_newest_records_is_no_row() -> None:
    change = decoder("customer", latest=3).change(None, b'{"customer":1,"at":5}')
    assert change is not None
    assert (change.latest, change.key, change.after) == (3, b'{"customer":1}', b'{"customer":1,"at":5}')
    assert decoder("customer", latest=3).rows([b'{"customer":1}']) == [CLOSER]


def test_the_table_is_learnt_by_rows_and_of_the_newest_has_their_key_and_their_list() -> None:
    by, gathering = decoder(), decoder(latest=3)
    table = Table(name="topic.orders", columns=(), key=("id",))
    for value in (b'{"id":1,"a":null}', b'{"id":2,"a":1.5,"b":[1],"c":{"d":1},"e":true}', b'{"id":3,"a":2,"f":"x"}'):
        by.change(None, value)
        gathering.change(None, value)
        table = by.learnt(table)
    assert {column.name: column.type for column in table.columns} == {
        "id": "integer", "a": "number", "b": "array", "c": "json", "e": "boolean", "f": "string",
    }  # fmt: skip
    found = gathering.learnt(Table(name="topic.orders", columns=(), key=("id",)))
    assert {column.name: column.type for column in found.columns} == {
        "id": "integer", "count": "integer", "latest": "array",
    }  # fmt: skip
