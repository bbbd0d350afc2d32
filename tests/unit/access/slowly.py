"""A store that takes its time by a clock of its own, and looks no further at once than it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headgate.access.deadline import ReadingLimits, ReadingTime
from headgate.stores.base import Count, Query, Reader, Rows


class Slowly:
    """Another reader, each look of which takes a second and finds at most `most` rows."""

    def __init__(self, reader: Reader, most: int = 1_000_000) -> None:
        self._reader = reader
        self._most = most
        self.seconds = 0
        """How long it has looked."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def reading(self, answer_s: float, scan_s: float = 1_000) -> ReadingTime:
        """So long for each call, by this store's clock."""
        return ReadingTime(ReadingLimits(answer_s=answer_s, scan_s=scan_s), lambda: self.seconds * 1_000_000_000)

    async def find(self, entity: str, query: Query) -> Rows:
        """See `Reader.find`."""
        self.seconds += 1
        query = msgspec.structs.replace(query, limit=min(query.limit, self._most))
        return await self._reader.find(entity, query)

    async def count(self, entity: str, equals: Mapping[str, Any] | None = None, most: int = 10_000) -> Count:
        """See `Reader.count`."""
        self.seconds += 1
        return await self._reader.count(entity, equals=equals, most=most)
