"""What the kinds whose topics others fill have in common: learning what their tables are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headgate.connections.registry import Registry
from headgate.errors import ChangeRejected, HeadgateError, MissingExtra
from headgate.model.entity import Declared
from headgate.model.finding import Finding
from headgate.model.table import ColumnType, Table
from headgate.sources._wire.samples import declared
from headgate.sources.base import Decoder, Surroundings

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro


class Learning(Decoder, Protocol):
    """A decoder that also learns what its table is."""

    has_news: bool
    """Whether a schema has come that was not known before. Whoever takes note of it sets it back."""

    @property
    def has_rows(self) -> bool:
        """Whether rows without a schema have come since `learnt` was asked."""

    def learn_key(self, key: bytes) -> None:
        """Takes the table's key from a record's. Undecodable when it has none."""

    def learnt(self, known: Table) -> Table:
        """The table by the record that was decoded last."""


class Learnt:
    """What is known of one table. Any thread may ask, one at a time."""

    def __init__(self, name: str, topic: str, sampler: Learning, said: Declared | None, key: tuple[str, ...]) -> None:
        """`key` is the key that the source's settings name, if they do."""
        self.name = name
        self.topic = topic
        self.sampler = sampler
        self.decoder: Learning | None = None
        """The one that decodes all records now."""
        self._said = said
        self._key = key or (said.key if said is not None else None) or ()
        self._table: Table | None = None

    def table(self, known: Table | None, surroundings: Surroundings) -> Table | None:
        """The table as it is known by now; None while it has no column or no key."""
        decoder, found = self.decoder, self._table
        if found is None or (decoder is not None and decoder.has_news):
            if decoder is not None:
                decoder.has_news = False
            found = self._by_samples(found or known or self._declared(), surroundings)
        if decoder is not None and decoder.has_rows:
            found = decoder.learnt(found)
        if not found.key or not found.columns:
            return None
        self._table = found
        return found

    def _by_samples(self, table: Table, surroundings: Surroundings) -> Table:
        """The newest record decides: when old records are read again, so are old schemas."""
        for sample in surroundings.sample(self.topic):
            try:
                if sample.key is not None and not self._key:
                    self.sampler.learn_key(sample.key)
                if self.sampler.change(sample.key, sample.value) is not None:
                    table = self.sampler.learnt(table)
            except ChangeRejected:
                continue
        return table

    def _declared(self) -> Table:
        fields = {} if self._said is None else self._said.fields
        return declared(self.name, self._key, {name: field.type for name, field in fields.items()})


def types_of(said: Sequence[Declared], table: str) -> Mapping[str, ColumnType]:
    """What the config says of the fields of a table, in any entity."""
    found: dict[str, ColumnType] = {}
    for entity in said:
        if entity.table == table:
            found |= {name: field.type for name, field in entity.fields.items() if field.type is not None}
    return found


def said_of(said: Sequence[Declared], table: str) -> Declared | None:
    """The first entity of a table."""
    return next((entity for entity in said if entity.table == table), None)


def open_avro(registry: Registry | None) -> Avro | None:
    """A reader of Avro. MissingExtra without its library."""
    if registry is None:
        return None
    try:
        from headgate.sources._wire.avro import Avro
    except ModuleNotFoundError as error:
        raise MissingExtra("avro", "fastavro") from error
    return Avro(registry)


def open_registry(name: str | None, connections: Mapping[str, Any]) -> Registry | None:
    """The registry that a source's settings name."""
    return None if name is None else Registry(connections[name])


def examine(part: str, learnt: Sequence[Learnt], surroundings: Surroundings) -> list[Finding]:
    """What `check` and `doctor` say of topics that others fill."""
    findings = []
    for each in learnt:
        try:
            samples = surroundings.sample(each.topic)
            table = each.table(None, surroundings)
        except HeadgateError as error:
            findings.append(Finding(level="error", part=part, message=error.message, mend="see the message"))
            continue
        if not samples:
            message = f"the topic {each.topic} holds no record that could be read, or is not there"
            findings.append(Finding(level="warning", part=part, message=message, mend="see whether anyone fills it"))
        if table is None:
            mend = "declare the entity's key and fields, or wait for records with a key"
            findings.append(
                Finding(level="warning", part=part, message=f"{each.name}: its key is not known", mend=mend)
            )
        else:
            findings.append(
                Finding(level="ok", part=part, message=f"{each.name}: {len(table.columns)} columns, from {each.topic}")
            )
    return findings
