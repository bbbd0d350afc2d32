"""Where something stands in the log, and how fresh that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from headgate.model.change import Sequence


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


Position: TypeAlias = Mapping[Partition, int]
"""Per partition, the offset up to which something holds: the next one to read, not the last one read."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a store knows of one partition of one entity's build: written with the rows, in one step.

    A writer states the progress it expects and the one it leaves; the store compares the whole of it,
    fence included, so that a re-delivered batch and a zombie both change nothing.
    """

    offset: int = 0
    """The next offset to apply."""
    log: str = ""
    """The identity of the topic that `offset` counts in: a recreated one counts anew."""
    awaiting: bool = False
    """Whether changes are passed over until a newer snapshot begins, as the log has lost what came before."""
    fence: int = 0
    """Grows with every claim; only the last claimant's writes are taken."""
    generation: int = 0
    """The snapshot generation that rows now go to; 0 before the first one."""
    ended: bool = False
    """Whether the snapshot's end marker has been applied."""
    target: int = 0
    """Where the log ended when this build began to be filled: before it readers would go back in time."""
    complete: bool = False
    """`ended` and at `target`: this partition holds all of `generation`, so that readers may be switched."""
    epoch: int = 0
    """Grows with every truncate: rows of an older epoch are gone."""
    high_water: Sequence | None = None
    """The newest source sequence applied; what is strictly older is dropped."""
    as_of_ms: int = 0
    """The source's time up to which this partition is known to be whole; 0 when never known."""


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """The positions an answer was read at: rows and watermark come from one snapshot of the store."""

    entity: str
    generation: int
    partitions: dict[int, Progress]

    @property
    def as_of_ms(self) -> int:
        """The stalest partition's time: 0 (never known) if any partition has none."""
        return min([progress.as_of_ms for progress in self.partitions.values()], default=0)


FreshnessState = Literal["fresh", "stale", "snapshotting", "stopped", "unknown"]
_MOST_AHEAD_MS = 5_000
"""So far two clocks that are kept right may be apart."""


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind its source an answer may be. What `_meta["headgate/freshness"]` carries."""

    state: FreshnessState
    as_of_ms: int | None
    staleness_ms: int | None
    position: dict[str, dict[str, int]]
    """entity → partition → offset."""
    bound_ms: int


def judge(as_of_ms: int, now_ms: int, bound_ms: int) -> tuple[FreshnessState, int | None]:
    """Fresh, stale or unknown, and by how many milliseconds.

    A source's clock a little ahead of ours counts as 0. Further ahead nothing can be told: with a clock that was set
    back, a pipeline that is silent since then would count as fresh until it is that time again.
    """
    if as_of_ms <= 0 or as_of_ms - now_ms > _MOST_AHEAD_MS:
        return "unknown", None
    staleness_ms = max(0, now_ms - as_of_ms)
    return ("stale" if staleness_ms > bound_ms else "fresh"), staleness_ms
