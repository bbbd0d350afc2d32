"""What agents are served of a database is in the record: each definition and each generation, from the first one on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from headgate.audit.kinds import CATALOG_TYPE, CatalogEvent
from headgate.audit.publisher import CALLS_TOPIC
from headgate.model.entity import Entity
from tests.ways.asking import all_records
from tests.ways.deployment import headgate, reader_of, ready, until, write_config
from tests.ways.operating import BASICS, command, operator


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


class Told(NamedTuple):
    """One event of the catalog, in few words."""

    kind: str
    fields: tuple[str, ...]
    """Of the definition that it has; none where it has its digest alone."""
    build: str
    generation: int


def write(folder: Path, more: str = "") -> Path:
    source = f"{BASICS}pipelines:\n  shop: {{source: {{kind: sqlite, path: shop.db}}}}\n"
    return write_config(folder, f"{source}entities:\n  customer: {{from: shop.main.customers{more}}}\n")


def told(config: Path) -> list[Told]:
    """What the log has of the catalog, in its order."""
    _, app = reader_of(config)
    try:
        log = app.log(app.events_log)
        records = all_records(log) if log.end([CALLS_TOPIC.name]) else []
    finally:
        app.close()
    events = [msgspec.json.decode(record.value or b"", type=_Envelope) for record in records]
    return [
        _in_words(msgspec.json.decode(each.data, type=CatalogEvent)) for each in events if each.type == CATALOG_TYPE
    ]


def kinds(config: Path) -> list[str]:
    return [each.kind for each in told(config)]


def _in_words(event: CatalogEvent) -> Told:
    assert (event.pipeline, event.entity) == ("shop", "customer")
    definition = event.definition.json
    fields = () if definition is msgspec.UNSET else msgspec.json.decode(definition, type=Entity).fields
    return Told(event.kind, tuple(field.name for field in fields), event.build, event.generation)


def test_what_is_served_is_in_the_record_as_it_changes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as owner:
        owner.execute("create table customers (id integer primary key, email text)")
        owner.execute("insert into customers values (7, 'ada@shop.example')")
        config = write(tmp_path)
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            with operator(tmp_path, process.url(), "shop") as ops:
                owner.execute("alter table customers add column plan text")
                owner.execute("insert into customers values (8, 'bob@shop.example', 'vip')")
                until(lambda: ops.values("customer", 8).get("plan") == "vip")
                until(lambda: kinds(config)[3:] == ["switched"])  # an altered table is read again
                command(tmp_path, "pipeline", "resnapshot", "shop", "main.customers")
                until(lambda: kinds(config)[4:] == ["switched"])
        first = told(config)
        write(tmp_path, ", lookups: [email]")
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            until(lambda: kinds(config)[5:] == ["changed", "switched"])
        second = told(config)
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
        assert told(config) == second, "a start that changes nothing tells nothing"

    (defined, switched, changed, *again) = first
    build = defined.build
    assert defined == Told("defined", ("id", "email"), build, 0)
    assert changed == Told("changed", ("id", "email", "plan"), build, 0)
    assert [each.kind for each in again] == ["switched"] * 2 and {each.build for each in (switched, *again)} == {build}
    generations = [each.generation for each in (switched, *again)]
    assert generations == sorted(set(generations)) and generations[0] > 0
    assert second[:5] == first
    (indexed, shown) = second[5:]
    assert indexed.build == shown.build != build
