"""Reads the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from headgate.model.entity import Entity
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Watermark
from headgate.stores._catalog import is_live, pending
from headgate.stores._query import merged, plan_of
from headgate.stores.base import Count, Joined, JoinQuery, Query, Reader, Rows
from headgate.stores.sqlite.joins import count_of, joined
from headgate.stores.sqlite.scan import looked_up, page_of
from headgate.stores.sqlite.snapshot import Snapshot, Snapshots, Ticket, Visible
from headgate.stores.sqlite.tables import rows_of

T = TypeVar("T")


def open_reader(target: Path) -> Reader:
    """A reader of the file, which need not be there yet: until then there is no entity."""
    return SqliteReader(target)


class SqliteReader:
    """Answers short reads at once, on the caller's thread; those that may be long, on a worker's."""

    def __init__(self, target: Path) -> None:
        self._short = Snapshots(target)
        self._long = Snapshots(target)

    async def entities(self) -> Mapping[str, Entity]:
        """The definitions, as they are now."""
        with self._short.take() as snapshot:
            return snapshot.catalog().entities() if snapshot else {}

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these keys."""
        with _visible(self._short, entity) as (snapshot, visible):
            found = rows_of(snapshot.connection, visible.space, [key for key in keys if key.isascii()])
        rows = (found.get(key) for key in keys)
        live = [row for row in rows if row is not None and is_live(row, visible.watermark.partitions)]
        return Rows(rows=live, watermark=visible.watermark)

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """The rows under these values."""
        with _visible(self._short, entity) as (snapshot, visible):
            found = looked_up(snapshot.connection, visible, field, values, limit)
        return merged(found, limit, visible.watermark)

    async def find(self, entity: str, query: Query) -> Rows:
        """One page, found on a worker's thread."""
        return await _on_a_worker(partial(self._find, entity, query))

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands."""
        with _visible(self._short, entity) as (_, visible):
            return visible.watermark

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to."""
        with self._short.take() as snapshot:
            if snapshot is None:
                raise pending(entity)
            return joined(snapshot, entity, query)

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """How many rows there are, by the count that is kept with them; with values, counted on a worker's thread."""
        if equals:
            return await _on_a_worker(partial(self._count, entity, equals, most))
        with _visible(self._short, entity) as (snapshot, visible):
            return Count(rows=snapshot.count(visible))

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters."""
        with self._short.take() as snapshot:
            return snapshot.dead_letters(pipeline, limit) if snapshot else ([], 0)

    async def close(self) -> None:
        """Closes the file."""
        self._short.close()
        self._long.close()

    def _find(self, entity: str, query: Query, ticket: Ticket) -> Rows:
        with _visible(self._long, entity, ticket) as (snapshot, visible):
            plan = plan_of(visible.definition.indexes, query)
            return page_of(snapshot.connection, visible, plan, query)

    def _count(self, entity: str, equals: Mapping[str, Any], most: int, ticket: Ticket) -> Count:
        with _visible(self._long, entity, ticket) as (snapshot, visible):
            return count_of(snapshot.connection, visible, equals, most)


async def _on_a_worker(work: Callable[[Ticket], T]) -> T:
    """What the work answers. A reader that is cancelled ends it where it is, and waits for nothing."""
    ticket = Ticket()
    try:
        return await anyio.to_thread.run_sync(work, ticket, abandon_on_cancel=True)
    except asyncio.CancelledError:
        ticket.take_back()
        raise


@contextmanager
def _visible(snapshots: Snapshots, entity: str, ticket: Ticket | None = None) -> Iterator[tuple[Snapshot, Visible]]:
    """A snapshot and what it shows of the entity. UnknownEntity or SnapshotPending."""
    with snapshots.take(ticket) as snapshot:
        if snapshot is None:
            raise pending(entity)
        yield snapshot, snapshot.visible(entity)
