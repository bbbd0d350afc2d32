"""A small house of several tenants, on a real store, and what a policy lets callers see of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from headgate import plugins
from headgate.access.deadline import ReadingTime
from headgate.access.policy import Edition, Policy
from headgate.access.view import View
from headgate.errors import HeadgateError
from headgate.model.access import Given
from headgate.model.caller import READ_SCOPES, Caller, Grant
from headgate.model.derive import derive
from headgate.model.entity import Declared, DeclaredField, DeclaredRelation, Entity
from headgate.model.pipeline import PipelineInfo
from headgate.model.row import key_text
from headgate.model.table import Column, ColumnType, Table
from headgate.server.toolbox import Toolbox
from headgate.stores import sqlite
from headgate.stores.base import Reader, Write, Writer
from headgate.testing import MemoryState, fixed_clock
from headgate.tools._completions import Begun, complete
from headgate.tools._prompts import PROMPTS
from headgate.tools._resources import SHELVES, read_resource
from headgate.tools.base import Result

KEY = b"k" * 32
ROW_URIS = "headgate://entity/{entity}/{key}"
GENERATION = 10
PIPELINE = PipelineInfo(
    name="shop", source_kind="sqlite", source="s", log_kind="sqlite", store_kind="sqlite", tables=(), entities=()
)


def _table(name: str, key: tuple[str, ...], columns: Mapping[str, ColumnType]) -> Table:
    return Table(name=name, key=key, columns=tuple(Column(name=each, type=type_) for each, type_ in columns.items()))


TABLES = {
    table.name: table
    for table in (
        _table("main.customers", ("id",), {
            "id": "integer", "tenant": "string", "region": "string", "email": "string", "plan": "string",
            "score": "integer", "born": "date", "pin": "string", "fresh": "string",
        }),
        _table("main.orders", ("id",), {
            "id": "integer", "tenant": "string", "customer_id": "integer", "total": "decimal", "status": "string",
        }),
        _table("main.notes", ("tenant", "n"), {"tenant": "string", "n": "integer", "text": "string"}),
    )
}  # fmt: skip
DECLARED = (
    Declared(
        name="customer", pipeline="shop", table="main.customers",
        lookups=("tenant", "region", "email", "plan"), sorted=("score", "born"),
        fields={
            "email": DeclaredField(classification="personal.email"), "pin": DeclaredField(classification="secret"),
            **{name: DeclaredField(classification="none") for name in ("tenant", "region", "plan", "score", "born")},
        },
        relations={
            "orders": DeclaredRelation(entity="order", field="id", target_field="customer_id", many=True),
            "peers": DeclaredRelation(entity="customer", field="plan", target_field="plan", many=True),
        },
    ),
    Declared(
        name="order", pipeline="shop", table="main.orders",
        lookups=("tenant", "customer_id", "status"), sorted=("total",),
        relations={"customer": DeclaredRelation(entity="customer", field="customer_id", target_field="id")},
    ),
    Declared(name="note", pipeline="shop", table="main.notes", lookups=("tenant",), relations={}),
)  # fmt: skip
ENTITIES: dict[str, Entity] = {entity.name: entity for entity in derive(DECLARED, TABLES, {})}

TENANTS = ("acme", "birch", "cedar")
REGIONS = ("north", "south", "west")
PLANS = ("free", "vip")
ROWS: dict[str, list[dict[str, Any]]] = {
    "customer": [
        {
            "id": number, "tenant": TENANTS[number % 3], "region": REGIONS[number % 4 % 3],
            "email": f"user{number % 9}@{TENANTS[number % 3]}.example", "plan": PLANS[number % 2],
            "score": number * 7 % 10, "born": f"19{60 + number}-0{1 + number % 9}-15" if number % 5 else None,
            "pin": f"pin-{number:04d}", "fresh": f"new-{number}",
        }
        for number in range(1, 17)
    ],
    "order": [
        {
            "id": number, "tenant": TENANTS[(number % 16 + 1) % 3], "customer_id": number % 16 + 1,
            "total": f"{number * 13 % 50}.50", "status": ("open", "paid")[number % 3 == 0],
        }
        for number in range(1, 31)
    ],
    "note": [{"tenant": tenant, "n": n, "text": f"note {tenant} {n}"} for tenant in TENANTS for n in range(1, 4)],
}  # fmt: skip


def key_of(entity: str, row: Mapping[str, Any]) -> str:
    """A row's key text."""
    return key_text([row[name] for name in ENTITIES[entity].key])


def fill(kind: str, target: Any, house: Mapping[str, Sequence[Mapping[str, Any]]] = ROWS) -> None:
    """Writes all rows into an empty store."""
    writer: Writer = plugins.load("stores", kind).open_writer(target, tuple(ENTITIES.values()))
    try:
        writer.define(tuple(ENTITIES.values()))
        for name, rows in house.items():
            (number, progress), *_ = writer.claim(name, [0]).items()
            done = msgspec.structs.replace(
                progress, offset=1, generation=GENERATION, complete=True, as_of_ms=fixed_clock()()
            )
            puts = {key_of(name, row): json.dumps(row).encode() for row in rows}
            writer.apply([Write(entity=name, partition=number, expected=progress, progress=done, puts=puts)])
            assert writer.switch(name, GENERATION)
    finally:
        writer.close()


class Governed:
    """Callers' tools over one reader, under one policy's document."""

    def __init__(self, reader: Reader, text: str, reading: ReadingTime | None = None) -> None:
        self.reader = reader
        self.edition = Edition.of(text)
        self.policy = Policy(self.edition, KEY)
        self.toolbox = Toolbox(reader, self.policy.lenses)
        self._view = View(
            reader, MemoryState(), [PIPELINE], self.grant(caller()), fixed_clock(), self.policy.lenses, reading=reading
        )

    def grant(self, who: Caller) -> Grant:
        """What the policy gives."""
        return self.policy.decide(who)

    def view(self, who: Caller, tool: str) -> View:
        """The caller's view by a tool."""
        return self._view.with_grant(self.grant(who), tool)

    async def call(self, who: Caller, tool: str, **arguments: Any) -> Result:
        """A tool's answer. KeyError if there is no such tool for this caller."""
        called = (await self.toolbox.tools(self.grant(who)))[tool]
        return await called.run(self.view(who, tool), arguments)

    async def rows(self, who: Caller, tool: str, **arguments: Any) -> dict[str, dict[str, Any]]:
        """The values of the rows that a tool answers, by key text."""
        answer = (await self.call(who, tool, **arguments)).structured
        return {row["uri"].rpartition("/")[2]: row["values"] for row in answer["rows"]}

    async def pages(self, who: Caller, limit: int, **arguments: Any) -> list[tuple[str, dict[str, Any]]]:
        """All pages of a find, put together; each is full but for the last."""
        found: list[tuple[str, dict[str, Any]]] = []
        cursor = None
        while True:
            answer = (await self.call(who, "find", limit=limit, cursor=cursor, **arguments)).structured
            found += [(row["uri"].rpartition("/")[2], row["values"]) for row in answer["rows"]]
            cursor = answer.get("truncated", {}).get("cursor")
            if cursor is None:
                return found
            assert len(answer["rows"]) == limit, "a page is full although rows are hidden"

    async def completed(self, who: Caller, argument: str, entity: str = "") -> list[str]:
        """How an entity's name, or a key of one, that nobody has begun may go on in a row's URI."""
        begun = Begun(template=ROW_URIS, argument=argument, given={"entity": entity})
        found = await complete(lambda tool: self.view(who, tool), begun, PROMPTS, SHELVES)
        assert found.total == len(found.values)
        return list(found.values)

    async def read(self, who: Caller, entity: str, key: str) -> dict[str, Any] | None:
        """A row as a resource; None where there is none."""
        try:
            contents = await read_resource(self.view(who, "lookup"), f"headgate://entity/{entity}/{key}")
        except HeadgateError:
            return None
        values: dict[str, Any] = json.loads(contents.text)["values"]
        return values


@contextmanager
def filled_reader(file: Path, house: Mapping[str, Sequence[Mapping[str, Any]]] = ROWS) -> Iterator[Reader]:
    """A reader of an embedded store that is filled first, for a fixture that is no coroutine."""
    fill("sqlite", file, house)
    reader = sqlite.open_reader(file)
    try:
        yield reader
    finally:
        asyncio.run(reader.close())


@asynccontextmanager
async def reading(kind: str, target: Any) -> AsyncIterator[Reader]:
    """A reader of a filled store, for this event loop."""
    reader: Reader = plugins.load("stores", kind).open_reader(target)
    try:
        yield reader
    finally:
        await reader.close()


def caller(subject: str = "ada", **more: Any) -> Caller:
    """A caller with every read scope."""
    given: dict[str, Any] = {"method": "jwt", "scopes": READ_SCOPES, "issuer": "i", **more}
    return Caller(subject=subject, **given)


def rules_of(grant: Grant) -> tuple[Given, ...]:
    """What a grant under a document was given."""
    assert grant.given is not None
    return grant.given
