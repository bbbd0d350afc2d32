"""What is published in the place of an event that the log does not take: its digest, which its link can be told by."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from headgate.audit.chain import LINK_BYTES, Linked
from headgate.audit.event import cloudevent

STUB_TYPE = "dev.headgate.withheld.v1"
_SOURCE = "urn:headgate"
"""Not the deployment's own: no byte of a stub may be one that its link does not tell."""


class WithheldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """That the event of this id was too large for the log. Whole, it lies in its writer's outbox."""

    id: str
    writer: str
    seq: int
    sha256: str
    """Of the event's bytes: `sha256:` and hex."""
    bytes: int


class _Envelope(msgspec.Struct, frozen=True):
    data: WithheldEvent


_decode = msgspec.json.Decoder(_Envelope).decode


def stub_of(writer: str, event: Linked) -> bytes:
    """The stub of an event: the same bytes each time, as a CloudEvent without a time."""
    said = WithheldEvent(
        id=event.id,
        writer=writer,
        seq=event.seq,
        sha256=f"sha256:{sha256(event.body).hexdigest()}",
        bytes=len(event.body),
    )
    return _encoded(said)


def stub_in(body: bytes) -> WithheldEvent | None:
    """What a stub says; None for what is no stub as `stub_of` makes it, to the byte."""
    try:
        envelope = _decode(body)
        digest_of(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    return envelope.data if _encoded(envelope.data) == body else None


def digest_of(stub: WithheldEvent) -> bytes:
    """The SHA-256 of the event that was withheld. ValueError when the stub holds none."""
    digest = bytes.fromhex(stub.sha256.removeprefix("sha256:"))
    if len(digest) != LINK_BYTES or stub.bytes < 0:
        raise ValueError("no digest of an event")
    return digest


def _encoded(said: WithheldEvent) -> bytes:
    return cloudevent(said, id=said.id, type=STUB_TYPE, source=_SOURCE, time_ms=None)
