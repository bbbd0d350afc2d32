"""Eight replicas behind a proxy that keeps nobody anywhere: each request may come to any of them.

A case is one function below and one line in `CASES`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from headgate.stack import Valkey
from tests.ways.deployment import PATIENCE_S, ready, until
from tests.ways.replicas import Replicas
from tests.ways.round_robin import RoundRobin
from tests.ways.visitor import Visitor

COUNT = 8
ACCESS = "local: true, local_scopes: [data:read, pipelines:read, pipelines:write]"
ANSWERS = {"who": {"action": "accept", "content": {"name": "Ada"}}}
OLD = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}
CHANGING = "headgate://entity/customer/4"


class Customer(Visitor):
    """A client of the proxy who can change a row at the source."""

    def __init__(self, site: Site, client: httpx.Client) -> None:
        super().__init__(site.proxy.url, client)
        self.shop = site.shop

    def change(self) -> str:
        """The new e-mail address of the fourth customer."""
        email = f"{os.urandom(8).hex()}@shop.example"
        with contextlib.closing(sqlite3.connect(self.shop)) as shop, shop:
            shop.execute("update customers set email = ? where id = 4", [email])
        return email

    def ended(self, task: dict[str, Any], status: str) -> dict[str, Any]:
        """What is told of a task once it has come to that."""
        return until(lambda: self._told(task, status))

    def _told(self, task: dict[str, Any], status: str) -> dict[str, Any]:
        told = self.ask("tasks/get", {"taskId": task["taskId"]})
        return told if told["status"] == status else {}


# --- the cases ---------------------------------------------------------------------------------------


def lists(visitor: Customer) -> None:
    assert visitor.ask("server/discover")["capabilities"]
    for method, key in (("tools/list", "tools"), ("resources/list", "resources"), ("prompts/list", "prompts"),
                        ("resources/templates/list", "resourceTemplates")):  # fmt: skip
        assert visitor.ask(method)[key], method


def tools(visitor: Customer) -> None:
    found = visitor.call("lookup_customer", {"customer_id": 3})
    assert found["structuredContent"]["rows"][0]["values"]["email"] == "c3@shop.example"


def pages(visitor: Customer) -> None:
    """A cursor of one replica is good at the next."""
    seen, cursor = [], None
    while True:
        given = {"entity": "customer", "limit": 5, **({"cursor": cursor} if cursor else {})}
        found = visitor.call("find", given)["structuredContent"]
        seen += [row["values"]["id"] for row in found["rows"]]
        cursor = (found.get("truncated") or {}).get("cursor")
        if cursor is None:
            break
    assert sorted(seen) == list(range(1, 20))


def rows_as_resources(visitor: Customer) -> None:
    found = visitor.ask("resources/read", {"uri": "headgate://entity/customer/3"})
    assert "c3@shop.example" in json.dumps(found)


def prompts(visitor: Customer) -> None:
    given = {"name": "diagnose_pipeline", "arguments": {"pipeline": "shop"}}
    assert visitor.ask("prompts/get", given)["messages"]


def completions(visitor: Customer) -> None:
    ref = {"type": "ref/prompt", "name": "diagnose_pipeline"}
    found = visitor.ask("completion/complete", {"ref": ref, "argument": {"name": "pipeline", "value": "s"}})
    assert found["completion"]["values"] == ["shop"]


def rounds(visitor: Customer) -> None:
    """What one replica asked, another one gets the answer to."""
    first = visitor.call("ask", {"about": "it"})
    assert first["resultType"] == "input_required"
    again = visitor.call("ask", {"about": "it"}, inputResponses=ANSWERS, requestState=first["requestState"])
    assert again["structuredContent"] == {"kept": {"about": "it"}}


def retries(visitor: Customer) -> None:
    """A call under its key is done once, wherever its retry comes to."""
    key = {"headgate/idempotency-key": os.urandom(8).hex()}
    given = {"name": "restart_pipeline", "arguments": {"pipeline_id": "shop"}}
    first, again = (visitor.ask("tools/call", given, **key) for _ in range(2))
    assert again["_meta"]["headgate/answer_of"] == first["_meta"]["headgate/request_id"]


def progress(visitor: Customer) -> None:
    with visitor.stream("tools/call", {"name": "tell", "arguments": {}}, progressToken="p") as messages:
        assert [message.get("method", "answer") for message in messages] == [
            "notifications/progress", "notifications/progress", "answer",
        ]  # fmt: skip


def scanning(visitor: Customer) -> None:
    """Its rows come as they are read, on the request's own stream."""
    given = {"name": "scan", "arguments": {"entity": "customer", "where": {}}}
    with visitor.stream("tools/call", given, progressToken="p") as messages:
        *told, answer = messages
    assert told and answer["result"]["structuredContent"]["scanned"] == 19


def listening(visitor: Customer) -> None:
    """Whichever replica it comes to hears of a row that changes."""
    asked = {"notifications": {"resourceSubscriptions": [CHANGING], "toolsListChanged": True}}
    with visitor.stream("subscriptions/listen", asked) as messages:
        assert next(messages)["method"] == "notifications/subscriptions/acknowledged"
        visitor.change()
        notice = next(messages)
    assert (notice["method"], notice["params"]["uri"]) == ("notifications/resources/updated", CHANGING)


def waiting(visitor: Customer) -> None:
    """What has changed since one replica's cursor, another one tells."""
    given = {"entity": "customer", "key": 4}
    cursor = visitor.call("wait_for_change", {**given, "timeout_s": 0})["structuredContent"]["cursor"]
    email = visitor.change()
    found = visitor.call("wait_for_change", {**given, "after": cursor})["structuredContent"]
    assert [change["values"]["email"] for change in found["changes"]] == [email]


def tasks(visitor: Customer) -> None:
    """A task of one replica is told of by any other."""
    made = visitor.call("later", {"about": "it"})
    assert made["resultType"] == "task"
    assert visitor.ended(made, "completed")["result"]["structuredContent"] == {"about": "it"}


def tasks_that_ask(visitor: Customer) -> None:
    """What a task asks at one replica, another one gets the answer to."""
    made = visitor.call("ask_later", {})
    asked = visitor.ended(made, "input_required")["inputRequests"]
    answers = dict.fromkeys(asked, ANSWERS["who"])
    visitor.ask("tasks/update", {"taskId": made["taskId"], "inputResponses": answers})
    assert visitor.ended(made, "completed")["result"]["structuredContent"] == {"name": "Ada"}


def tasks_that_are_cancelled(visitor: Customer) -> None:
    made = visitor.call("endless", {"about": str(visitor.shop)})
    visitor.ask("tasks/cancel", {"taskId": made["taskId"]})
    visitor.ended(made, "cancelled")


def older_clients(visitor: Customer) -> None:
    assert visitor.ask_old("initialize", OLD)["protocolVersion"] == "2025-11-25"
    assert visitor.ask_old("tools/list", {})["tools"]
    found = visitor.ask_old("tools/call", {"name": "lookup_customer", "arguments": {"customer_id": 3}})
    assert not found["isError"]
    row = {"uri": CHANGING}
    for method, params in (("ping", {}), ("logging/setLevel", {"level": "debug"}), ("resources/subscribe", row),
                           ("resources/unsubscribe", row)):  # fmt: skip
        assert visitor.ask_old(method, params).keys() <= {"_meta"}, method


CASES: list[Callable[[Customer], None]] = [
    lists, tools, pages, rows_as_resources, prompts, completions, rounds, retries, progress, scanning, listening,
    waiting, tasks, tasks_that_ask, tasks_that_are_cancelled, older_clients,
]  # fmt: skip


# --- the replicas ------------------------------------------------------------------------------------


class Talking:
    """One replica in a process of its own."""

    def __init__(self, config: Path) -> None:
        self.output = config.with_name("output.txt")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.ways.talking_replica", str(config)], stdout=output, stderr=output
            )
        self._url = ""

    @property
    def url(self) -> str:
        """Where it serves, once it says so."""

        def said() -> str:
            assert self.process.poll() is None, self.output.read_text()
            return self.output.read_text().partition("serving MCP at ")[2].partition("\n")[0]

        self._url = self._url or until(said)
        return self._url


class Site:
    """The proxy and those behind it."""

    def __init__(self, proxy: RoundRobin, shop: Path, replicas: list[Talking]) -> None:
        self.proxy = proxy
        self.shop = shop
        self.replicas = replicas


@pytest.fixture(scope="module")
def site(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Eight replicas on one Valkey, ready, behind a proxy."""
    folder = tmp_path_factory.mktemp("replicas")
    replicas = Replicas(folder, valkey.url(15), f"{ACCESS}, budgets: {{read: 1000000, write: 1000000}}")
    with replicas.syncing():
        running = [Talking(replicas.config(f"r{number}")) for number in range(COUNT)]
        try:
            for each in running:
                until(lambda: ready(each.url))  # noqa: B023 - asked at once
            with RoundRobin([each.url for each in running]) as proxy:
                yield Site(proxy, folder / "shop.db", running)
        finally:
            for each in running:
                each.process.terminate()
            codes = [each.process.wait(60) for each in running]
    assert set(codes) <= {0, -9}
    assert not [each.output.read_text() for each in running if "Traceback" in each.output.read_text()]


@pytest.fixture
def visitor(site: Site) -> Iterator[Customer]:
    with httpx.Client(timeout=60) as client:
        yield Customer(site, client)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_needs_no_stickiness(site: Site, visitor: Customer, case: Callable[[Customer], None]) -> None:
    site.proxy.served.clear()
    for _ in range(COUNT + 1):  # so that each round begins at another replica
        case(visitor)
    assert len(site.proxy.served) == COUNT


def test_a_replica_killed_in_mid_stream_costs_its_clients_one_retry(site: Site, tmp_path: Path) -> None:
    """Last: it leaves seven. Two clients of each replica are in the middle of a stream when one is killed."""
    held = tmp_path / "held"
    held.touch()
    call = "tools/call", {"name": "hold", "arguments": {"about": str(held)}}
    with contextlib.ExitStack() as stack:
        clients = [Visitor(site.proxy.url, stack.enter_context(httpx.Client(timeout=60))) for _ in range(2 * COUNT)]
        streams = [stack.enter_context(client.stream(*call, progressToken="p")) for client in clients]
        for stream in streams:
            assert next(stream)["params"]["message"] == "begun"
        site.replicas[3].process.kill()

        def rest(stream: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
            try:
                return list(stream)
            except httpx.TransportError:
                return []

        with ThreadPoolExecutor(len(streams)) as pool:
            rests = [pool.submit(rest, stream) for stream in streams]
            until(lambda: sum(each.done() for each in rests) == 2)
            cut = [client for client, each in zip(clients, rests, strict=True) if each.done()]
            held.unlink()
            ends = [each.result(PATIENCE_S) for each in rests]
        assert sorted(len(end) for end in ends) == [0] * 2 + [1] * (2 * COUNT - 2), "the others are answered"
        for client in cut:  # the one retry, of the very call
            with client.stream(*call, progressToken="p") as messages:
                assert [message.get("method", "answer") for message in messages] == ["notifications/progress", "answer"]
