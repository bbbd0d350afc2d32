"""The times of a connector's heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from headgate.errors import ChangeRejected
from headgate.sources.debezium.decoder import DebeziumDecoder

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro

TimeOf: TypeAlias = Callable[[bytes | None, bytes | None], int | None]


class _Beat(msgspec.Struct):
    ts_ms: int


class _Framed(msgspec.Struct):
    payload: _Beat


_decode = msgspec.json.Decoder(_Beat).decode
_decode_framed = msgspec.json.Decoder(_Framed).decode


def topic_time(avro: Avro | None) -> TimeOf:
    """Of the connector's own heartbeats, `{"ts_ms":…}`: by the clock of its worker.

    https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-property-heartbeat-interval-ms
    """

    def time_of(key: bytes | None, value: bytes | None) -> int | None:
        try:
            return None if value is None else _time(value, avro)
        except (msgspec.DecodeError, UnicodeError, ChangeRejected, TypeError, KeyError):
            return None

    return time_of


def row_time(decoder: DebeziumDecoder) -> TimeOf:
    """Of the rows that `heartbeat.action.query` writes: when they were committed, by the database's clock."""

    def time_of(key: bytes | None, value: bytes | None) -> int | None:
        try:
            change = decoder.change(key, value)
        except ChangeRejected:
            return None
        is_beat = change is not None and change.op in ("c", "u") and not change.snapshot
        return change.time_ms or None if change is not None and is_beat else None

    return time_of


def _time(value: bytes, avro: Avro | None) -> int | None:
    if value[:1] != b"\x00":
        return (_decode_framed(value).payload if value.startswith(b'{"schema":') else _decode(value)).ts_ms
    if avro is None:
        return None
    fields: Any = avro.read(value).value
    return int(fields["ts_ms"])
