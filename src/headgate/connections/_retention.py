"""Whether a topic on Kafka keeps its records for as long as they are needed: a part of what `doctor` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from headgate.model.finding import Finding, Level
from headgate.model.keeping import Keeping


class _Wrong(NamedTuple):
    message: str
    setting: str
    value: object
    level: Level = "warning"


def judge(part: str, settings: Mapping[str, str], keeping: Keeping, message_max_bytes: int) -> list[Finding]:
    """What is wrong with a topic's settings, each with the one to set. Empty when it keeps what is needed."""
    policy = settings["cleanup.policy"]
    wrong = [
        *(_deleted(settings, keeping) if "delete" in policy else ()),
        *(_compacted(settings, keeping) if "compact" in policy else ()),
        *(_too_small(settings, message_max_bytes) if keeping.is_ours else ()),
    ]
    return [
        Finding(level=each.level, part=part, message=each.message, mend=f"set {each.setting}={each.value} on the topic")
        for each in wrong
    ]


def _deleted(settings: Mapping[str, str], keeping: Keeping) -> Iterator[_Wrong]:
    """What is forgotten by age or size."""
    by_size = int(settings["retention.bytes"]) >= 0
    if keeping.holds == "rows" and not keeping.is_ours:
        # Nobody can be asked for these rows but the topic: a table of our own capture is read again.
        if by_size or int(settings["retention.ms"]) >= 0:
            message = "cleanup.policy is delete: an entity that is filled anew lacks the rows whose records are gone"
            yield _Wrong(message, "cleanup.policy", "compact")
        return
    yield from _short("retention.ms", settings, keeping)
    if by_size and keeping.holds != "beats":
        yield _Wrong("retention.bytes may take records away before their time", "retention.bytes", -1)


def _compacted(settings: Mapping[str, str], keeping: Keeping) -> Iterator[_Wrong]:
    """What is forgotten because newer records of its key came, or because it removes a key."""
    if keeping.holds == "history":
        message = "cleanup.policy is compact: of each key only the last record stays, and all are needed"
        yield _Wrong(message, "cleanup.policy", "delete", "error")
    elif keeping.holds == "rows":
        if keeping.is_ours:
            yield from _short("min.compaction.lag.ms", settings, keeping)
        yield from _short("delete.retention.ms", settings, keeping)


def _short(name: str, settings: Mapping[str, str], keeping: Keeping) -> Iterator[_Wrong]:
    if 0 <= int(settings[name]) < keeping.retention_ms:
        message = f"{name} is {settings[name]}, shorter than the {keeping.retention_ms} ms that {keeping.because}"
        yield _Wrong(message, name, keeping.retention_ms)


def _too_small(settings: Mapping[str, str], message_max_bytes: int) -> Iterator[_Wrong]:
    if int(settings["max.message.bytes"]) < message_max_bytes:
        message = f"max.message.bytes is {settings['max.message.bytes']}, less than the connection's message_max_bytes"
        yield _Wrong(message, "max.message.bytes", message_max_bytes)
