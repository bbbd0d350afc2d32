"""State: the small shared facts of running processes, with compare-and-set and time to live; and token buckets.

A kind is a module with `open_state(target, clock=…) -> State` and `open_buckets(target, clock=…) -> Buckets`.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from headgate.model.question import Question

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """A value and its version: the version grows by one with every write of a key, and starts at 1."""

    value: bytes
    version: int


class State(Protocol):
    """A shared map of small values. Methods block for about a millisecond and may be called from any thread.

    Each method is atomic across processes. Unavailable when the server does not answer: then a write may
    or may not have happened, and a compare-and-set tried again tells.
    """

    def get(self, key: str) -> Entry | None:
        """The entry, or None if there is none or its time is over."""

    def put(self, key: str, value: bytes, *, expect: int | None = None, ttl_ms: int | None = None) -> int:
        """Writes, and answers the new version.

        `expect` is the version that must stand there (0: none); StateConflict otherwise, with nothing
        written. Without `ttl_ms` it stays until it is deleted; every write sets the time anew.
        """

    def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Removes; answers whether it was there. StateConflict as for `put`."""

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        """The entries whose keys start so, sorted by key."""

    def close(self) -> None:
        """Lets go. Never raises."""


class Taken(msgspec.Struct, frozen=True):
    """What came of taking from a bucket."""

    ok: bool
    """Whether all of the cost was taken; otherwise nothing was."""
    remaining: int
    """Whole tokens that are left."""
    retry_after_ms: int = 0
    """When refused: from when on the same cost can be taken, if nobody takes before."""


class Buckets(Protocol):
    """Token buckets that all processes share. For one event loop, which is never blocked.

    A bucket holds `capacity` tokens, is full when it is first asked, and an empty one fills evenly within
    `period_ms`. Takes are atomic across processes, in whole numbers and by one clock (the server's, where there
    is a server), so that never one token more is taken than there was.
    """

    async def take(self, key: str, cost: int, capacity: int, period_ms: int) -> Taken:
        """Takes `cost` tokens, 1 to `capacity`, or none at all. ValueError for any other cost.

        A capacity or period that differs from the last one holds from now on; what was taken stays taken.
        Unavailable when the server does not answer, StoreError when it refuses: then, and after a
        cancellation, the tokens may be taken or not.
        """

    async def close(self) -> None:
        """Lets go. Never raises."""


class Posting(Buckets, Protocol):
    """Buckets whose takes can be sent before anyone waits for them."""

    def begin(self, key: str, cost: int, capacity: int, period_ms: int, read: Callable[[Taken], T]) -> Future[T]:
        """As `take`, but sent at once; ends as what `read` makes of it."""

    def question(self, key: str, cost: int, capacity: int, period_ms: int) -> Question[Taken]:
        """As `take`, ready to be sent any number of times. Its reply may say that only `take` can tell: it raises."""
