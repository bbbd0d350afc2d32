"""What `doctor` says of a topic's settings, by what is read from it. Nothing is asked here."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.connections._retention import judge
from headgate.model.keeping import Keeping

DAY_MS = 86_400_000
DELETED = {
    "cleanup.policy": "delete",
    "retention.ms": str(30 * DAY_MS),
    "retention.bytes": "-1",
    "min.compaction.lag.ms": "0",
    "delete.retention.ms": str(DAY_MS),
    "max.message.bytes": "1048588",
}
COMPACTED = {**DELETED, "cleanup.policy": "compact"}


def mends(settings: dict[str, str], holds: Any, *, is_ours: bool, days: int = 7) -> list[tuple[str, str]]:
    keeping = Keeping(holds=holds, retention_ms=days * DAY_MS, because="Headgate replays", is_ours=is_ours)
    found = judge("topic t", settings, keeping, 1_000_000)
    assert all(each.part == "topic t" and each.message for each in found)
    return [(each.level, each.mend.removeprefix("set ").removesuffix(" on the topic")) for each in found]


@pytest.mark.parametrize(
    ("settings", "asked", "said"),
    [
        (DELETED, ("history", True), []),
        (DELETED, ("rows", True), []),
        (DELETED, ("beats", False), []),
        ({**DELETED, "retention.ms": "-1"}, ("rows", False), []),
        ({**DELETED, "retention.ms": "-1"}, ("history", True), []),
        # what a topic of others forgets, nobody else can tell
        (DELETED, ("rows", False), [("warning", "cleanup.policy=compact")]),
        (
            {**DELETED, "retention.ms": "-1", "retention.bytes": "9"},
            ("rows", False),
            [("warning", "cleanup.policy=compact")],
        ),
        ({**DELETED, "retention.ms": "9"}, ("history", False), [("warning", f"retention.ms={7 * DAY_MS}")]),
        ({**DELETED, "retention.ms": "9"}, ("beats", False), [("warning", f"retention.ms={7 * DAY_MS}")]),
        ({**DELETED, "retention.bytes": "9"}, ("history", True), [("warning", "retention.bytes=-1")]),
        ({**DELETED, "retention.bytes": "9"}, ("beats", True), []),
        # of each key the last one stays: that is all that beats and the rows of others need
        (COMPACTED, ("beats", True), []),
        (COMPACTED, ("rows", False), [("warning", f"delete.retention.ms={7 * DAY_MS}")]),
        (
            COMPACTED,
            ("rows", True),
            [
                ("warning", f"min.compaction.lag.ms={7 * DAY_MS}"),
                ("warning", f"delete.retention.ms={7 * DAY_MS}"),
            ],
        ),
        (COMPACTED, ("history", True), [("error", "cleanup.policy=delete")]),
        (COMPACTED, ("history", False), [("error", "cleanup.policy=delete")]),
        # how large a record may be concerns who writes it
        ({**DELETED, "max.message.bytes": "9"}, ("history", True), [("warning", "max.message.bytes=1000000")]),
        ({**DELETED, "max.message.bytes": "9"}, ("history", False), []),
    ],
)
def test_what_is_wrong_is_named_with_what_to_set(
    settings: dict[str, str], asked: tuple[str, bool], said: list[tuple[str, str]]
) -> None:
    holds, is_ours = asked
    assert mends(settings, holds, is_ours=is_ours) == said
