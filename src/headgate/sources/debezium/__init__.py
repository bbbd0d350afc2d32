"""The source kind `debezium`: topics that a Debezium connector on Kafka Connect fills.

Its connectors for PostgreSQL, MySQL and MariaDB, with records as JSON, with or without inline schemas, and as Avro
by a schema registry, told apart record by record. Nothing is put anywhere, and nothing is captured by us.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from headgate.errors import HeadgateError
from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources._wire.feed import Learnt, examine, open_avro, open_registry, said_of, types_of
from headgate.sources.base import Pulse, Surroundings
from headgate.sources.debezium.beats import row_time, topic_time
from headgate.sources.debezium.config import Config
from headgate.sources.debezium.decoder import DebeziumDecoder
from headgate.sources.debezium.unread import examine_unread, modes_of

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro
    from headgate.sources.debezium.connector import Examined

CONNECTIONS: Mapping[str, Sequence[str]] = {"registry": ("registry",), "connect": ("connect",)}

__all__ = ["CONNECTIONS", "Config", "DebeziumFeed", "default_schema", "open_feed"]


def default_schema(config: Config) -> str:
    """The schema of a table that is named without one."""
    return "public"


def open_feed(config: Config, pipeline: str, surroundings: Surroundings) -> DebeziumFeed:
    """A feed of one connector's topics. Asks nobody yet."""
    return DebeziumFeed(config, surroundings)


class DebeziumFeed:
    """Implements `Feed`."""

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config = config
        self._surroundings = surroundings
        self._registry = open_registry(config.registry, surroundings.connections)
        self._decoders: dict[str, DebeziumDecoder] = {}

    @cached_property
    def _avro(self) -> Avro | None:
        return open_avro(self._registry)

    @cached_property
    def _learnt(self) -> dict[str, Learnt]:
        said = self._surroundings.declared
        return {
            table: Learnt(table, self._config.topic_of(table), self._new_decoder(table), said_of(said, table), ())
            for table in self._config.tables
        }

    def topics(self) -> Mapping[str, str]:
        """See `Feed`."""
        return {table: self._config.topic_of(table) for table in self._config.tables}

    def histories(self) -> Collection[str]:
        """See `Feed`."""
        return ()

    def tables(self, known: Mapping[str, Table] | None = None) -> Sequence[Table]:
        """See `Feed`."""
        found = (each.table((known or {}).get(name), self._surroundings) for name, each in self._learnt.items())
        return [table for table in found if table is not None]

    def decoder(self, table: str) -> DebeziumDecoder:
        """See `Feed`."""
        if table not in self._decoders:
            self._learnt[table].decoder = self._decoders[table] = self._new_decoder(table)
        return self._decoders[table]

    def pulse(self) -> Pulse | None:
        """See `Feed`. A beat from the topic is the connector's word; one from the table has come the whole way."""
        heartbeat = self._config.heartbeat
        if heartbeat is None:
            return None
        if heartbeat.topic is not None:
            return Pulse(topic=heartbeat.topic, time_of=topic_time(self._avro))
        assert heartbeat.table is not None  # the config has one of them
        decoder = DebeziumDecoder(heartbeat.table, self._avro, {}, None)
        return Pulse(topic=self._config.topic_of(heartbeat.table), time_of=row_time(decoder))

    def diagnose(self) -> Sequence[Finding]:
        """See `Feed`."""
        part = f"source {self.describe()}"
        connector = self._examine_connector(part)
        return [
            *examine(part, list(self._learnt.values()), self._surroundings),
            *self._diagnose_unread(part, {} if connector is None else connector.settings),
            *self._diagnose_heartbeat(part),
            *([] if connector is None else [connector.finding]),
        ]

    def describe(self) -> str:
        """See `Feed`."""
        return f"Debezium's topics {self._config.topic_prefix}.*"

    def close(self) -> None:
        """See `Feed`."""
        if self._registry is not None:
            self._registry.close()

    def _new_decoder(self, table: str) -> DebeziumDecoder:
        types = types_of(self._surroundings.declared, table)
        return DebeziumDecoder(table, self._avro, types, self._config.decimals)

    def _diagnose_unread(self, part: str, connector: Mapping[str, str]) -> list[Finding]:
        """Topics that can't be asked have findings of their own."""
        modes = modes_of(self._config, connector)
        findings: list[Finding] = []
        for table, topic in self.topics().items():
            try:
                values = [sample.value for sample in self._surroundings.sample(topic)]
            except HeadgateError:
                continue
            findings += examine_unread(part, topic, values, types_of(self._surroundings.declared, table), modes)
        return findings

    def _examine_connector(self, part: str) -> Examined | None:
        if self._config.connect is None or self._config.connector is None:
            return None
        from headgate.sources.debezium.connector import examine_connector  # asks over HTTP: for doctor alone

        cluster = self._surroundings.connections[self._config.connect]
        return examine_connector(part, cluster, self._config.connector)

    def _diagnose_heartbeat(self, part: str) -> list[Finding]:
        pulse = self.pulse()
        if pulse is None or pulse.topic is None:
            mend = (
                "give the connector heartbeat.interval.ms and heartbeat.action.query, and name the table in `heartbeat`"
            )
            return [Finding(level="warning", part=part, message="no heartbeat: freshness will be unknown", mend=mend)]
        times = (pulse.time_of(sample.key, sample.value) for sample in self._surroundings.sample(pulse.topic))
        if any(time is not None for time in times):
            return [Finding(level="ok", part=part, message=f"heartbeats are there, in {pulse.topic}")]
        mend = "give the connector heartbeat.interval.ms, and the table, if that is named, to table.include.list"
        message = f"there is no heartbeat in {pulse.topic}: freshness will be unknown"
        return [Finding(level="warning", part=part, message=message, mend=mend)]
