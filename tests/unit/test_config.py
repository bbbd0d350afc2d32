"""A config is checked whole; each mistake is named with file, line and mend, and never quotes a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.config import Config, load, parse
from headgate.errors import ConfigError

GOOD = """\
data: data
server: {port: 9000}
connections:
  main: {kind: kafka, bootstrap_servers: "kafka:9092"}
  cache: {kind: redis, url: "${REDIS_URL:-redis://cache:6379/0}"}
pipelines:
  shop:
    source: {kind: postgres, dsn: "postgresql://app:${SHOP_PASSWORD}@db/shop", tables: [customers]}
    log: main
    store: cache
entities:
  customer:
    from: shop.customers
    lookups: [email]
    fields: {email: {class: personal.email}}
"""
SECRET = "hunter2-the-secret"
ENVIRONMENT = {"SHOP_PASSWORD": SECRET}


def parsed(text: str) -> Config:
    return parse(text, Path("/etc/headgate.yaml"), ENVIRONMENT)


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert SECRET not in caught.value.message
    return caught.value.message.splitlines()


def test_a_good_config() -> None:
    config = parsed(GOOD)
    shop = config.pipelines["shop"]
    assert (shop.source.kind, shop.log, shop.store, config.state) == ("postgres", "main", "cache", "cache")
    assert shop.source.settings.dsn.get_secret_value() == f"postgresql://app:{SECRET}@db/shop"
    assert shop.entities[0].table == "public.customers", "the source's default schema is filled in"
    assert shop.entities[0].fields["email"].classification == "personal.email"
    assert config.data == Path("/etc/data")
    assert config.server.port == 9000


def test_no_secret_is_ever_shown() -> None:
    assert SECRET not in repr(parsed(GOOD))


def test_a_default_and_a_number_from_the_environment() -> None:
    config = parse("server:\n  port: ${PORT:-8001}", None, {"PORT": ""})
    assert config.server.port == 8001
    assert parse("server: {port: '${PORT}'}", None, {"PORT": "8002"}).server.port == 8002


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("port: 9000", "prot: 9000"), 2, "server.prot: is not a setting here"),
        (("port: 9000", "port: 99999"), 2, "server.port: input should be less than or equal to 65535"),
        (("port: 9000", "port: soon"), 2, "server.port: input should be a valid integer"),
        (("server:", "servers:"), 2, "servers: is not a setting here; there are: access, audit, connections"),
        (("kind: kafka,", "kind: kafak,"), 4, "unknown kind 'kafak' of connections"),
        (("kind: kafka,", ""), 4, "needs a kind"),
        (('bootstrap_servers: "kafka:9092"', "acks: all"), 4, "acks: is not a setting here"),
        (('bootstrap_servers: "kafka:9092"', ""), 4, "bootstrap_servers: is needed here"),
        (("${SHOP_PASSWORD}", "${SHOP_PASSWROD}"), 8, "the environment has no SHOP_PASSWROD"),
        (("log: main", "log: mian"), 9, "there is no connection 'mian'; connections: main, cache"),
        (("log: main", "log: cache"), 9, "must be of kind kafka"),
        (("store: cache", "store: main"), 10, "must be of kind redis"),
        (("from: shop.customers", "from: shoop.customers"), 13, "begins with no pipeline's name; pipelines: shop"),
        (("from: shop.customers", "from: shop"), 13, "needs <pipeline>.<schema>.<table>"),
        (("  customer:", "  Customer Name:"), 12, "should match pattern"),
        (("lookups: [email]", "lookups: email"), 14, "entities.customer.lookups: input should be a valid list"),
        (("class: personal.email", "clas: personal.email"), 15, "fields.email.clas: is not a setting here"),
        (("server: {port: 9000}", "server: {port: 9000"), 3, "is no YAML"),
        (("data: data", "data: [a, b]"), 1, "data: input should be a valid string"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_mend(change: tuple[str, str], line: int, says: str) -> None:
    found = mistakes(GOOD.replace(*change, 1))
    assert any(says in each and each.startswith(f"/etc/headgate.yaml:{line}:") for each in found), found


def test_every_mistake_of_a_level_is_named_at_once() -> None:
    assert len(mistakes("serve: {}\ndatum: 1\naccess: {lokal: true}")) == 3


@pytest.mark.parametrize(
    "text", ["- a list", "just words", "a: b: c", "\tx: 1", "a: &x [*x]\nb: !!python/object:os.x y"]
)
def test_what_is_no_config_is_refused(text: str) -> None:
    assert mistakes(text)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headgate init"):
        load(tmp_path / "headgate.yaml", {})


def test_an_empty_config_is_the_embedded_default() -> None:
    config = parsed("")
    assert (config.pipelines, config.state, config.server.host) == ({}, None, "127.0.0.1")


def test_what_a_source_refers_to_is_checked_with_its_line() -> None:
    text = """\
connections:
  main: {kind: kafka, bootstrap_servers: "kafka:9092"}
pipelines:
  shop:
    source:
      kind: debezium
      topic_prefix: shop
      tables: [public.customers]
      registry: schemas
      connect: main
      connector: shop
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, None, {})
    said = str(caught.value)
    assert "config:9: pipelines.shop.source.registry: there is no connection 'schemas'" in said
    assert "config:10: pipelines.shop.source.connect: connection 'main' must be of kind connect" in said
    assert "config:4: pipelines.shop: needs log: a kafka connection" in said
