"""What a pipeline's `source:` block may hold for topics that Debezium fills."""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NOT_IN_A_TOPIC: Final = re.compile(r"[^A-Za-z0-9._-]")


class HeartbeatConfig(BaseModel):
    """Where heartbeats come from: a topic of its own, or a table that the connector itself writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = None
    """`__debezium-heartbeat.<topic_prefix>`, when the connector has `heartbeat.interval.ms`."""
    table: str | None = None
    """A table that its `heartbeat.action.query` writes: then a beat has come the whole way from the database."""

    @model_validator(mode="after")
    def _check(self) -> HeartbeatConfig:
        if (self.topic is None) == (self.table is None):
            raise ValueError("name either a topic or a table")
        return self


class Config(BaseModel):
    """Which topics to read, and what to know of the connector that fills them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic_prefix: str = Field(min_length=1)
    """The connector's `topic.prefix`."""
    tables: list[str] = Field(min_length=1)
    """`schema.table`, for MySQL and MariaDB `database.table`."""
    topics: dict[str, str] = {}
    """Table → topic, for tables whose records a transform sends elsewhere than to `<topic_prefix>.<table>`."""
    registry: str | None = None
    """The connection of the schema registry, where records are Avro."""
    heartbeat: HeartbeatConfig | None = None
    """How freshness is told; unset, it is unknown."""
    decimals: Literal["precise", "string", "double"] = "precise"
    """The connector's `decimal.handling.mode`, where records come without schemas."""
    connect: str | None = None
    """The connection of the Kafka Connect cluster that the connector runs on, which `doctor` asks of it."""
    connector: str | None = None
    """Its name there."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        unknown = sorted(self.topics.keys() - set(self.tables))
        if unknown:
            raise ValueError(f"topics names tables that are not in `tables`: {', '.join(unknown)}")
        if (self.connector is None) != (self.connect is None):
            raise ValueError("connect and connector go together")
        return self

    def topic_of(self, table: str) -> str:
        """The topic of a table's changes. Debezium writes `_` for what a topic's name may not hold."""
        return self.topics.get(table) or _NOT_IN_A_TOPIC.sub("_", f"{self.topic_prefix}.{table}")
