"""What `wait_for_change` waits for: one row or all that match, how they looked, and what has changed since."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

import msgspec

from headgate.access.lens import Lens
from headgate.access.view import View, narrow
from headgate.access.watching import Seen, seen_as
from headgate.errors import InvalidArguments
from headgate.model.position import Watermark
from headgate.model.row import Row
from headgate.stores.base import Query

MOST_MATCHES = 500
"""Rows that a filter may match."""

CURSOR_TTL_MS = 600_000
"""How long a cursor that does not hold everything itself may be used."""

_PACE_S = 0.1
"""A filter is asked again at most so often, however often its entity changes."""
_INLINE_BYTES = 96
_TAG_BYTES = 8
_CURSOR = "This cursor is of another question, or too old: ask once without `after`, and read the rows themselves."

Looks = Mapping[str, Seen]
"""Key text → how the row looked; rows that were not there are left out."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, dict[str, Seen]]).decode


class Found(NamedTuple):
    """What one look at the store has found, all of it of one snapshot."""

    rows: Mapping[str, Row]
    watermark: Watermark

    @property
    def looks(self) -> Looks:
        """How the rows look."""
        return {key: seen_as(row) for key, row in self.rows.items()}


class Change(NamedTuple):
    """One row that is not as it was. `row` is None of one that is gone."""

    kind: Literal["appeared", "updated", "deleted", "left"]
    key: str
    row: Row | None


class Waker:
    """Wakes one who waits. A `Watcher`."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def changed(self, entity: str, key: str) -> None:
        """A row that is watched has changed."""
        self._woken.set()

    def wake(self) -> None:
        """Something that is watched may have changed."""
        self._woken.set()

    async def woken(self) -> None:
        """Returns once it was woken since it returned last."""
        await self._woken.wait()
        self._woken.clear()


class Question(Protocol):
    """What is waited for, as its caller sees it. Errors are the view's."""

    pace_s: float
    """The least time between two looks."""
    tag: bytes
    """Tells it from other questions."""

    @contextmanager
    def watched(self, waker: Waker) -> Iterator[None]:
        """For the length of a block the waker is woken whenever the answer may be another one."""

    async def begin(self) -> None:
        """Returns once no change is missed any more."""

    async def look(self) -> Found:
        """What there is now."""

    async def gone(self, keys: Sequence[str]) -> list[Change]:
        """What became of rows that are not found any more."""


class OneRow:
    """The row of one key. One that the caller does not see is never there."""

    pace_s = 0.0

    def __init__(self, view: View, entity: str, key: str, lens: Lens | None) -> None:
        self.tag = _tag(entity, key)
        self._view = view
        self._entity = entity
        self._key = key
        self._lens = lens

    @contextmanager
    def watched(self, waker: Waker) -> Iterator[None]:
        """See `Question.watched`."""
        watching = self._view.watching
        watching.watch(waker, self._entity, self._lens, (self._key,))
        try:
            yield
        finally:
            watching.unwatch(waker, self._entity, self._lens, (self._key,))

    async def begin(self) -> None:
        """See `Question.begin`."""
        await self._view.watching.heard()
        await self._view.watching.look(self._entity, (self._key,))

    async def look(self) -> Found:
        """See `Question.look`. The watermark is that of the row's own partition."""
        found = await self._view.get(self._entity, [self._key])
        rows = {row.key: row for row in found.rows}
        partitions = {row.partition for row in found.rows}
        return Found(rows, narrow(found.watermark, partitions) if rows else found.watermark)

    async def gone(self, keys: Sequence[str]) -> list[Change]:
        """See `Question.gone`."""
        return [Change("deleted", key, None) for key in keys if key == self._key]


class Matching:
    """All rows that match a filter."""

    pace_s = _PACE_S

    def __init__(self, view: View, entity: str, query: Query) -> None:
        self.tag = _tag(entity, _encode([query.equals, query.ranges]).hex())
        self._view = view
        self._entity = entity
        self._query = msgspec.structs.replace(query, limit=MOST_MATCHES + 1, max_bytes=64 << 20)

    @contextmanager
    def watched(self, waker: Waker) -> Iterator[None]:
        """See `Question.watched`."""
        with self._view.watching.hints(self._entity, waker.wake):
            yield

    async def begin(self) -> None:
        """See `Question.begin`."""
        await self._view.watching.heard()

    async def look(self) -> Found:
        """See `Question.look`. InvalidArguments where too many match."""
        async with self._view.watching.looks:
            found = await self._view.find(self._entity, self._query)
        if found.cut == "time":
            raise InvalidArguments("To look at all that can match takes too long: narrow `where`, or wait for a key.")
        if len(found.rows) > MOST_MATCHES or found.cut is not None:
            raise InvalidArguments(f"More than {MOST_MATCHES} rows match: narrow `where`, or wait for a key.")
        return Found({row.key: row for row in found.rows}, found.watermark)

    async def gone(self, keys: Sequence[str]) -> list[Change]:
        """See `Question.gone`. Some are still there, and match no more."""
        there = {row.key for row in (await self._view.get(self._entity, keys)).rows} if keys else set()
        return [Change("left" if key in there else "deleted", key, None) for key in keys]


async def changes(question: Question, before: Looks, now: Found) -> list[Change]:
    """What is not as it was: first what is there, in the order it was found in, then what is gone."""
    there = [
        Change("updated" if key in before else "appeared", key, row)
        for key, row in now.rows.items()
        if before.get(key) != seen_as(row)
    ]
    return [*there, *await question.gone(sorted(before.keys() - now.rows.keys()))]


async def cursor_of(view: View, question: Question, looks: Looks) -> str:
    """What to go on from: it holds how the rows looked, or where that is kept. Unavailable as `View.keep`."""
    packed = _encode((question.tag, looks))
    if len(packed) <= _INLINE_BYTES:
        return "r" + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()
    return "k" + await view.keep(packed, CURSOR_TTL_MS)


async def looks_of(view: View, question: Question, cursor: str) -> Looks:
    """How the rows looked when the cursor was given out. InvalidArguments for one that is of no use here."""
    packed = await view.kept(cursor[1:]) if cursor.startswith("k") else _unpacked(cursor[1:])
    try:
        tag, looks = _decode(packed or b"")
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidArguments(_CURSOR) from error
    if tag != question.tag:
        raise InvalidArguments(_CURSOR)
    return looks


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise InvalidArguments(_CURSOR) from error


def _tag(entity: str, asked: str) -> bytes:
    return hashlib.blake2b(_encode([entity, asked]), digest_size=_TAG_BYTES).digest()
