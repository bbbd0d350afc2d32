"""What the suite says of stores: an entity, a writer's bookkeeping, rows as a test writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headgate import plugins
from headgate.model.entity import Entity, Field
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores.base import Reader, Write, Writer

GENERATION = 10

CUSTOMER = Entity(
    name="customer",
    pipeline="shop",
    table="public.customers",
    key=("id",),
    fields=(
        Field(name="id", type="integer"),
        Field(name="email", type="string"),
        Field(name="plan", type="string"),
        Field(name="number", type="integer"),
        Field(name="paid", type="boolean"),
        Field(name="balance", type="decimal"),
        Field(name="seen", type="timestamp"),
        Field(name="note", type="string"),
    ),
    lookups=("email", "plan", "number", "paid"),
    sorted=("balance", "seen"),
    partitions=2,
)
ORDER = Entity(
    name="order line",
    pipeline="shop",
    table="public.lines",
    key=("order", "line"),
    fields=(Field(name="order", type="string"), Field(name="line", type="integer")),
)


class Store:
    """A store under test."""

    def __init__(self, kind: str, target: Any) -> None:
        self.kind = kind
        self.target = target
        self._module = plugins.load("stores", kind)
        self._writers: list[Writer] = []
        self._readers: list[Reader] = []

    def writer(self, *entities: Entity) -> Writer:
        """A writer that has defined these entities."""
        writer = self.silent_writer(*entities)
        writer.define(entities)
        return writer

    def silent_writer(self, *entities: Entity) -> Writer:
        """A writer that has not."""
        writer: Writer = self._module.open_writer(self.target, entities)
        self._writers.append(writer)
        return writer

    def reader(self) -> Reader:
        """A new reader."""
        reader: Reader = self._module.open_reader(self.target)
        self._readers.append(reader)
        return reader

    def feed(self, entity: Entity = CUSTOMER) -> Feed:
        """A writer of the entity, with all its partitions claimed."""
        return Feed(self.writer(entity), entity)

    def beside(self, name: str = "beside") -> Store:
        """Another empty store of the kind, on the same server."""
        if self.kind == "sqlite":
            return Store(self.kind, self.target.with_name(f"{name}.db"))
        setting = "prefix" if self.kind == "redis" else "store_schema"
        own = f"{getattr(self.target, setting)}_{name}"
        return Store(self.kind, self.target.model_copy(update={setting: own}))

    async def close(self) -> None:
        """Closes everything that was opened."""
        for writer in self._writers:
            writer.close()
        for reader in self._readers:
            await reader.close()


class Feed:
    """Keeps the progress that a materializer would keep."""

    def __init__(self, writer: Writer, entity: Entity) -> None:
        self.writer = writer
        self.entity = entity
        self.progress = writer.claim(entity.name, range(entity.partitions))

    def write(
        self,
        partition: int,
        puts: Mapping[str, Mapping[str, Any]] | None = None,
        deletes: Iterable[str] = (),
        flaws: Mapping[str, str] | None = None,
        letters: Sequence[DeadLetter] = (),
        **changes: Any,
    ) -> Write:
        """One partition's next step; rows go to GENERATION unless told otherwise."""
        expected = self.progress[partition]
        changes = {"offset": expected.offset + 1, "generation": max(expected.generation, GENERATION), **changes}
        return Write(
            entity=self.entity.name,
            partition=partition,
            expected=expected,
            progress=msgspec.structs.replace(expected, **changes),
            puts={key: json.dumps(row).encode() for key, row in (puts or {}).items()},
            deletes=frozenset(deletes),
            flaws=flaws or {},
            dead_letters=letters,
        )

    def apply(self, *writes: Write) -> None:
        """Applies, and goes on from there."""
        self.writer.apply(writes)
        for write in writes:
            self.progress[write.partition] = write.progress

    def put(self, *rows: Mapping[str, Any], **changes: Any) -> None:
        """Rows in the partitions of their keys, in one step."""
        writes = [
            self.write(number, {str(row["id"]): row for row in rows if self.partition(row["id"]) == number}, **changes)
            for number in range(self.entity.partitions)
        ]
        self.apply(*writes)

    def partition(self, key: Any) -> int:
        """Where a key lies."""
        return int(key) % self.entity.partitions

    def complete(self, generation: int = GENERATION) -> bool:
        """Declares a generation whole in every partition, and shows it to readers."""
        numbers = range(self.entity.partitions)
        self.apply(*(self.write(number, generation=generation, complete=True) for number in numbers))
        return self.writer.switch(self.entity.name, generation)

    def show(self, *rows: Mapping[str, Any]) -> None:
        """Rows that readers see."""
        self.put(*rows)
        assert self.complete()


def customer(id_: int, **fields: Any) -> dict[str, Any]:
    """A customer's row."""
    return {"id": id_, "email": f"c{id_}@example.org", "plan": "free", "balance": "0.00", **fields}


def keys(rows: Iterable[Row]) -> list[str]:
    """The rows' keys."""
    return [row.key for row in rows]


def values(rows: Iterable[Row]) -> dict[str, Any]:
    """The rows' JSON by key."""
    return {row.key: json.loads(row.json) for row in rows}


def letter(offset: int, time_ms: int, **changes: Any) -> DeadLetter:
    """A dead letter of the customers' topic."""
    whole = DeadLetter(
        pipeline="shop",
        entity="customer",
        topic="shop.public.customers",
        partition=0,
        offset=offset,
        key=b'{"id":1}',
        value=b"\xff not JSON",
        headers=(("h", b"\x00"),),
        code="change_undecodable",
        message="the record is no JSON",
        time_ms=time_ms,
    )
    return msgspec.structs.replace(whole, **changes)


FRESH = Progress()
