"""The call event and its form on the log."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from headgate.audit.event import (
    CALL_TYPE,
    CallerNote,
    CallEvent,
    NotACallEvent,
    cloudevent,
    decode_cloudevent,
    encode_cloudevent,
    event_id,
    note_of,
    payload_of,
    valid_traceparent,
)
from headgate.model.caller import Caller

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOW_MS = 1_700_000_000_123


def event(**changes: Any) -> CallEvent:
    whole: dict[str, Any] = {
        "id": event_id(NOW_MS, bytes(10)),
        "time_ms": NOW_MS,
        "duration_us": 812,
        "writer": "w-1",
        "door": "http",
        "method": "tools/call",
        "name": "lookup_customer",
        "schema_sha256": "sha256:00",
        "caller": CallerNote(subject="ada", method="jwt", issuer="https://login.example", scopes=("data:read",)),
        "client_name": "claude",
        "client_version": "1",
        "protocol_version": "2026-07-28",
        "request_id": 7,
        "traceparent": TRACE,
        "arguments": payload_of({"customer_id": 7}, keep=100),
        "policy_version": "sha256:01",
        "rules": ("scopes",),
        "positions": {"customer": {"0": 42}},
        "result": payload_of({"rows": []}),
        "status": "answered",
        **changes,
    }
    return CallEvent(**whole)


def test_an_event_is_read_back_as_it_was_written() -> None:
    assert decode_cloudevent(encode_cloudevent(event(), "/shop")) == event()
    bare = CallEvent(
        id="1", time_ms=0, duration_us=0, writer="w", door="stdio", method="", status="refused", error_code="x"
    )
    assert decode_cloudevent(encode_cloudevent(bare, "/shop")) == bare


def test_the_official_library_reads_it_as_a_cloudevent() -> None:
    read = JSONFormat().read(CloudEvent, encode_cloudevent(event(), "/shop"))
    assert read.get_attributes() == {
        "specversion": "1.0",
        "id": event().id,
        "source": "/shop",
        "type": CALL_TYPE,
        "time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) + timedelta(milliseconds=123),
        "subject": "lookup_customer",
        "datacontenttype": "application/json",
        "dataschema": "urn:headgate:schema:call:v1",
        "traceparent": TRACE,
    }
    data = read.get_data()
    assert isinstance(data, dict)
    assert data["arguments"]["json"] == {"customer_id": 7}
    assert "json" not in data["result"]


def test_what_a_call_lacks_is_left_out_of_the_attributes() -> None:
    read = JSONFormat().read(CloudEvent, encode_cloudevent(event(name="", traceparent=None), "/shop"))
    assert not {"subject", "traceparent"} & set(read.get_attributes())


def test_time_is_written_by_rfc_3339() -> None:
    written = msgspec.json.decode(cloudevent({}, id="1", type="t", source="/s", time_ms=1_000))
    assert written["time"] == "1970-01-01T00:00:01.000Z"


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"type":"dev.headgate.call.v1","data":{}}', b'{"type":"other","data":{}}'],
)
def test_anything_else_is_no_call_event(data: bytes) -> None:
    with pytest.raises(NotACallEvent):
        decode_cloudevent(data)


def test_what_a_client_chose_is_cut() -> None:
    long = "x" * 100_000
    cut = event(name=long, method=long, client_name=long, client_version=long, protocol_version=long, request_id=long)
    assert len(encode_cloudevent(cut, "/shop")) < 10_000


def test_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    ids = [event_id(NOW_MS + step, bytes([255 - step] * 10)) for step in range(5)]
    assert ids == sorted(ids)
    for step, text in enumerate(ids):
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == NOW_MS + step
    assert event_id(NOW_MS, bytes(10)) != event_id(NOW_MS, bytes([0] * 9 + [1]))


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    one, two = payload_of({"a": 1, "b": {"c": 2, "d": 3}}), payload_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert one == two
    # sha256 of {"a":1,"b":{"c":2,"d":3}}, by sha256sum
    assert one.sha256 == "sha256:932875ab5b23eb47bb2711f951d85ba23eef4b50c3e2eb6b5f3f9b9ac1217c6b"
    assert payload_of({"a": 2}).sha256 != payload_of({"a": 1}).sha256


def test_a_payload_is_whole_only_up_to_its_bound() -> None:
    assert payload_of({"a": 1}, keep=7).json == msgspec.Raw(b'{"a":1}')
    assert payload_of({"a": 1}, keep=6).json is msgspec.UNSET
    assert payload_of({"a": 1}, keep=6).bytes == 7


def test_numbers_beyond_64_bits_are_kept_exactly() -> None:
    assert payload_of({"a": 2**70}, keep=100).json == msgspec.Raw(b'{"a":1180591620717411303424}')


def test_what_is_no_json_is_recorded_without_a_digest() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ({"a": "\ud800"}, deep):
        assert payload_of(value, keep=100).sha256 == ""


def test_the_note_of_a_caller_has_sorted_scopes() -> None:
    caller = Caller(subject="ada", method="api_key", scopes=frozenset({"sql:read", "data:read"}), issuer="i")
    assert note_of(caller) == CallerNote(subject="ada", method="api_key", issuer="i", scopes=("data:read", "sql:read"))


@pytest.mark.parametrize("text", [TRACE, TRACE[:-2] + "00", "01" + TRACE[2:], "cc" + TRACE[2:] + "-more"])
def test_a_valid_traceparent_is_kept(text: str) -> None:
    assert valid_traceparent(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "x", TRACE.upper(), "ff" + TRACE[2:], TRACE + "-more", TRACE + "0", TRACE[:-1], TRACE + "\n",
     f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'a' * 32}-{'0' * 16}-01", "cc" + TRACE[2:] + "-" + "x" * 2_000],
)  # fmt: skip
def test_an_invalid_traceparent_is_dropped(text: str) -> None:
    assert valid_traceparent(text) is None
