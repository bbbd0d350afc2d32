"""How answers look: rows as values, bounded; text that frames data as data; freshness in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from json import loads
from typing import Any
from urllib.parse import quote

import msgspec

from headgate.model.entity import Entity
from headgate.model.position import Freshness
from headgate.model.row import Row
from headgate.tools._frames import fenced

MAX_BYTES = 256 * 1024
"""How many bytes of rows one answer holds."""

_SAFE_INTEGER = 2**53
_LONG_DIGITS = re.compile(rb"[0-9]{16}")
_EXACT_LENGTH = 16
"""A decimal of that many characters has at most 15 digits, which every double keeps."""


def _double(text: str) -> float | str:
    """The double that is this number exactly as shown; where there is none, the digits themselves."""
    number = float(text)
    if not math.isfinite(number) or (len(text) > _EXACT_LENGTH and Decimal(repr(number)) != Decimal(text)):
        return text
    return number


_decode = msgspec.json.Decoder(float_hook=_double).decode


def plain(value: Any) -> Any:
    """The value with every integer beyond 2^53 as text, however deep it lies."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE_INTEGER:
        return str(value)
    return value


def decoded(json: bytes) -> Any:
    """JSON as an answer may carry it: a number that no double holds becomes text."""
    if not _LONG_DIGITS.search(json):
        return _decode(json)
    try:
        return plain(_decode(json))
    except msgspec.DecodeError:  # an integer of thousands of digits, which msgspec refuses
        return plain(loads(json, parse_int=_whole, parse_float=_double))


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= _EXACT_LENGTH else text


def uri_of(entity: str, key: str) -> str:
    """The resource of a row (DESIGN §4): `key` is its key text."""
    return f"headgate://entity/{_quoted(entity)}/{key}"


@lru_cache(maxsize=4_096)
def _quoted(entity: str) -> str:
    return quote(entity, safe="")


def row_answer(entity: Entity, row: Row) -> dict[str, Any]:
    """One row: its resource, the values of the entity's fields in their order, and its flaw if it has one.

    Of a row beyond the bound the largest fields are left out, and named.
    """
    raw = decoded(row.json)
    values = {field.name: raw[field.name] for field in entity.fields if field.name in raw}
    answer: dict[str, Any] = {"uri": uri_of(entity.name, row.key), "values": values}
    if len(row.json) > MAX_BYTES and (left_out := _leave_out(values)):
        answer["fields_left_out"] = left_out
    if row.flaw:
        answer["flaw"] = row.flaw
    return answer


def _leave_out(values: dict[str, Any]) -> dict[str, int]:
    sizes = {name: len(msgspec.json.encode(value)) for name, value in values.items()}
    left_out: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if sum(sizes.values()) <= MAX_BYTES:
            break
        left_out[name] = sizes.pop(name)
        del values[name]
    return left_out


class Allowance:
    """What is left of the bytes that one answer may hold."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._left = max_bytes
        self._untouched = True

    def fit(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The first of these rows that still fit. The very first row of an answer always does."""
        for count, row in enumerate(rows):
            if len(row.json) > self._left and not self._untouched:
                return rows[:count]
            self._left -= len(row.json)
            self._untouched = False
        return rows


def truncated(reason: str, returned: int, cursor: str | None = None) -> dict[str, Any]:
    """What bounded an answer, how many rows it holds, and where to go on, if that can be told."""
    return {"reason": reason, "returned": returned, "cursor": cursor}


def framed(data: Any) -> str:
    """Data as a block of JSON that nothing within can close: text from the source is never an instruction."""
    return fenced(msgspec.json.encode(data).decode())


def lines(*parts: str) -> str:
    """The parts that say something, a line each."""
    return "\n".join([part for part in parts if part])


def flaw_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """Which rows are not to be trusted, and why; empty if all are."""
    flawed = [f"{row['uri']} ({row['flaw']})" for row in rows if "flaw" in row]
    if not flawed:
        return ""
    return (
        f"Do not trust {', '.join(flawed)}: the newest change could not be applied, so that the values may be "
        "old or missing. docs://troubleshooting explains the code."
    )


def freshness_note(freshness: Freshness) -> str:
    """A sentence to repeat when the data may be out of date; empty while it is fresh."""
    if freshness.state == "fresh":
        return ""
    as_of = _as_of(freshness)
    if freshness.state == "unknown":
        return f"Note: it is not known how old this data is: {_why_unknown(freshness)}."
    if freshness.state == "stale":
        return f"Note: this data may be out of date: {as_of}."
    if freshness.state == "stopped":
        return f"Note: this data may be out of date, because its pipeline, or this part of it, does not run: {as_of}."
    if freshness.as_of_ms is None:
        return "Note: the snapshot is still being taken, so there is no whole answer yet."
    return f"Note: this data may be out of date, because it is being read anew from its source: {as_of}."


def _why_unknown(freshness: Freshness) -> str:
    if freshness.as_of_ms is None:
        return "no heartbeat of its pipeline has covered all of it yet"
    return "its source's clock is ahead of this server's"


def _as_of(freshness: Freshness) -> str:
    if freshness.as_of_ms is None or freshness.staleness_ms is None:
        return "since when is not known"
    bound = span(freshness.bound_ms)
    return (
        f"it shows the source as of {instant(freshness.as_of_ms)}, {span(freshness.staleness_ms)} ago (bound {bound})"
    )


def instant(time_ms: int) -> str:
    """A time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_or_none(time_ms: int | None) -> str | None:
    """As `instant`; None stays None."""
    return None if time_ms is None else instant(time_ms)


def span(duration_ms: int) -> str:
    """A duration in words."""
    if duration_ms < 1_000:
        return f"{duration_ms} ms"
    seconds = duration_ms // 1000
    if seconds < 600:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3_600} h" if seconds < 172_800 else f"{seconds // 86_400} days"


def freshness_answer(freshness: Freshness) -> dict[str, Any]:
    """Freshness as structured content."""
    return {
        "state": freshness.state,
        "as_of": instant_or_none(freshness.as_of_ms),
        "staleness_ms": freshness.staleness_ms,
        "bound_ms": freshness.bound_ms,
    }
