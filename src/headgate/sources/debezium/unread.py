"""Records without a schema: the fields of which nobody can tell what they are, as `check` and `doctor` name them.

A precise decimal comes as base64 of its digits, without their scale, and a time as a number without its unit: what the
config declares is read or refused (`unsaid`), and whatever it does not declare is answered as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from headgate.model.change import UNAVAILABLE
from headgate.model.finding import Finding
from headgate.model.table import Doubt
from headgate.sources.debezium.config import Config
from headgate.sources.debezium.envelope import Envelope

_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})")
_MALFORMED: Final = (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError)
_MOST_NAMED: Final = 12

_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_row = msgspec.json.Decoder(dict[str, Any] | None).decode


class Modes(NamedTuple):
    """What the connector may write, by all that is known of its settings."""

    decimals: bool
    """Decimals as bytes."""
    times: bool
    """Times as numbers."""


def modes_of(config: Config, connector: Mapping[str, str]) -> Modes:
    """`connector` are its settings, as far as Kafka Connect tells them."""
    handling = connector.get("decimal.handling.mode", "precise")
    precision = connector.get("time.precision.mode", "adaptive")
    return Modes(config.decimals == "precise" and handling == "precise", precision != "isostring")


def doubt_of(value: Any, modes: Modes) -> Doubt:
    """What a value of a field that nobody has declared may be in truth."""
    parts = _parts(value)
    if not parts:
        return ""
    if modes.decimals and all(map(_may_be_bytes, parts)):
        return "decimal"
    return "time" if modes.times and all(map(_may_be_a_time, parts)) else ""


def examine_unread(
    part: str, topic: str, values: Iterable[bytes | None], declared: Collection[str], modes: Modes
) -> list[Finding]:
    """Names the fields of a topic that nobody has declared, and that may be decimals' bytes or times' numbers."""
    seen = _seen(values)
    unsaid = {name: found for name, found in seen.items() if name not in declared}
    said = [
        *(_named("bytes of decimals", unsaid, _may_be_bytes) if modes.decimals else ()),
        *(_named("numbers of times", unsaid, _may_be_a_time) if modes.times else ()),
    ]
    if not said:
        return []
    message = f"records in {topic} carry no schema, so that these fields are answered as they came, and may be "
    mend = (
        "let the converter send schemas; or set decimal.handling.mode=string and time.precision.mode=isostring at the "
        "connector (`connect` and `connector` let us see it); or declare their types in the entity's `fields`"
    )
    return [Finding(level="warning", part=part, message=message + ", or ".join(said), mend=mend)]


def _seen(values: Iterable[bytes | None]) -> dict[str, list[Any]]:
    """Per field the values of those records that carry no schema."""
    found: dict[str, list[Any]] = {}
    for value in values:
        for name, each in _row_of(value).items():
            found.setdefault(name, []).extend(_parts(each))
    return found


def _row_of(value: bytes | None) -> Mapping[str, Any]:
    if value is None or not value.startswith(b"{") or value.startswith(b'{"schema":'):
        return {}
    try:
        return _decode_row(_decode_envelope(value).after) or {}
    except _MALFORMED:
        return {}


def _parts(value: Any) -> list[Any]:
    """What stands in a field, or in its array."""
    return [each for each in (value if isinstance(value, list) else [value]) if each not in (None, UNAVAILABLE)]


def _named(what: str, seen: Mapping[str, list[Any]], may_be: Any) -> Iterator[str]:
    names = [name for name, values in seen.items() if values and all(map(may_be, values))]
    if names:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"{what}: {', '.join(names[:_MOST_NAMED])}{more}"


def _may_be_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == {"scale", "value"}
    return isinstance(value, str) and _BASE64.fullmatch(value) is not None


def _may_be_a_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
