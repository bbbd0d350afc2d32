"""The source kind `topic`: any Kafka topic, its records upserted by key into an entity, or kept as the latest of a key.

A table of such a source is `topic.<name>`, by the names that its settings give to topics. A record's value is a JSON
object, or Avro by a schema registry; one without a value removes its row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources._wire.feed import Learnt, examine, open_avro, open_registry, said_of
from headgate.sources.base import Pulse, Surroundings
from headgate.sources.topic.decoder import TopicDecoder

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro

CONNECTIONS: Mapping[str, Sequence[str]] = {"registry": ("registry",)}

__all__ = ["CONNECTIONS", "Config", "TopicFeed", "default_schema", "open_feed"]

_SCHEMA = "topic"


class TopicConfig(BaseModel):
    """One topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str = Field(min_length=1)
    key: list[str] = Field(min_length=1)
    """The fields that name a row: of the value, or else of the record's key; one field may be the whole key."""
    latest: int | None = Field(default=None, ge=1, le=1_000)
    """Keeps so many of the newest records of each key in one row, instead of one record a row."""


class Config(BaseModel):
    """Which topics to read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topics: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")], TopicConfig] = Field(min_length=1)
    """By the name of the table that each becomes."""
    format: Literal["json", "avro"] = "json"
    registry: str | None = None
    """The connection of the schema registry, for `avro`."""
    freshness: Literal["unknown", "log"] = "unknown"
    """`log`: answers are as fresh as the topics are read; nobody says how fresh the topics are."""


def default_schema(config: Config) -> str:
    """The schema of a table that is named without one."""
    return _SCHEMA


def open_feed(config: Config, pipeline: str, surroundings: Surroundings) -> TopicFeed:
    """A feed of some topics. Asks nobody yet."""
    return TopicFeed(config, surroundings)


class TopicFeed:
    """Implements `Feed`."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config = config
        self._surroundings = surroundings
        self._registry = open_registry(config.registry, surroundings.connections)
        self._decoders: dict[str, TopicDecoder] = {}

    @cached_property
    def _avro(self) -> Avro | None:
        return open_avro(self._registry)

    @cached_property
    def _learnt(self) -> dict[str, Learnt]:
        return {
            table: Learnt(
                table,
                each.topic,
                self._new_decoder(table),
                said_of(self._surroundings.declared, table),
                tuple(each.key),
            )
            for table, each in self._topics().items()
        }

    def topics(self) -> Mapping[str, str]:
        """See `Feed`."""
        return {table: each.topic for table, each in self._topics().items()}

    def histories(self) -> Collection[str]:
        """See `Feed`."""
        return [table for table, each in self._topics().items() if each.latest is not None]

    def tables(self, known: Mapping[str, Table] | None = None) -> Sequence[Table]:
        """See `Feed`."""
        found = (each.table((known or {}).get(name), self._surroundings) for name, each in self._learnt.items())
        return [table for table in found if table is not None]

    def decoder(self, table: str) -> TopicDecoder:
        """See `Feed`."""
        if table not in self._decoders:
            self._learnt[table].decoder = self._decoders[table] = self._new_decoder(table)
        return self._decoders[table]

    def pulse(self) -> Pulse | None:
        """See `Feed`."""
        return Pulse(topic=None) if self._config.freshness == "log" else None

    def diagnose(self) -> Sequence[Finding]:
        """See `Feed`."""
        return examine(f"source {self.describe()}", list(self._learnt.values()), self._surroundings)

    def describe(self) -> str:
        """See `Feed`."""
        return f"topics {', '.join(sorted(set(self.topics().values())))}"

    def close(self) -> None:
        """See `Feed`."""
        if self._registry is not None:
            self._registry.close()

    def _topics(self) -> Mapping[str, TopicConfig]:
        return {f"{_SCHEMA}.{name}": each for name, each in self._config.topics.items()}

    def _new_decoder(self, table: str) -> TopicDecoder:
        settings = self._topics()[table]
        avro = self._avro if self._config.format == "avro" else None
        return TopicDecoder(table, tuple(settings.key), settings.latest or 0, avro)
