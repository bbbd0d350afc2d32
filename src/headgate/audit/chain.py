"""The chain of one writer's events: each link seals its event and, by the link before, all events before it.

A link is the SHA-256 of the link before (32 bytes), the event's number (8 bytes, most significant first), the
writer's name and the event's id (each after its length in 2 bytes), the size of the event's bytes (8 bytes) and
their SHA-256. So a link can be checked by who has the event's digest alone. The link before the first one is the
SHA-256 of `headgate-chain-v1:` and the writer's name.
"""

from __future__ import annotations

import struct
from hashlib import sha256

import msgspec

LINK_BYTES = 32
_NUMBER, _LENGTH = struct.Struct(">Q").pack, struct.Struct(">H").pack


class Linked(msgspec.Struct, frozen=True, gc=False):
    """An event in its writer's chain. Numbers start at 1 and have no gaps."""

    seq: int
    id: str
    """The event's CloudEvents `id`."""
    previous: bytes
    """The link before."""
    link: bytes
    body: bytes
    """The event as it was made: a CloudEvent in JSON. Its bytes never change."""


def first_link(writer: str) -> bytes:
    """What stands before a writer's first event."""
    return sha256(b"headgate-chain-v1:" + writer.encode()).digest()


def link_of(previous: bytes, writer: str, seq: int, id_: str, body: bytes) -> bytes:
    """The link of an event."""
    return link_of_digest(previous, writer, seq, id_, sha256(body).digest(), len(body))


def link_of_digest(previous: bytes, writer: str, seq: int, id_: str, digest: bytes, size: int) -> bytes:
    """The link of an event whose bytes are elsewhere. ValueError for what can be no event's."""
    try:
        return _link(previous, _named(writer), seq, id_.encode(), digest, size)
    except struct.error as error:
        raise ValueError("a number or a length that no event has") from error


def _link(previous: bytes, named: bytes, seq: int, ident: bytes, digest: bytes, size: int) -> bytes:
    number, length = _NUMBER(seq), _LENGTH(len(ident))
    return sha256(b"".join((previous, number, named, length, ident, _NUMBER(size), digest))).digest()


def _named(writer: str) -> bytes:
    name = writer.encode()
    return _LENGTH(len(name)) + name


class Chain:
    """The end of one writer's chain, to which events are added."""

    def __init__(self, writer: str, seq: int = 0, link: bytes = b"") -> None:
        """`seq` and `link` are the newest event's; without them the chain is empty."""
        self.writer = writer
        self.seq = seq
        self.link = link or first_link(writer)
        self._named = _named(writer)

    def add(self, id_: str, body: bytes) -> Linked:
        """The next event."""
        previous, self.seq = self.link, self.seq + 1
        self.link = _link(previous, self._named, self.seq, id_.encode(), sha256(body).digest(), len(body))
        return Linked(self.seq, id_, previous, self.link, body)

    def copy(self) -> Chain:
        """Another end at the same place: what is added to one is not added to the other."""
        return Chain(self.writer, self.seq, self.link)
