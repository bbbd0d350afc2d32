"""The config that `headgate init` writes can be loaded, and says what it saw."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from headgate.config import parse
from headgate.draft import draft, pipeline_name, source_block
from headgate.errors import ConfigError
from headgate.model.derive import derive, entity_name
from headgate.model.entity import Declared
from headgate.model.table import Column, ForeignKey, Table

CUSTOMERS = Table(
    name="public.customers",
    columns=tuple(Column(name=name, type="string") for name in ("id", "name", "email", "plan", "no", "weird name")),
    key=("id",),
    unique=(("email",),),
)
ORDERS = Table(
    name="public.orders",
    columns=(
        Column(name="id", type="integer"),
        Column(name="customer_id", type="integer"),
        Column(name="placed_at", type="timestamp"),
    ),
    key=("id",),
    indexed=(("placed_at",),),
    foreign_keys=(ForeignKey(columns=("customer_id",), table="public.customers", refers_to=("id",)),),
)
KEYLESS = Table(name="public.audit", columns=(Column(name="line", type="string"),), key=())


def test_the_draft_loads_and_holds_keys_lookups_relations_and_classes() -> None:
    kind, settings, password = source_block("postgresql://app:hunter2@db:5432/web-shop")
    text = draft("shop", kind, settings, [CUSTOMERS, ORDERS, KEYLESS])
    assert password == "hunter2"
    assert "hunter2" not in text
    assert "public.audit is left out: it has no primary key" in text
    config = parse(text, Path("headgate.yaml"), {"HEADGATE_SOURCE_PASSWORD": "hunter2"})
    customer, order = config.pipelines["shop"].entities
    assert (customer.name, customer.key, customer.lookups) == ("customer", ("id",), ("email",))
    assert {name: field.classification for name, field in customer.fields.items()} == {
        "name": "personal.name",
        "email": "personal.email",
    }
    assert order.sorted == ("placed_at",)
    assert order.relations is not None
    assert order.relations["customer"].entity == "customer"
    assert customer.relations is not None
    assert (customer.relations["orders"].target_field, customer.relations["orders"].many) == ("customer_id", True)
    assert (
        config.pipelines["shop"].source.settings.dsn.get_secret_value() == "postgresql://app:hunter2@db:5432/web-shop"
    )


@pytest.mark.parametrize(
    ("url", "kind", "settings"),
    [
        ("sqlite:///shop.db", "sqlite", {"path": "shop.db"}),
        ("sqlite:////var/lib/shop.db", "sqlite", {"path": "/var/lib/shop.db"}),
        ("postgres://app@db/shop?sslmode=require", "postgres", {"dsn": "postgres://app@db/shop?sslmode=require"}),
        ("mariadb://app@db/shop", "mysql", {"dsn": "mariadb://app@db/shop"}),
    ],
)
def test_a_url_becomes_a_source(url: str, kind: str, settings: dict[str, str]) -> None:
    assert source_block(url) == (kind, settings, None)


@pytest.mark.parametrize("url", ["oracle://db/shop", "shop.db", "sqlite:///", ""])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        source_block(url)


def test_names() -> None:
    assert pipeline_name("postgresql://h/Web Shop") == "web-shop"
    assert pipeline_name("sqlite:////tmp/9lives.db") == "db-9lives"
    tables = ("customers", "categories", "addresses", "boxes", "status", "people", "glass", "data")
    singular = ["customer", "category", "address", "box", "status", "person", "glass", "data"]
    assert [entity_name(f"s.{table}") for table in tables] == singular


def test_an_entity_is_keyed_as_its_table_is() -> None:
    declared = Declared(name="customer", pipeline="shop", table="public.customers", key=("email",))
    with pytest.raises(ConfigError, match=r"'customer'.*: id"):
        derive([declared], {"public.customers": CUSTOMERS}, {})
    (entity,) = derive([msgspec.structs.replace(declared, key=("id",))], {"public.customers": CUSTOMERS}, {})
    assert entity.key == ("id",)
