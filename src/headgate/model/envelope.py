"""Debezium's envelope as JSON without inline schemas: how our own capture writes changes on the log.

Format: https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-change-events-value
(`before`, `after`, `source`, `op`, `ts_ms`; `source.sequence` is a JSON array of strings in a string).
Our markers are op `m`, Debezium's logical decoding message, with the prefix `headgate.snapshot`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from operator import itemgetter, le
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec

from headgate.errors import Undecodable
from headgate.model.change import CLOSER, PASSED_OVER, UNAVAILABLE, Change, Marker, Op, RowChange, RowRun, Sequence
from headgate.model.depth import check_depth, check_depths

_MARKER_PREFIX = "headgate.snapshot"
_UNAVAILABLE = f'"{UNAVAILABLE}"'.encode()


class _Source(msgspec.Struct, frozen=True, gc=False):
    schema: str = ""
    table: str = ""
    ts_ms: int = 0
    snapshot: str = "false"
    sequence: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    op: Op
    before: msgspec.Raw = msgspec.Raw(b"null")
    after: msgspec.Raw = msgspec.Raw(b"null")
    source: _Source = _Source()
    message: dict[str, Any] | None = None


class _Place(msgspec.Struct, gc=False):
    sequence: str | None = None
    snapshot: str = "false"


class _RowEnvelope(msgspec.Struct, gc=False):
    op: str
    source: _Place
    after: msgspec.Raw = msgspec.Raw(b"null")


class _UsualPlace(msgspec.Struct, gc=False):
    sequence: str | None = None
    snapshot: Literal["false", "true"] = "false"


class _UsualEnvelope(msgspec.Struct, gc=False):
    """Of literals, no object is made for each record."""

    op: Literal["c", "u", "r", "d"]
    source: _UsualPlace
    after: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_row = msgspec.json.Decoder(_RowEnvelope).decode
_decode_usual = msgspec.json.Decoder(_UsualEnvelope).decode
_decode_place = msgspec.json.Decoder(Sequence, strict=False).decode  # numbers that are kept as texts
_decode_pair = msgspec.json.Decoder(Annotated[list[str | None], msgspec.Meta(min_length=2, max_length=3)]).decode
_text = msgspec.json.encode
Ends: TypeAlias = tuple[Sequence | None, Sequence | None]
_WITH_ROW = frozenset({"c", "u", "r", "d"})
_BRACE = frozenset(b"{")
_first_byte = itemgetter(0)
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_is_plain_place = re.compile(rb'\["0+","0+"(?:,"[^"\\]*")?\]').fullmatch
_PLAIN = (
    b'{"op":"%b","before":null,"after":%b,"source":%b,"ts_ms":%d,"snapshot":"%b","sequence":"[\\"%d\\",\\"%d\\"]"}'
    b',"ts_ms":%d}'
)
"""The same as the general form below, for a change without `before`, filled in by one call."""


def source_prefix(connector: str, pipeline: str, database: str, table: str) -> bytes:
    """The constant start of a table's `source` block; capture makes it once per table."""
    schema, _, name = table.partition(".")
    block = {"version": "headgate", "connector": connector, "name": pipeline, "db": database,
             "schema": schema, "table": name}  # fmt: skip
    return json.dumps(block, separators=(",", ":")).encode()[:-1]


def encode_change(change: Change, prefix: bytes) -> bytes:
    """The envelope of one change. `prefix` is the table's `source_prefix`."""
    sequence, time_ms = change.sequence, change.time_ms
    if change.before is None and change.marker is None and sequence is not None and not sequence[2]:  # nearly all
        kind, read = change.op.encode(), b"true" if change.snapshot else b"false"
        places = (kind, change.after or b"null", prefix, time_ms, read, sequence[0], sequence[1], time_ms)
        return _PLAIN % places
    return b'{"op":"%s","before":%s,"after":%s,"source":%s,"ts_ms":%d,"snapshot":"%s"%s}%s,"ts_ms":%d}' % (
        change.op.encode(),
        change.before or b"null",
        change.after or b"null",
        prefix,
        change.time_ms,
        b"true" if change.snapshot else b"false",
        _encode_sequence(change.sequence),
        _encode_marker(change.marker),
        change.time_ms,
    )


def _encode_sequence(sequence: Sequence | None) -> bytes:
    if sequence is None:
        return b""
    commit, event, timeline = sequence
    if not timeline:
        return b',"sequence":"[\\"%d\\",\\"%d\\"]"' % (commit, event)
    return b',"sequence":' + _text(_text([str(commit), str(event), timeline]).decode())


def _encode_marker(marker: Marker | None) -> bytes:
    if marker is None:
        return b""
    return b',"message":%s' % _text({"prefix": _MARKER_PREFIX, "content": msgspec.to_builtins(marker)})


def decode_change(key: bytes | None, value: bytes) -> Change:
    """The change in an envelope. Undecodable says what is wrong with it."""
    try:
        value.decode()  # rows are passed on as they are, so that nothing later looks at their bytes
        check_depth(value)
        envelope = _decode(value)
        source = envelope.source
        return Change(
            op=envelope.op,
            table=f"{source.schema}.{source.table}",
            key=key,
            before=_object(envelope.before),
            after=_object(envelope.after),
            sequence=_decode_sequence(source.sequence),
            time_ms=source.ts_ms,
            snapshot=source.snapshot not in ("false", ""),
            partial=_UNAVAILABLE in value,
            marker=_decode_marker(envelope.message) if envelope.op == "m" else None,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, RecursionError) as error:
        raise Undecodable(
            "the record is no Debezium envelope in JSON: look at what else writes to this topic"
        ) from error


def decode_rows(values: Collection[bytes | None]) -> RowRun | list[RowChange]:
    """What the envelopes do to rows, for those of which that is all there is to say; the others are CLOSER.

    What it says of a record is what `decode_change` says, at a fraction of the cost; it takes no notice of what is
    wrong in `before`, and in what else nobody reads. Where nothing is unusual in any record, none is looked at alone.
    """
    try:
        found = _usual(values)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    return _each(values) if found is None else found


def _each(values: Collection[bytes | None]) -> list[RowChange]:
    return [_row_change(value) for value in values]


def _usual(values: Collection[Any]) -> RowRun | None:
    """The same where all are changes of whole rows, in their order, or all were read by a snapshot; else None."""
    taken = values if all(values) else [value for value in values if value is not None]
    check_depths(taken)
    envelopes = list(map(_decode_usual, taken))
    rows: list[bytes | None] = [bytes(envelope.after) for envelope in envelopes]
    if not _are_whole_and_unicode(rows) or not _take_out_deleted(rows, [envelope.op for envelope in envelopes]):
        return None
    places = [envelope.source for envelope in envelopes]
    snapshots = {place.snapshot for place in places}
    if len(snapshots) > 1:
        return None
    ends: Ends | None = (None, None)  # what a snapshot has read is never too old
    if "false" in snapshots:
        ends = _ends([place.sequence for place in places])
    return ends and RowRun(rows, *ends, None if taken is values else cast(list[object], values), lambda: _each(values))


def _take_out_deleted(rows: list[bytes | None], ops: list[str]) -> bool:
    """Puts None in the place of what is deleted. False where a row is no object, or a delete has one."""
    if "d" in ops:
        for place, op in enumerate(ops):
            if op == "d":
                if rows[place] != b"null":
                    return False
                rows[place] = None
    return set(map(_first_byte, filter(None, rows))) <= _BRACE


def _ends(texts: list[str | None]) -> Ends | None:
    """The first and the last of these places, if all are there and none is older than the one before it."""
    if not all(texts):
        return None
    wanted: list[Any] = texts
    if _are_alike(wanted) and wanted == sorted(wanted):
        return _decode_place(wanted[0]), _decode_place(wanted[-1])
    places = list(map(_decode_place, wanted))
    return (places[0], places[-1]) if all(map(le, places, places[1:])) else None


def _are_alike(texts: list[str]) -> bool:
    """Whether places differ in nothing but their digits, so that they are in order where their texts are."""
    form = texts[0].encode().translate(_DIGITS)
    lines = "\n".join(texts).encode().translate(_DIGITS)
    return _is_plain_place(form) is not None and lines == b"\n".join([form] * len(texts))


def _row_change(value: bytes | None) -> RowChange:
    if value is None:
        return PASSED_OVER
    try:
        check_depth(value)
        envelope = _decode_row(value)
        op, place, after = envelope.op, envelope.source, bytes(envelope.after)
        is_deleted, is_row = op == "d" and after == b"null", op in _WITH_ROW - {"d"} and after[0] in _BRACE
        if not (is_deleted or is_row) or not _are_whole_and_unicode([after]):
            return CLOSER
        at = place.sequence if place.snapshot in ("false", "") else None
        return None if is_deleted else after, _decode_place(at) if at else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return CLOSER


def _are_whole_and_unicode(rows: Iterable[bytes | None]) -> bool:
    """One long search costs a fraction of many short ones."""
    lines = b"\n".join(rows)  # type: ignore[arg-type]  # there is no None yet
    return (lines.isascii() or bool(lines.decode())) and _UNAVAILABLE not in lines


def _object(raw: msgspec.Raw) -> bytes | None:
    data = bytes(raw)
    if data == b"null":
        return None
    if not data.startswith(b"{"):
        raise ValueError("before and after are objects")
    return data


def _decode_sequence(text: str | None) -> Sequence | None:
    if not text:
        return None
    commit, event, *timeline = _decode_pair(text)
    return Sequence(int(commit or 0), int(event or 0), (timeline[0] or "") if timeline else "")


def _decode_marker(message: dict[str, Any] | None) -> Marker | None:
    if not message or message.get("prefix") != _MARKER_PREFIX:
        return None
    return msgspec.convert(message["content"], Marker)
