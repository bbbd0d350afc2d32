"""How an event lies in an outbox: one line of JSON, with its place in the chain beside it.

    {"seq":1,"id":"…","previous":"…","link":"…","event":{…}}

Links are in hex, and `event` is the CloudEvent as it was made. What is no JSON object in one line stands in `bytes`
instead, in base64. Nothing else is written so: a line that is in any other form was changed.
"""

from __future__ import annotations

import base64

import msgspec

from headgate.audit.chain import Linked


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    seq: int
    id: str
    previous: str
    link: str
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    bytes: str | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode
_pass_over = msgspec.json.Decoder(msgspec.Raw).decode


def line_of(event: Linked) -> bytes:
    """The event as a line, with its end."""
    body = event.body
    is_plain = _is_plain(body)
    line = _Line(
        seq=event.seq,
        id=event.id,
        previous=event.previous.hex(),
        link=event.link.hex(),
        event=msgspec.Raw(body) if is_plain else msgspec.UNSET,
        bytes=msgspec.UNSET if is_plain else base64.b64encode(body).decode(),
    )
    return _encode(line) + b"\n"


def event_in(line: bytes, seq: int) -> Linked:
    """The event of a line, which is without its end, and has this number by its place.

    A line that is not as `line_of` makes it is an event nonetheless, with all of its bytes and without links: whoever
    verifies the chain finds it, and whoever publishes it does not lose it.
    """
    event = _read(line)
    return event if event is not None and event.seq == seq else Linked(seq, "", b"", b"", line)


def is_line(data: bytes) -> bool:
    """Whether that is a whole line, but for its end."""
    return _read(data) is not None


def _is_plain(body: bytes) -> bool:
    """Whether it can stand within a line as it is."""
    if body[:1] != b"{" or body[-1:] != b"}" or b"\n" in body:
        return False
    try:
        _pass_over(body)
    except ValueError:
        return False
    return True


def _read(data: bytes) -> Linked | None:
    try:
        line = _decode(data)
        body = bytes(line.event) if isinstance(line.event, msgspec.Raw) else base64.b64decode(str(line.bytes))
        event = Linked(line.seq, line.id, bytes.fromhex(line.previous), bytes.fromhex(line.link), body)
        return event if line_of(event) == data + b"\n" else None
    except (ValueError, UnicodeError):  # msgspec's own errors are ValueErrors
        return None
