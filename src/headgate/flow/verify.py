"""Compares an entity's rows in the store with its table at the source, while changes flow.

First by checksums of buckets of keys, then key by key in the buckets that differ. A key is a difference only if
it stays one: its row at the source was the same before and after, the store had in between applied all that was
committed before, and still held something else.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from headgate.errors import Unavailable
from headgate.model.entity import Entity
from headgate.model.row import key_of_record
from headgate.sources.base import Source
from headgate.stores.base import Query, Reader

Kind = Literal["missing", "extra", "different"]
Outcome = Literal["same", "different", "unclear"]
Progress = Callable[[str, int], None]
"""Told what is being read, and how many rows of it so far."""

_BUCKETS: Final = 4_096
_PAGE: Final = 2_000
_PAGE_BYTES: Final = 4 * 1024 * 1024
_SHOWN: Final = 100
_ROUNDS: Final = 10
_ASK_EVERY_S: Final = 0.1

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One key whose row differs and stays different. `missing` is missing in the store, `extra` at the source."""

    key: str
    kind: Kind
    flaw: str = ""
    """The code of the dead letter that marks the stored row, if one does."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What came of comparing one entity."""

    entity: str
    rows: int
    """At the source, when it was read first."""
    differences: tuple[Difference, ...] = ()
    """The first hundred by key."""
    total: int = 0
    unsettled: int = 0
    """Keys that changed at each look, so that nothing can be said of them."""
    left_out: int = 0
    """Keys whose rows differed at first and were not looked at again, as there were too many."""

    @property
    def outcome(self) -> Outcome:
        """Whether a difference stayed; `unclear` when none did and there are keys of which nothing can be said."""
        if self.total:
            return "different"
        return "unclear" if self.unsettled or self.left_out else "same"


async def verified(
    source: Source,
    reader: Reader,
    pipeline: str,
    *,
    settle_s: float,
    progress: Progress,
) -> list[Verified]:
    """Compares each entity of a pipeline. Lets go of the reader."""
    try:
        entities = [entity for entity in (await reader.entities()).values() if entity.pipeline == pipeline]
        return [
            await Verification(source, reader, entity, settle_s=settle_s, progress=progress).run()
            for entity in entities
        ]
    finally:
        await reader.close()


class Verification:
    """One comparison. `settle_s`: how long the store may take to catch up with a look at the source.

    At most `most_suspects` rows that differ at first are looked at again.
    """

    def __init__(
        self,
        source: Source,
        reader: Reader,
        entity: Entity,
        *,
        settle_s: float,
        progress: Progress,
        most_suspects: int = 100_000,
    ) -> None:
        self._source = source
        self._reader = reader
        self._entity = entity
        self._settle_s = settle_s
        self._progress = progress
        self._most_suspects = most_suspects

    async def run(self) -> Verified:
        """Compares. Unavailable when the store does not catch up in time."""
        rows, buckets = await self._differing()
        differing = await self._suspects(buckets) if buckets else set()
        suspects = set(sorted(differing)[: self._most_suspects])
        left_out = len(differing) - len(suspects)
        found: dict[str, Difference] = {}
        for _ in range(_ROUNDS):
            if not suspects:
                break
            settled, suspects = await self._look_again(suspects)
            found |= settled
        shown = tuple(found[key] for key in sorted(found)[:_SHOWN])
        return Verified(
            entity=self._entity.name,
            rows=rows,
            differences=shown,
            total=len(found),
            unsettled=len(suspects),
            left_out=left_out,
        )

    async def _differing(self) -> tuple[int, set[int]]:
        """How many rows the source has, and the buckets whose checksums differ."""
        sums, rows = [0] * _BUCKETS, 0
        async for key, digest in self._at_source():
            sums[_bucket(key)] ^= digest
            rows += 1
        async for key, digest, _ in self._in_store():
            sums[_bucket(key)] ^= digest
        return rows, {bucket for bucket, checksum in enumerate(sums) if checksum}

    async def _suspects(self, buckets: set[int]) -> set[str]:
        """The keys in these buckets whose rows differ now."""
        seen: dict[str, int] = {}
        async for key, digest in self._at_source():
            if _bucket(key) in buckets:
                seen[key] = digest
        async for key, digest, _ in self._in_store():
            if _bucket(key) in buckets and seen.pop(key, None) != digest:
                seen[key] = 0
        return set(seen)

    async def _look_again(self, suspects: set[str]) -> tuple[dict[str, Difference], set[str]]:
        """The suspects that have shown to be differences, and those that changed meanwhile."""
        before = {key: digest async for key, digest in self._at_source() if key in suspects}
        asked_ms = await asyncio.to_thread(self._source.now_ms)  # what was seen was committed before
        await self._caught_up(asked_ms)
        stored = {key: (digest, flaw) async for key, digest, flaw in self._in_store() if key in suspects}
        after = {key: digest async for key, digest in self._at_source() if key in suspects}
        still = {key for key in suspects if before.get(key) != after.get(key)}
        settled = {
            key: _difference(key, key in after, stored.get(key))
            for key in suspects - still if after.get(key) != stored.get(key, (None, ""))[0]
        }  # fmt: skip
        return settled, still

    async def _caught_up(self, asked_ms: int) -> None:
        """Waits until the store is whole as of then, by the source's clock."""
        for _ in range(max(1, round(self._settle_s / _ASK_EVERY_S))):
            if (await self._reader.watermark(self._entity.name)).as_of_ms > asked_ms:
                return
            await asyncio.sleep(_ASK_EVERY_S)
        raise Unavailable(
            f"{self._entity.name} does not catch up with its source: see check_data_freshness, or give it longer"
        )

    async def _at_source(self) -> AsyncIterator[tuple[str, int]]:
        read = 0
        batches = self._source.scan(self._entity.table, _PAGE)
        while (rows := await asyncio.to_thread(_next, batches)) is not None:
            for key, row in rows:
                text = key_of_record(key, self._entity.key)
                yield text, _digest(text, row)
            read += len(rows)
            self._progress(f"{self._entity.name} at the source", read)

    async def _in_store(self) -> AsyncIterator[tuple[str, int, str]]:
        read, cursor = 0, None
        while True:
            page = await self._reader.find(self._entity.name, Query(limit=_PAGE, max_bytes=_PAGE_BYTES, after=cursor))
            for row in page.rows:
                yield row.key, _digest(row.key, row.json), row.flaw
            read += len(page.rows)
            self._progress(f"{self._entity.name} in the store", read)
            cursor = page.cursor
            if cursor is None:
                return


def _next(batches: Iterator[Sequence[tuple[bytes, bytes]]]) -> Sequence[tuple[bytes, bytes]] | None:
    return next(batches, None)


def _bucket(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % _BUCKETS


def _digest(key: str, row: bytes) -> int:
    """Of a row under its key, whatever the order of its members; never zero."""
    members = _encode_sorted(_decode(row))
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass") + b"\0" + members, digest_size=16)
    return int.from_bytes(digest.digest(), "big") | 1


def _difference(key: str, is_at_source: bool, stored: tuple[int, str] | None) -> Difference:
    kind: Kind = "missing" if stored is None else "different" if is_at_source else "extra"
    return Difference(key=key, kind=kind, flaw=stored[1] if stored else "")
