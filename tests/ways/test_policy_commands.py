"""`headgate policy` and `headgate classify`, on a config whose store has been filled."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.ways.deployment import PATIENCE_S, PROGRAM, headgate, ready, until, write_config

CONFIG = """\
data: data
server: {port: 0}
access: {local: true}  # who may come in
pipelines:
  shop: {source: {kind: sqlite, path: shop.db}}
"""
DECLARED = """\
entities:
  # those who buy
  customer:
    from: shop.main.customers
    lookups: [tenant]
    fields:
      email: {class: personal.email}  # where invoices go
"""
POLICY = """\
rules:
  - name: own
    to: everyone
    tools: [find, lookup]
    entities: {customer: {rows: tenant = claims.tenant}}
tests:
  - name: masked
    caller: {claims: {tenant: a}}
    tool: find
    entity: customer
    row: {id: 1, tenant: a, email: ada@shop.example}
    expect: {fields: {id: 1, email: a***@shop.example}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript("""
            create table customers(id integer primary key, tenant text, email text, reach text, card text);
            create table products(id integer primary key, title text);
            insert into products values (1, 'Boots');
        """)
        rows = [(n, "ab"[n % 2], f"u{n}@shop.example", f"u{n}@work.example", "4111111111111111") for n in range(9)]
        connection.executemany("insert into customers values (?, ?, ?, ?, ?)", rows)
        connection.commit()
    return tmp_path


def filled(folder: Path, config: str) -> None:
    """The store holds what the config captures."""
    write_config(folder, config)
    with headgate(folder, "run") as process:
        url = process.url()
        until(lambda: ready(url))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)


def lines_of(done: subprocess.CompletedProcess[str], *starts: str) -> Sequence[str]:
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(starts)]


def test_classes_are_proposed_by_names_and_values_and_kept(folder: Path) -> None:
    filled(folder, CONFIG + DECLARED)
    proposed = run(folder, "classify")
    assert proposed.returncode == 1 and (folder / "headgate.yaml").read_text() == CONFIG + DECLARED
    assert lines_of(proposed, "+ customer", "  customer") == [
        "+ customer.id: none (nothing in name or values suggests a class)",
        "+ customer.tenant: none (nothing in name or values suggests a class)",
        "  customer.email: personal.email (as the config says)",
        "+ customer.reach: personal.email (9 of 9 values look like e-mail addresses)",
        "+ customer.card: personal.card (9 of 9 values look like card numbers)",
    ]
    assert run(folder, "classify", "--write").returncode == 0
    kept = (folder / "headgate.yaml").read_text()
    for line in ("# who may come in", "  # those who buy", "email: {class: personal.email}  # where invoices go"):
        assert line in kept
    filled(folder, kept)
    again = run(folder, "classify")
    assert again.returncode == 0 and "every field has a class" in again.stdout


def test_entities_that_were_derived_are_declared_together(folder: Path) -> None:
    filled(folder, CONFIG)
    assert run(folder, "classify", "--entity", "customer", "--write").returncode == 0
    kept = (folder / "headgate.yaml").read_text()
    assert "from: shop.main.products" in kept and "from: shop.main.customers" in kept
    filled(folder, kept)
    assert "+ product.title" in run(folder, "classify").stdout
    assert "there is no entity 'x'" in run(folder, "classify", "--entity", "x").stderr


def test_without_a_store_there_is_nothing_to_classify(folder: Path) -> None:
    write_config(folder, CONFIG)
    done = run(folder, "classify")
    assert done.returncode == 1 and "knows of no entity yet" in done.stderr


def test_a_policy_is_tested_explained_and_checked_beside_the_entities(folder: Path) -> None:
    key = "k" * 32
    config = CONFIG.replace("local: true", f"local: true, policy: policy.yaml, policy_key: {key}") + DECLARED
    (folder / "policy.yaml").write_text(POLICY)
    filled(folder, config)
    tested = run(folder, "policy", "test")
    assert tested.returncode == 0, tested.stdout
    assert tested.stdout.splitlines()[-1] == "1 tests, 0 missed"
    token = run(folder, "token", "--scope", "data:read", "--subject", "ada").stdout.strip()
    lacking = run(folder, "policy", "explain", token, "find", "customer")
    assert lacking.returncode == 1 and "the caller lacks the claim tenant" in lacking.stdout
    given = run(folder, "policy", "explain", "{scopes: [], claims: {tenant: a}}", "find", "customer")
    assert given.returncode == 1 and "needs the scope data:read" in given.stdout
    assert "gives rows where tenant is a; show: id; mask: email; hide: tenant, reach, card" in given.stdout
    checked = run(folder, "policy", "check")
    assert (
        checked.returncode == 0
        and "'customer' are hidden, as they have no class: tenant, reach, card" in checked.stdout
    )
    (folder / "policy.yaml").write_text(POLICY.replace("tenant = ", "reach = "))
    refused = run(folder, "policy", "check")
    assert refused.returncode == 1 and "'reach', which has no index" in refused.stdout
    examined = run(folder, "doctor")
    assert examined.returncode == 1 and lines_of(examined, "ERROR   policy: rule 'own'"), examined.stdout


def test_a_server_does_not_start_on_a_policy_that_does_not_hold(folder: Path) -> None:
    write_config(folder, CONFIG.replace("local: true", f"policy: policy.yaml, policy_key: {'k' * 32}"))
    (folder / "policy.yaml").write_text("rulez: []")
    done = run(folder, "serve")
    assert done.returncode == 1 and done.stderr.startswith("headgate: policy.yaml:1: rulez: is not a setting here")
    write_config(folder, CONFIG.replace("local: true", "policy: policy.yaml"))
    done = run(folder, "serve")
    assert done.returncode == 1 and "a policy needs policy_key" in done.stderr
