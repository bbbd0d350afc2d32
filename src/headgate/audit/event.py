"""The call event: what is kept of one call, and its form on the log.

The form is a CloudEvent 1.0 in JSON, structured mode (CloudEvents spec v1.0.2, json-format §3), with the
Distributed Tracing extension's `traceparent` and `tracestate`. Its `data` is the `CallEvent`.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Literal

import msgspec

from headgate.errors import HeadgateError
from headgate.model.caller import Caller, Method

CALL_TYPE = "dev.headgate.call.v1"
CONTENT_TYPE = b"application/cloudevents+json; charset=UTF-8"
"""The record header `content-type` (CloudEvents Kafka binding §3.3)."""

LONGEST_TEXT = 1_024
"""Of each text that a client chose freely, but for arguments."""
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The two bits of RFC 9562's variant, over the highest ones of a digit."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_CHOSEN_BY_CLIENTS = (
    "method", "name", "client_name", "client_version", "protocol_version", "request_id", "tracestate", "task", "model",
    "prompt",
)  # fmt: skip

Status = Literal["answered", "refused", "failed"]
"""refused: the caller must mend something. failed: we must."""


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON value as its digest and size, and itself where it is kept: whole, or with personal values masked.

    The digest is `sha256:` and hex, over the whole value's JSON with keys sorted, no spaces, in UTF-8.
    """

    sha256: str
    bytes: int
    json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    masked: bool | msgspec.UnsetType = msgspec.UNSET
    """True where `json` is not the whole value."""


class CallerNote(msgspec.Struct, frozen=True, kw_only=True):
    """The caller as decisions saw it."""

    subject: str
    method: Method
    issuer: str
    scopes: tuple[str, ...]


class BudgetNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a call left of the budget that it was paid from, or could not be."""

    class_: Literal["read", "write"] = msgspec.field(name="class")
    limit: int
    remaining: int


class CallEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One call, answered or not. What a client chose freely is cut to 1,024 characters, but for arguments."""

    id: str
    time_ms: int
    """When the call came in."""
    duration_us: int
    writer: str
    """The process that wrote it; its events are numbered without gaps on the log."""
    door: Literal["http", "stdio"]
    method: str
    """MCP's method, such as `tools/call`."""
    name: str = ""
    """The tool, or the resource's URI; empty where the method has none."""
    schema_sha256: str = ""
    """Digest of the tool's input schema."""
    caller: CallerNote | None = None
    """None when the call ended before the caller was known."""
    client_name: str = ""
    client_version: str = ""
    protocol_version: str = ""
    request_id: str | int | None = None
    traceparent: str | None = None
    """As the client sent it, if it is valid."""
    tracestate: str | msgspec.UnsetType = msgspec.UNSET
    """As the client sent it along with a valid traceparent."""
    task: str | msgspec.UnsetType = msgspec.UNSET
    """The task that the client works on, by its own word."""
    model: str | msgspec.UnsetType = msgspec.UNSET
    """The model that asks, by the client's word."""
    prompt: str | msgspec.UnsetType = msgspec.UNSET
    """What the client calls the prompt that led here."""
    arguments: Payload | None = None
    policy_version: str = ""
    rules: tuple[str, ...] = ()
    claims: Payload | msgspec.UnsetType = msgspec.UNSET
    """The claims that the policy's document asks for, as the caller has them; left out where it has none of them."""
    positions: dict[str, dict[str, int]] = {}
    """entity → partition → offset, as far as the store was read."""
    result: Payload | None = None
    """Digest and size of the structured result."""
    status: Status
    error_code: str = ""
    reason: str = ""
    """Why a credential was refused, never told to the caller; or why a stream ended."""
    budget: BudgetNote | msgspec.UnsetType = msgspec.UNSET
    """Left out where the call costs nothing."""
    answer_of: str | msgspec.UnsetType = msgspec.UNSET
    """The id of the call whose answer this one got again, by its idempotency key."""
    notices: int | msgspec.UnsetType = msgspec.UNSET
    """Of a stream: how many notices it carried."""
    admitted_us: int | msgspec.UnsetType = msgspec.UNSET
    """How long it took until the grant was decided; the rest of `duration_us` is acting."""
    approval: str | msgspec.UnsetType = msgspec.UNSET
    """The id of the approval that it used, waits for, or decides; left out of calls that need none."""

    def __post_init__(self) -> None:
        chosen = _chosen_by_clients(self)
        if len("".join([value for value in chosen if isinstance(value, str)])) <= LONGEST_TEXT:
            return  # as nearly always: together they are short enough for each
        for field, value in zip(_CHOSEN_BY_CLIENTS, chosen, strict=True):
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                msgspec.structs.force_setattr(self, field, value[:LONGEST_TEXT])


_chosen_by_clients = attrgetter(*_CHOSEN_BY_CLIENTS)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: str | msgspec.UnsetType = msgspec.UNSET
    subject: str | msgspec.UnsetType = msgspec.UNSET
    datacontenttype: str = "application/json"
    dataschema: str
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    tracestate: str | msgspec.UnsetType = msgspec.UNSET
    data: Any


class _CallEnvelope(msgspec.Struct, frozen=True):
    type: str
    data: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_encode_canonical = msgspec.json.Encoder(order="sorted").encode
_decode_envelope = msgspec.json.Decoder(_CallEnvelope).decode
_decode_event = msgspec.json.Decoder(CallEvent).decode


class NotACallEvent(HeadgateError):
    """The bytes hold no call event that this version reads."""

    code = "not_a_call_event"


def encode_cloudevent(event: CallEvent, source: str) -> bytes:
    """The event as the log carries it. `source` is a URI reference that names this deployment."""
    return cloudevent(
        event,
        id=event.id,
        type=CALL_TYPE,
        source=source,
        time_ms=event.time_ms,
        subject=event.name,
        traceparent=event.traceparent,
        tracestate=event.tracestate,
    )


def decode_cloudevent(data: bytes) -> CallEvent:
    """The inverse of `encode_cloudevent`. NotACallEvent for anything else, aggregates of refusals included."""
    try:
        envelope = _decode_envelope(data)
        if envelope.type == CALL_TYPE:
            return _decode_event(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotACallEvent("this record is no call event: look at what else writes to this topic") from error
    raise NotACallEvent("this record is an event of another type")


def cloudevent(
    data: object,
    *,
    id: str,
    type: str,
    source: str,
    time_ms: int | None,
    subject: str = "",
    traceparent: str | None = None,
    tracestate: str | msgspec.UnsetType = msgspec.UNSET,
) -> bytes:
    """Any of our events in its CloudEvents form."""
    envelope = _Envelope(
        id=id,
        source=source,
        type=type,
        time=msgspec.UNSET if time_ms is None else rfc3339(time_ms),
        dataschema=schema_uri(type),
        subject=subject or msgspec.UNSET,
        traceparent=traceparent or msgspec.UNSET,
        tracestate=tracestate,
        data=data,
    )
    return _encode(envelope)


@cache
def schema_uri(type: str) -> str:
    """The URI of a type's schema: `urn:headgate:schema:call:v1` of `dev.headgate.call.v1`."""
    return "urn:headgate:schema:" + type.removeprefix("dev.headgate.").replace(".", ":")


def event_id(time_ms: int, randomness: bytes) -> str:
    """A UUID of version 7 (RFC 9562 §5.7): ids order by time. `randomness` is ten random bytes."""
    time, text = f"{time_ms & 0xFFFF_FFFF_FFFF:012x}", randomness.hex()
    return f"{time[:8]}-{time[8:]}-7{text[1:4]}-{_VARIANT[text[4]]}{text[5:8]}-{text[8:20]}"


def note_of(caller: Caller) -> CallerNote:
    """What is kept of a caller."""
    return CallerNote(subject=caller.subject, method=caller.method, issuer=caller.issuer, scopes=_sorted(caller.scopes))


def payload_of(value: object, *, keep: int = 0) -> Payload:
    """Digest and size of a JSON value; whole too, if its canonical form has at most `keep` bytes.

    What is no JSON (text with half a surrogate pair, thousands of levels) has neither: the call is recorded
    all the same.
    """
    try:
        canonical = _encode_canonical(value)
    except (UnicodeEncodeError, RecursionError, TypeError):
        return Payload(sha256="", bytes=0)
    return Payload(
        sha256=f"sha256:{hashlib.sha256(canonical).hexdigest()}",
        bytes=len(canonical),
        json=msgspec.Raw(canonical) if len(canonical) <= keep else msgspec.UNSET,
    )


def payload_json(value: object, *, keep: int = 0) -> bytes:
    """`payload_of` the same, in JSON."""
    try:
        canonical = _encode_canonical(value)
    except (UnicodeEncodeError, RecursionError, TypeError):
        return b'{"sha256":"","bytes":0}'
    digest = hashlib.sha256(canonical).hexdigest().encode()
    if len(canonical) <= keep:
        return b'{"sha256":"sha256:%b","bytes":%d,"json":%b}' % (digest, len(canonical), canonical)
    return b'{"sha256":"sha256:%b","bytes":%d}' % (digest, len(canonical))


def valid_traceparent(text: str) -> str | None:
    """The header if it is valid by W3C Trace Context (level 1, §3.2), else None."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, parent_id, _, more = match.groups()
    if version == "ff" or (version == "00" and more) or len(text) > LONGEST_TEXT:
        return None
    return text if trace_id.strip("0") and parent_id.strip("0") else None


def rfc3339(time_ms: int) -> str:
    """A time in the form that CloudEvents asks for, to the millisecond, UTC (RFC 3339)."""
    seconds, milliseconds = divmod(time_ms, 1_000)
    return f"{_instant(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=8)
def _instant(seconds: int) -> str:
    """One after the other asks for the same."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds").removesuffix("+00:00")


@lru_cache(maxsize=1_024)
def _sorted(scopes: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(scopes))
