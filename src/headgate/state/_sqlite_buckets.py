"""Token buckets in the SQLite file that the processes of a data folder share.

Takes that come while others are under way go into one transaction: what a transaction costs is then shared.
"""

from __future__ import annotations

import asyncio
import sqlite3
from asyncio import Future
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from headgate.connections._wal import turn_to_wal
from headgate.errors import Unavailable
from headgate.state.base import Buckets, Taken
from headgate.telemetry import Clock

T = TypeVar("T")

_BUSY_S = 5.0
_AT_ONCE = 256
"""How many takes one transaction holds at most."""
_SWEEP_EVERY_MS = 60_000
_SWEEP_AT_MOST = 1_000
_STOPPING = "this process is stopping: try again at another one"
_SCHEMA = """
create table if not exists bucket (
    key text primary key, spent integer not null, at_ms integer not null, period_ms integer not null,
    ends_ms integer not null
) without rowid;
create index if not exists bucket_ends on bucket (ends_ms);
"""


class _Bucket(NamedTuple):
    """`spent` counts the tokens that are out, each as `period_ms` units: `capacity` units come back a millisecond."""

    spent: int
    at_ms: int
    period_ms: int

    def spent_at(self, now_ms: int, capacity: int, period_ms: int) -> int:
        spent = self.spent if self.period_ms == period_ms else -(-self.spent * period_ms // self.period_ms)
        return max(0, spent - max(0, now_ms - self.at_ms) * capacity)


class _Take(NamedTuple):
    """One take that is asked for, and who is told."""

    key: str
    cost: int
    capacity: int
    period_ms: int
    told: Callable[[Taken | Exception], None]


def open_buckets(file: Path, *, clock: Clock) -> Buckets:
    """The buckets in this file, which is opened on first use."""
    return SqliteBuckets(file, clock)


class SqliteBuckets:
    """One connection on a thread of its own, so that the event loop never waits for the file's lock.

    Nothing is synced to the disk: after a power cut buckets may be fuller than they were.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._swept_ms = 0
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "headgate-buckets")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Take] = []
        self._under_way: set[Future[Sequence[Taken]]] = set()
        """The transaction that is being done, if one is."""

    async def take(self, key: str, cost: int, capacity: int, period_ms: int) -> Taken:
        """See `Buckets.take`."""
        return await self.begin(key, cost, capacity, period_ms, lambda taken: taken)

    def begin(self, key: str, cost: int, capacity: int, period_ms: int, read: Callable[[Taken], T]) -> Future[T]:
        """See `Posting.begin`."""
        if not 1 <= cost <= capacity:
            raise ValueError("a cost is at least 1 and at most what the bucket holds")
        loop = self._on_this_loop()
        ended: Future[T] = loop.create_future()

        def told(taken: Taken | Exception) -> None:
            if ended.done():
                return  # whoever waited was cancelled
            if isinstance(taken, Exception):
                ended.set_exception(type(taken)(*taken.args))
            else:
                ended.set_result(read(taken))

        self._waiting.append(_Take(key, cost, capacity, period_ms, told))
        if len(self._waiting) == 1 and not self._under_way:
            loop.call_soon(self._hand_over)  # with all that come in this turn of the loop
        return ended

    async def close(self) -> None:
        """See `Buckets.close`."""
        self._on_this_loop()
        while self._under_way or self._waiting:
            self._hand_over()
            await asyncio.wait(self._under_way)
        self._thread.submit(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    # --- on the event loop -----------------------------------------------------------------------

    def _on_this_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Of one that has ended nobody waits any more, and nobody tells when its takes are done."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._waiting, self._under_way = [], set()
        return loop

    def _hand_over(self) -> None:
        """Begins a transaction for those who wait, unless one is under way: its end begins the next."""
        if self._under_way or not self._waiting:
            return
        takes, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
        taking = asyncio.get_running_loop().run_in_executor(self._thread, self._take, takes)
        self._under_way.add(taking)
        taking.add_done_callback(partial(self._tell, takes))

    def _tell(self, takes: Sequence[_Take], taking: Future[Sequence[Taken]]) -> None:
        self._under_way.discard(taking)
        self._hand_over()
        error = None if taking.cancelled() else taking.exception()
        if error is not None or taking.cancelled():
            for take in takes:
                take.told(error if isinstance(error, Exception) else Unavailable(_STOPPING))
            return
        for take, taken in zip(takes, taking.result(), strict=True):
            take.told(taken)

    # --- on the thread ---------------------------------------------------------------------------

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _take(self, takes: Sequence[_Take]) -> Sequence[Taken]:
        """All of them in their order, in one transaction."""
        with self._writing() as connection:
            now = self._clock()
            held = _held(connection, list({take.key for take in takes}))
            rows: dict[str, tuple[Any, ...]] = {}
            taken = [_taken(take, held, rows, now) for take in takes]
            if rows:
                connection.execute(_replace(len(rows)), [*chain.from_iterable(rows.values())])
            self._sweep(connection, now)
        return taken

    def _sweep(self, connection: sqlite3.Connection, now: int) -> None:
        """Now and then removes buckets that are full again."""
        if 0 <= now - self._swept_ms < _SWEEP_EVERY_MS:
            return
        connection.execute(
            "delete from bucket where key in (select key from bucket where ends_ms <= ? limit ?)",
            (now, _SWEEP_AT_MOST),
        )
        self._swept_ms = now

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the file's write lock from its start."""
        try:
            connection = self._opened()
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(
                "the state file can't be used now: look at the data folder's disk and permissions"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                turn_to_wal(connection)
                connection.execute("pragma synchronous = normal")
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _held(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, _Bucket]:
    rows = connection.execute(_select(len(keys)), keys).fetchall()
    return {key: _Bucket(*bucket) for key, *bucket in rows}


def _taken(take: _Take, held: dict[str, _Bucket], rows: dict[str, tuple[Any, ...]], now: int) -> Taken:
    """What comes of one take; `held` and, where it is another one, `rows` have its bucket as it is afterwards."""
    bucket = held.get(take.key) or _Bucket(0, now, take.period_ms)
    spent = bucket.spent_at(now, take.capacity, take.period_ms)
    over = spent + (take.cost - take.capacity) * take.period_ms
    if over <= 0:
        spent += take.cost * take.period_ms
    if over <= 0 or now < bucket.at_ms:
        held[take.key] = _Bucket(spent, now, take.period_ms)
        rows[take.key] = (take.key, *held[take.key], now - (-spent // take.capacity))
    remaining = max(0, take.capacity - -(-spent // take.period_ms))
    return Taken(over <= 0, remaining, max(0, -(-over // take.capacity)))


@cache
def _select(many: int) -> str:
    return f"select key, spent, at_ms, period_ms from bucket where key in ({', '.join('?' * many)})"


@cache
def _replace(many: int) -> str:
    return f"replace into bucket values {', '.join(['(?, ?, ?, ?, ?)'] * many)}"
