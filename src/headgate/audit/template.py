"""Call events that are alike: what they share is encoded once, and what differs is put in its place.

What comes of it is, byte for byte, what `encode_cloudevent` makes of the whole event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import itemgetter

import msgspec

from headgate.audit.event import BudgetNote, CallEvent, Payload, encode_cloudevent, rfc3339

_YEAR_9000_MS = 221_845_392_000_000
_NUMBERS = 1 << 40
_encode = msgspec.json.Encoder().encode


class Differing(msgspec.Struct, frozen=True, gc=False):
    """What differs between events that are alike, by the names of `CallEvent`."""

    id: str
    time_ms: int
    duration_us: int
    request_id: str | int | None
    """Of text no more than `CallEvent` keeps."""
    arguments: bytes
    """In JSON, as all `bytes` here."""
    positions: bytes
    result: bytes
    remaining: int
    """Of the budget; whatever it is where the call costs nothing."""
    admitted_us: int
    traceparent: str = ""
    """Valid, of events that have one."""
    tracestate: str = ""
    """No longer than `CallEvent` keeps."""


class EventTemplate:
    """Events like one: of the same caller, tool and client, by the same rules, with the same outcome; traced or not."""

    def __init__(self, event: CallEvent, source: str, randomness: bytes) -> None:
        """`event` is any of them. `randomness`, of 16 bytes, is what no part of an event can know in advance."""
        mark, number = randomness.hex(), int.from_bytes(randomness) % _NUMBERS + 1
        time_ms = _YEAR_9000_MS + number
        places = {
            f'"{mark}-id"': "id",
            f'"time":"{rfc3339(time_ms)}"': "time",
            f'"time_ms":{time_ms}': "time_ms",
            f'"duration_us":-{number}': "duration_us",
            f'"{mark}-request"': "request_id",
            f'{{"sha256":"{mark}-arguments","bytes":0}}': "arguments",
            f'{{"{mark}-positions":{{}}}}': "positions",
            f'{{"sha256":"{mark}-result","bytes":0}}': "result",
            f'"remaining":-{number}': "remaining",
            f'"admitted_us":-{number}': "admitted_us",
            f'"{mark}-traceparent"': "traceparent",
            f'"{mark}-tracestate"': "tracestate",
        }
        marked = msgspec.structs.replace(
            event,
            id=f"{mark}-id",
            time_ms=time_ms,
            duration_us=-number,
            request_id=f"{mark}-request",
            arguments=Payload(sha256=f"{mark}-arguments", bytes=0),
            positions={f"{mark}-positions": {}},
            result=Payload(sha256=f"{mark}-result", bytes=0),
            budget=_marked(event.budget, -number),
            admitted_us=-number,
            traceparent=event.traceparent and f"{mark}-traceparent",
            tracestate=event.tracestate if event.tracestate is msgspec.UNSET else f"{mark}-tracestate",
        )
        any_place = re.compile(b"(%b)" % b"|".join(re.escape(place.encode()) for place in places))
        pieces = any_place.split(encode_cloudevent(marked, source))
        names = list(places.values())
        self._literals = tuple(pieces[0::2])
        found = [names.index(places[piece.decode()]) for piece in pieces[1::2]]
        first = len(names)
        self._in_turn = itemgetter(*_alternating(range(first, first + len(self._literals)), found))

    def fill(self, differing: Differing) -> bytes:
        """The event with these in their places, as the log carries it."""
        one = differing
        filled = (
            b'"%b"' % one.id.encode(),
            b'"time":"%b"' % rfc3339(one.time_ms).encode(),
            b'"time_ms":%d' % one.time_ms,
            b'"duration_us":%d' % one.duration_us,
            _encode(one.request_id),
            one.arguments,
            one.positions,
            one.result,
            b'"remaining":%d' % one.remaining,
            b'"admitted_us":%d' % one.admitted_us,
            _encode(one.traceparent) if one.traceparent else b"",
            _encode(one.tracestate) if one.tracestate else b"",
        )
        return b"".join(self._in_turn(filled + self._literals))


def _alternating(literals: Iterable[int], places: Sequence[int]) -> list[int]:
    """Literals with a place between each two of them."""
    turns = [each for pair in zip(literals, [*places, -1], strict=True) for each in pair]
    return turns[:-1]


def _marked(budget: BudgetNote | msgspec.UnsetType, remaining: int) -> BudgetNote | msgspec.UnsetType:
    return budget if budget is msgspec.UNSET else msgspec.structs.replace(budget, remaining=remaining)
