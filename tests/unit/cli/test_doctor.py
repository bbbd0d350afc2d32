"""`headgate doctor`: the parts that are no server of a pipeline, and which topics it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.app import App
from headgate.audit.signing import Signer
from headgate.cli.doctor import run_doctor
from headgate.cli.topics import topics_on
from headgate.config import load
from headgate.server import tls
from headgate.telemetry import wall_clock_ms
from tests.unit.access.test_jwks import EC_KEY, RSA_KEY, Endpoint, endpoint, jwk
from tests.unit.connections.test_kafka import make_certificates

DAY_MS = 86_400_000
CONFIG = """
data: data
server: {tls: {cert: cert.pem, key: key.pem}}
audit: {public_keys: [other.pem]}
access:
  policy: policy.yaml
  policy_key: "not a real one, and longer than 32 bytes"
  issuers:
    - {issuer: "https://here.example", algorithms: [HS256], secret: "not a real one, and longer than 32 bytes"}
    - {issuer: "https://there.example", algorithms: [ES256], jwks: {url: "URL"}}
"""


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with endpoint() as state:
        state.publish(jwk(EC_KEY), jwk(RSA_KEY, kid="k2"))
        yield state


@pytest.fixture
def file(tmp_path: Path, served: Endpoint) -> Path:
    """A config all of whose parts are well."""
    _, identity = make_certificates()
    (tmp_path / "cert.pem").write_text(identity)
    (tmp_path / "key.pem").write_text(identity)
    (tmp_path / "policy.yaml").write_text("rules: [{name: all, to: everyone, tools: ['*']}]\n")
    (tmp_path / "other.pem").write_text(Signer(tmp_path / "other").public_pem())
    path = tmp_path / "headgate.yaml"
    path.write_text(CONFIG.replace("URL", served.url))
    return path


def said_of(file: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert run_doctor(file) == code
    return capsys.readouterr().out


def test_parts_that_are_well_are_said_to_be(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = said_of(file, capsys, 0)
    assert "ok      issuer https://here.example: its key stands in the config" in said
    assert "ok      issuer https://there.example: its keys are published, fitting: 1" in said
    assert "ok      policy: policy.yaml holds, sha256:" in said
    assert "server.tls: the certificate in cert.pem holds until" in said
    assert f"ok      audit.public_keys, other.pem: holds the key {Signer(file.parent / 'other').key_id}" in said
    assert "ERROR" not in said


def test_a_part_that_is_not_is_an_error_with_its_mend_and_the_others_are_tried_all_the_same(
    file: Path, served: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    served.status = 503
    (file.parent / "policy.yaml").write_text("rules: [{name: all, tols: ['*']}]\n")
    (file.parent / "key.pem").write_text("no key")
    (file.parent / "other.pem").unlink()
    said = said_of(file, capsys, 1)
    assert "ERROR   issuer https://there.example: its keys can't be fetched: the URL answers status 503" in said
    assert "ERROR   policy: policy.yaml" in said
    assert "tols" in said
    assert "ERROR   server.tls: cert.pem and key.pem" in said
    assert "ERROR   audit.public_keys, other.pem: this public key can't be read" in said
    assert said.count("→") >= 4
    assert str(file.parent) not in said.replace(str(file), "")


def test_keys_that_do_not_fit_and_a_url_where_nobody_is_are_errors_too(
    file: Path, served: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    served.publish(jwk(RSA_KEY))
    assert "it holds no key that fits the issuer's algorithms" in said_of(file, capsys, 1)
    file.write_text(file.read_text().replace(served.url, "http://127.0.0.1:1/keys"))
    assert "its keys can't be fetched: ConnectError" in said_of(file, capsys, 1)


def test_a_policy_that_is_not_there_is_an_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "policy.yaml").unlink()
    assert "ERROR   policy: policy.yaml: the policy can't be read" in said_of(file, capsys, 1)


@pytest.mark.parametrize(("days", "level"), [(-20, "ok"), (0, "warning"), (2, "error")])
def test_a_certificate_is_told_before_it_ends(tmp_path: Path, days: int, level: str) -> None:
    _, identity = make_certificates()  # for a day
    path = tmp_path / "identity.pem"
    path.write_text(identity)
    found = tls.diagnose(path, path, wall_clock_ms() + days * DAY_MS)
    assert found.level == level
    assert ("ended" in found.message) == (level == "error")
    assert bool(found.mend) == (level != "ok")


TOPICS = """
data: data
connections:
  main: {kind: kafka, bootstrap_servers: "127.0.0.1:1"}
  other: {kind: kafka, bootstrap_servers: "127.0.0.1:1"}
audit: {retention_days: 90}
pipelines:
  own:
    source: {kind: sqlite, path: shop.db}
    log: main
    retention_days: 3
  theirs:
    source: {kind: debezium, topic_prefix: shop, tables: [public.customers], heartbeat: {topic: beats}}
    log: main
  feed:
    source:
      kind: topic
      topics: {orders: {topic: orders.v1, key: [id]}, clicks: {topic: clicks.v1, key: [customer], latest: 9}}
    log: main
  elsewhere:
    source: {kind: sqlite, path: shop.db}
    log: other
entities:
  customer: {from: own.main.customers}
"""


def test_every_topic_of_a_cluster_is_looked_at_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"
    path.write_text(TOPICS)
    with App(load(path)) as app:
        found = {
            name: (each.holds, round(each.retention_ms / DAY_MS, 2), each.is_ours)
            for name, each in topics_on(app, "main").items()
        }
        assert set(topics_on(app, "other")) == {
            "headgate.dead-letters.elsewhere",
            "headgate.heartbeats.elsewhere",
        }
    assert found == {
        "headgate.calls": ("history", 90, True),
        "own.main.customers": ("rows", 3, True),
        "headgate.heartbeats.own": ("beats", 0.04, True),
        "headgate.dead-letters.own": ("history", 3, True),
        "shop.public.customers": ("rows", 7, False),
        "beats": ("beats", 0.04, False),
        "headgate.dead-letters.theirs": ("history", 7, True),
        "orders.v1": ("rows", 7, False),
        "clicks.v1": ("history", 7, False),
        "headgate.dead-letters.feed": ("history", 7, True),
    }
