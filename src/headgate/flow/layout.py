"""How tables lie in the log: which topic is under a name, and over how many partitions it spreads its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headgate.log.base import Log


class Layout(NamedTuple):
    """One topic, as it is. Where either differs, a key's changes may lie elsewhere than those before."""

    identity: str
    partitions: int


def layouts(log: Log, topics: Sequence[str]) -> dict[str, Layout]:
    """The layout of each existing topic. Raises what the log raises."""
    counts, identities = log.partitions(topics), log.identities(topics)
    return {topic: Layout(identity, counts[topic]) for topic, identity in identities.items() if topic in counts}
