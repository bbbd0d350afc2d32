"""A small shop: the entities, rows and pipeline that tools are tried on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from headgate.access.view import View
from headgate.model.entity import Entity, Field, Relation
from headgate.model.pipeline import DeadLetter, Fault, Half, PipelineInfo, PipelineState, Report
from headgate.model.position import Progress
from headgate.testing import NOW_MS, MemoryReader, MemoryState, view_of
from headgate.tools.base import Result, Tool, discover

Draft202012Validator: Any = import_module("jsonschema").Draft202012Validator
"""jsonschema comes without types."""

CUSTOMER = Entity(
    name="customer",
    pipeline="shop",
    table="main.customers",
    key=("id",),
    fields=(
        Field(name="id", type="integer", nullable=False),
        Field(name="email", type="string", classification="personal.email", description="Where to write to."),
        Field(name="plan", type="string"),
        Field(name="profile", type="json"),
    ),
    lookups=("email", "plan"),
    relations=(
        Relation(name="orders", entity="order", field="id", target_field="customer_id", many=True),
        Relation(name="nowhere", entity="hidden", field="id", target_field="id", many=True),
    ),
    description="Someone who buys.",
    partitions=4,
)
ORDER = Entity(
    name="order",
    pipeline="shop",
    table="main.orders",
    key=("id",),
    fields=(
        Field(name="id", type="integer", nullable=False),
        Field(name="customer_id", type="integer"),
        Field(name="total", type="decimal"),
        Field(name="placed_at", type="timestamp"),
        Field(name="status", type="string"),
    ),
    lookups=("customer_id", "status"),
    sorted=("placed_at", "total"),
    relations=(
        Relation(name="customer", entity="customer", field="customer_id", target_field="id", many=False),
        Relation(name="lines", entity="order_line", field="id", target_field="order_id", many=True),
    ),
)
LINE = Entity(
    name="order_line",
    pipeline="shop",
    table="main.order_lines",
    key=("order_id", "sku"),
    fields=(
        Field(name="order_id", type="integer", nullable=False),
        Field(name="sku", type="string", nullable=False),
        Field(name="amount", type="integer"),
    ),
    lookups=("order_id",),
)
ENTITIES = (CUSTOMER, ORDER, LINE)

SHOP = PipelineInfo(
    name="shop",
    source_kind="sqlite",
    source="shop.db",
    log_kind="sqlite",
    store_kind="sqlite",
    tables=("main.orders", "main.customers"),
    entities=("order", "customer", "order_line"),
)

ROWS: dict[str, list[dict[str, Any]]] = {
    "customer": [
        {"id": 7, "email": "ada@shop.example", "plan": "vip", "profile": {"visits": 2**60}, "secret_column": "x"},
        {"id": 8, "email": "bob@shop.example", "plan": "free", "profile": None},
        {"id": 9, "email": "eve@shop.example", "plan": "vip", "profile": None},
    ],
    "order": [
        {"id": number, "customer_id": 7 if number % 2 else 8, "total": f"{number * 10}.50",
         "placed_at": f"2026-11-{number:02d}T10:00:00Z", "status": "paid" if number < 5 else "open"}
        for number in range(1, 9)
    ],
    "order_line": [
        {"order_id": 1, "sku": "a,b", "amount": 1},
        {"order_id": 1, "sku": "c", "amount": 2},
        {"order_id": 2, "sku": "c", "amount": 3},
    ],
}  # fmt: skip


def reader(as_of_ms: int = NOW_MS - 500) -> MemoryReader:
    """A store that holds the shop, fresh unless told otherwise."""
    return MemoryReader(ENTITIES, ROWS, as_of_ms=as_of_ms)


def report(half: Half, state: PipelineState = "running", **more: Any) -> Report:
    """What one process says of its half of the shop's pipeline."""
    given = {"pipeline": "shop", "process": f"{half}-1", "time_ms": NOW_MS, **more}
    return Report(half=half, state=state, **given)


def running() -> MemoryState:
    """A state in which both halves run."""
    state = MemoryState()
    state.report(report("capture", events_per_s=120.0, bytes_per_s=9_000.0, lag_ms=3, last_event_ms=NOW_MS - 1_000))
    state.report(
        report(
            "materialize", events_per_s=80.0, bytes_per_s=6_000.0, lag_records=4_000, lag_ms=50_000,
            last_event_ms=NOW_MS - 2_000, batch_size=500, flush_interval_ms=20.0,
        )
    )  # fmt: skip
    return state


def fault(code: str = "schema_mismatch") -> Fault:
    """Why a half stands still."""
    return Fault(code=code, message="The table was altered: mend the entity.", since_ms=NOW_MS - 60_000)


def letter(offset: int = 1, **more: Any) -> DeadLetter:
    """A change of an order that did not fit."""
    given: dict[str, Any] = {
        "pipeline": "shop", "entity": "order", "topic": "shop.main.orders", "partition": 0, "offset": offset,
        "key": b'{"id":9007199254740993}', "value": b'{"total":"raw payload"}', "code": "schema_mismatch",
        "message": "total is no decimal", "time_ms": NOW_MS - 1_000 + offset, **more,
    }  # fmt: skip
    return DeadLetter(**given)


def progress(as_of_ms: int, **more: Any) -> Progress:
    """One partition's progress."""
    return Progress(**{"offset": 10, "generation": 1, "complete": True, "as_of_ms": as_of_ms, **more})


def shop_view(store: MemoryReader | None = None, state: MemoryState | None = None, **more: Any) -> View:
    """A view of the shop for a caller who may do everything."""
    return view_of(store or reader(), state=state or running(), pipelines=[SHOP], **more)


def tool(name: str) -> Tool:
    """A tool as the server finds it."""
    return discover({entity.name: entity for entity in ENTITIES})[name]


async def call(name: str, arguments: Mapping[str, Any], view: View | None = None) -> Result:
    """Calls a tool, and holds what it was given and what it answers against its schemas."""
    called = tool(name)
    Draft202012Validator(called.input_schema).validate(arguments)
    result = await called.run(view or shop_view(), arguments)
    Draft202012Validator(called.output_schema).validate(result.structured)
    return result
