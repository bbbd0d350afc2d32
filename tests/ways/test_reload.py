"""A running server whose config, policy and certificate change; and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.serving.certificates import certificate
from tests.ways.asking import ask
from tests.ways.deployment import Process, headgate, until, write_at_once
from tests.ways.serving import Shop, ready_workers, workers_of
from tests.ways.visitor import Visitor

KEY = "k" * 32
POLICY = """\
rules:
  - name: all of it
    to: everyone
    tools: ["*"]
    entities: {customer: {fields: {email: %s}}}
"""


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        yield opened


def status(client: httpx.Client, url: str) -> str:
    """What a lookup without a credential gets: `answered`, or the code of its refusal."""
    answer = ask(client, url, "lookup_customer", {"customer_id": 3})
    return "answered" if answer.result is not None else answer.code


def statuses(url: str) -> set[str]:
    """What some new clients get, of which each worker gets one."""
    found = set()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            found.add(status(stack.enter_context(httpx.Client(timeout=60)), url))
    return found


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_changed_config_is_taken_and_a_broken_one_refused(
    tmp_path: Path, client: httpx.Client, workers: list[str]
) -> None:
    shop = Shop(tmp_path)
    count = 2 if workers else 1
    with shop.serving(*workers) as process:
        url = process.url()
        assert status(client, url) == "answered"
        shop.write(access="local: false")
        until(lambda: process.text().count("taken: access") == count)
        assert statuses(url) == {"unauthenticated"}
        shop.write(access="lokal: true")
        until(lambda: process.text().count("headgate.yaml:3: access.lokal: is not a setting here") == count)
        if workers:  # who is started now begins by the one that holds, and refuses the broken one itself
            workers_of(process)[0].kill()
            until(lambda: process.text().count("access.lokal") == count + 1)
            until(lambda: ready_workers(url) == 2)
        assert statuses(url) == {"unauthenticated"}
        shop.write(server="port: 0, host: 0.0.0.0", access="local: true")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: process.text().count("waiting until this process starts anew: server.host") == count)
        assert statuses(url) == {"answered"}
    kinds = [(each["kind"], each["reason"].partition(":")[0]) for each in shop.events("config")]
    # sync follows the same file, and may pass over what stood there for less than its second
    assert kinds.count(("adopted", "")) in (count, count + 1)
    assert kinds.count(("refused", "headgate.yaml")) - bool(workers) in (count, count + 1)
    assert kinds.count(("adopted", "waiting")) in (count, count + 1)
    shop.verify()


def test_a_policy_comes_goes_and_changes_while_it_serves(tmp_path: Path, client: httpx.Client) -> None:
    shop = Shop(tmp_path)
    with shop.serving() as process:
        url = process.url()

        def email() -> object:
            answer = ask(client, url, "lookup_customer", {"customer_id": 3})
            assert answer.result is not None
            return answer.result["structuredContent"]["rows"][0]["values"].get("email", "hidden")

        assert email() == "c3@shop.example"
        (tmp_path / "policy.yaml").write_text(POLICY % "hide")
        shop.write(access=f"local: true, policy: policy.yaml, policy_key: {KEY}")
        until(lambda: email() == "hidden")
        write_at_once(tmp_path / "policy.yaml", POLICY % "show")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: email() == "c3@shop.example")
        shop.write(access=f"local: true, policy: none.yaml, policy_key: {KEY}")
        until(lambda: "none.yaml: the policy can't be read" in process.text())
        assert email() == "c3@shop.example"
        shop.write(access="local: true")
        until(lambda: process.text().count("taken: access") == 2)
        assert email() == "c3@shop.example"
    assert [each["kind"] for each in shop.events("policy")] == ["loaded", "adopted"]
    kinds = [each["kind"] for each in shop.events("config")]
    assert kinds.count("refused") == 1, "of serve: sync has no policy, and takes what it finds"
    assert 2 <= kinds.count("adopted") <= 5


@pytest.mark.parametrize("alone", [True, False], ids=["run", "sync and serve"])
def test_what_flows_follows_the_config(tmp_path: Path, client: httpx.Client, alone: bool) -> None:
    """A pipeline comes and goes, an entity gets another name, a broken config changes nothing; nobody starts anew."""
    shop = Shop(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "more.db")) as owner:
        owner.executescript("create table things (id integer primary key); insert into things values (7)")
    with contextlib.ExitStack() as stack:
        flow = stack.enter_context(headgate(tmp_path, "run" if alone else "sync"))
        url = (flow if alone else stack.enter_context(headgate(tmp_path, "serve"))).url()

        def rows(entity: str, key: int) -> int:
            """How many there are of that key; -1 where that is refused."""
            answer = ask(client, url, f"lookup_{entity}", {f"{entity}_id": key})
            if answer.result is None or answer.result.get("isError"):
                return -1
            return len(answer.result["structuredContent"]["rows"])

        until(lambda: rows("customer", 3) == 1)
        shop.write(more=f'  more: {{source: {{kind: sqlite, path: "{tmp_path}/more.db"}}}}\n')
        until(lambda: rows("thing", 7) == 1)
        assert rows("customer", 3) == 1
        shop.write(more="entities: {client: {from: shop.customers}}\n")
        until(lambda: rows("client", 3) == 1)
        until(lambda: (rows("thing", 7), rows("customer", 3)) == (-1, -1))  # `serve` looks at the config by itself
        shop.write(more="entities: {client: {form: shop.customers}}\n")
        os.kill(flow.pid, signal.SIGHUP)
        until(lambda: "entities.client.form" in flow.text())
        with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as owner:
            owner.execute("insert into customers values (77, 'c77@shop.example')")
            owner.commit()
        until(lambda: rows("client", 77) == 1)
    shop.write(more="entities: {client: {from: shop.customers}}\n")
    kinds = [each["kind"] for each in shop.events("config")]
    assert (kinds.count("adopted"), kinds.count("refused") >= 1) == (2 if alone else 4, True)
    shop.verify()


def test_who_listens_hears_of_the_lists_that_changed(tmp_path: Path, client: httpx.Client) -> None:
    shop = Shop(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY.replace('"*"', "lookup") % "show")
    asked = {"notifications": {"toolsListChanged": True}}
    with shop.serving() as process, Visitor(process.url(), client).stream("subscriptions/listen", asked) as messages:
        assert next(messages)["method"] == "notifications/subscriptions/acknowledged"
        shop.write(access=f"local: true, policy: policy.yaml, policy_key: {KEY}")
        assert next(messages)["method"] == "notifications/tools/list_changed"


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_tls_by_file_and_a_renewed_certificate_is_read(tmp_path: Path, workers: list[str]) -> None:
    first = certificate(tmp_path, "first")
    shop = Shop(tmp_path, server="port: 0, tls: {cert: cert.pem, key: key.pem}")
    with headgate(tmp_path, "sync"), headgate(tmp_path, "serve", *workers) as process:
        url = process.url().replace("127.0.0.1", "localhost")
        assert url.startswith("https://")

        def answers(trusted: ssl.SSLContext) -> bool:
            with httpx.Client(verify=trusted, timeout=60) as client:
                try:
                    return bool(ask(client, url, "lookup_customer", {"customer_id": 3}).result)
                except httpx.ConnectError:
                    return False

        until(lambda: answers(first))
        second = certificate(tmp_path, "second")
        until(lambda: [answers(second) for _ in range(4)] == [True] * 4)
        until(lambda: [answers(first) for _ in range(4)] == [False] * 4)  # of both workers: each reads it by itself
        refused = process.text().count("a changed certificate is refused")  # as between its two files
        write_at_once(tmp_path / "cert.pem", "no certificate")
        until(lambda: process.text().count("a changed certificate is refused") > refused)
        assert answers(second)
        with httpx.Client() as plain, pytest.raises(httpx.TransportError):
            plain.get(url.replace("https", "http"))
    assert len(shop.events("call")) >= 3


def test_a_certificate_that_does_not_hold_stops_the_start(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    (tmp_path / "key.pem").write_text("no key")
    Shop(tmp_path, server="port: 0, tls: {cert: cert.pem, key: key.pem}")
    process = Process(tmp_path, "serve")
    assert process.ended() == 1
    assert "server.tls needs a certificate chain and its own key" in process.text()
    assert "Traceback" not in process.text()
