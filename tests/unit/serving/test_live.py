"""What of a changed config a running process takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.config import Config, parse
from headgate.serving.live import merged

BASE = """\
server: {port: 1}
access: {local: true}
pipelines:
  shop: {source: {kind: sqlite, path: shop.db}}
"""


def config(text: str = BASE) -> Config:
    return parse(text, Path("/x/headgate.yaml"), {})


def changed(old: str, new: str) -> Config:
    assert old in BASE
    return config(BASE.replace(old, new))


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (changed("local: true", "local: false"), "access"),
        (changed("local: true", "budgets: {read: 7}"), "access"),
        (changed("local: true", "policy: p.yaml, policy_key: " + "k" * 32), "access"),
        (changed("port: 1", "port: 1, allowed_hosts: [a.example]"), "server.allowed_hosts"),
        (changed("port: 1", "port: 1, limits: {connections: 7}"), "server.limits"),
        (config(BASE + "audit: {results: whole}\n"), "audit.results"),
        (changed("shop.db}}", "shop.db}, freshness_bound_s: 5}"), "pipelines.shop.freshness_bound_s"),
    ],
)
@pytest.mark.parametrize("flows", [True, False])
def test_what_concerns_calls_is_taken(found: Config, place: str, flows: bool) -> None:
    assert merged(config(), found, flows=flows) == (found, (place,), ())


@pytest.mark.parametrize(
    ("found", "place"),
    [
        (changed("port: 1", "port: 2"), "server.port"),
        (changed("port: 1", "port: 1, host: 0.0.0.0"), "server.host"),
        (changed("port: 1", "port: 1, tls: {cert: a, key: b}"), "server.tls"),
        (config(BASE + "data: elsewhere\n"), "data"),
        (config(BASE + "audit: {outbox_max_gb: 1}\n"), "audit.outbox_max_gb"),
        (config(BASE + 'connections: {cache: {kind: redis, url: "redis://h"}}\n'), "connections"),
        (changed("path: shop.db", "path: other.db"), "pipelines.shop or its entities"),
    ],
)
def test_what_is_open_waits(found: Config, place: str) -> None:
    assert merged(config(), found, flows=False) == (config(), (), (place,))


def test_files_of_a_certificate_may_become_others() -> None:
    before = changed("port: 1", "port: 1, tls: {cert: a, key: b}")
    after = changed("port: 1", "port: 1, tls: {cert: c, key: d}")
    assert merged(before, after, flows=False) == (after, ("server.tls",), ())


@pytest.mark.parametrize("flows", [True, False])
def test_entities_and_pipelines_come_and_go(flows: bool) -> None:
    entity = config(BASE + "entities: {customer: {from: shop.customers}}\n")
    another = config(BASE + "  more: {source: {kind: sqlite, path: more.db}}\n")
    for found, place in ((entity, "pipelines.shop or its entities"), (another, "pipelines.more")):
        assert merged(config(), found, flows=flows) == (found, (place,), ())
        assert merged(found, config(), flows=flows) == (config(), (place,), ())


def test_another_source_is_taken_where_it_flows() -> None:
    found = changed("path: shop.db", "path: other.db")
    assert merged(config(), found, flows=True) == (found, ("pipelines.shop or its entities",), ())


def test_a_pipeline_on_a_log_that_is_not_open_waits_where_it_flows() -> None:
    connections = 'connections: {main: {kind: kafka, bootstrap_servers: "k:9092"}}\n'
    before = config(connections + BASE)
    found = config(connections + BASE + "  more: {source: {kind: sqlite, path: more.db}, log: main}\n")
    assert merged(before, found, flows=False) == (found, ("pipelines.more",), ())
    assert merged(before, found, flows=True) == (before, (), ("pipelines.more",))


def test_a_pipeline_on_another_connection_waits() -> None:
    found = config(BASE + '  more: {source: {kind: sqlite, path: m.db}, store: cache}\n'
                   'connections: {cache: {kind: redis, url: "redis://h"}}\n')  # fmt: skip
    change = merged(config(), found, flows=False)
    assert set(change.waiting) == {"connections", "state", "pipelines.more"}
    assert list(change.config.pipelines) == ["shop"]


def test_nothing_changed_is_nothing_said() -> None:
    assert merged(config(), config(BASE + "# a remark\n"), flows=False) == (config(), (), ())
