"""Records as a real connector wrote them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

_RECORDED = json.loads((Path(__file__).parent / "debezium.json").read_text(encoding="utf-8"))


class Recorded(NamedTuple):
    """One record. `topic` is without the connector's prefix."""

    topic: str
    key: bytes | None
    value: bytes | None


def recorded(form: str) -> list[Recorded]:
    """The records of one format: `plain` JSON, `inline` schemas, `avro`."""
    return [Recorded(topic, _bytes(form, topic, "key", key), _bytes(form, topic, "value", value))
            for topic, key, value in _RECORDED[form]]  # fmt: skip


def avro_schemas() -> dict[int, str]:
    """The registered schemas of the records in Avro, by id."""
    return {int(number): text for number, text in _RECORDED["avro_schemas"].items()}


def _bytes(form: str, topic: str, part: str, text: Any) -> bytes | None:
    if text is None or form == "plain":
        return None if text is None else str(text).encode()
    if form == "avro":
        return base64.b64decode(text)
    schema = _RECORDED["inline_schemas"].get(f"{topic} {part}")
    return str(text).encode() if schema is None else f'{{"schema":{schema},"payload":{text}}}'.encode()
