"""Subscriptions: how those who wait for rows are told that some may have changed.

Whoever materializes tells which rows of which entity a step has changed, after the step; whoever serves hears it. What
is told is a hint to look again, never data: a hint may come twice, late or for nothing, but what was applied while
somebody hears is never passed over. Where hints were lost, the hearer is told so and takes it that all may have
changed; and whoever takes partitions over tells of all their rows, as its predecessor may have ended untold.

A kind is a module with `open_sender(target) -> Sender` and `open_hearer(target) -> Hearer`. It is of the store's kind
and takes the store's own target, so that whoever can read rows can hear of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

MOST_KEYS = 256
"""Of one entity in one message. Where more have changed, the entity has."""


class Touch(msgspec.Struct, frozen=True, array_like=True):
    """Rows that may have changed: some of an entity by their key texts, all of it, or all there is."""

    entity: str = ""
    """Empty: of every entity."""
    keys: tuple[str, ...] | None = None
    """None: any row of it."""


EVERYTHING = Touch()

Touched: TypeAlias = Mapping[str, Collection[str] | None]
"""Entity → key texts, or None where any of its rows may have changed."""

Tell: TypeAlias = Callable[[Touched], None]
"""How materialize tells: returns at once, and never raises."""


class Sender(Protocol):
    """Carries messages to all hearers. One thread uses it. It connects when it first sends."""

    @property
    def most_bytes(self) -> int:
        """How long a message may be."""

    def send(self, message: bytes) -> None:
        """Returns once every hearer that is listening will hear it. Unavailable or StoreError when none may have."""

    def close(self) -> None:
        """Lets go. Never raises."""


class Hearer(Protocol):
    """Hears what is sent, for one event loop."""

    async def hear(self, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
        """Hears until it is cancelled, which lets go of everything. May be called again.

        `listening` is called once nothing is missed any more; and again each time when something may have been.
        Both are called on the event loop and must return at once. Unavailable or StoreError when the connection is
        lost or can't be made.
        """


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Touch]).decode


def encode(touched: Touched, most_bytes: int) -> bytes:
    """The message of what changed; where it would be too long, with fewer words for more."""
    whole = [Touch(name, None if keys is None else tuple(keys)) for name, keys in touched.items()]
    for said in (whole, [Touch(each.entity) for each in whole]):
        message = _encode(said)
        if len(message) <= most_bytes:
            return message
    return _encode([EVERYTHING])


def decode(message: bytes | str) -> Sequence[Touch]:
    """What a message says. One that can't be read may say anything, and so that everything may have changed."""
    try:
        return _decode(message)
    except (msgspec.MsgspecError, UnicodeError):
        return [EVERYTHING]
