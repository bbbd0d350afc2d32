"""Requests of every shape, drawn from the schemas that the server itself lists and from what breaks servers.

Whatever comes, the answer is no failure of ours, nothing is left behind in the process, and each refusal is recorded:
as an event of its own where the caller is known, and in the count of its kind where nobody knows them. A part of them
comes on connections that are in the middle of calls that go straight, whose answers stay what they are.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.ways.asking import VERSION
from tests.ways.deployment import Process, until
from tests.ways.drawn import AGAIN, ANYHOW, META, Batch, Request, batches, lookup, recombined, requests, returning
from tests.ways.lines import Answered, Line
from tests.ways.replicas import ISSUERS, token
from tests.ways.serving import Shop

AT_ONCE = 8
SHORT, LONG = 3_000, 1_000_000
WARM = 1_000
GROWTH_BYTES = 48 * 1024 * 1024
PAGES_STATUS = (200, 404, 405)
HIDDEN = re.compile(rb"\bc\d+@shop\.example")
"""What the policy shows of nobody."""
SEEN = 18
POLICY = f"""\
rules:
  - name: most rows
    to: everyone
    tools: ["*"]
    pipelines: [shop]
    entities:
      customer: {{rows: "id in {list(range(1, SEEN + 1))}", fields: {{email: {{treatment: mask, lookup: true}}}}}}
"""


@dataclass
class Answers:
    """What came back."""

    count: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    """Of the calls that were opened."""
    without_id: Counter[int] = field(default_factory=Counter)
    """Refused before a call was opened, by status."""


class Wire:
    """Keeps some connections, and sends each request over one of them."""

    def __init__(self, port: int, bearer: str) -> None:
        self.answers = Answers()
        self._port = port
        self._bearer = bearer
        self._free: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        for _ in range(AT_ONCE):
            self._free.put(None)

    def send(self, request: Request) -> list[tuple[Request, Answered]]:
        """The request and its answer, and those of what went with it."""
        line = self._free.get() or Line(self._port)
        try:
            return self._ask(line, request) if request.way is None else list(self._ask_behind(line, request))
        finally:
            if not line.is_open or b" HTTP/1.1\r\n" not in request.data:
                line.close()
            self._free.put(line if line.is_open else None)

    def close(self) -> None:
        """Lets go of the connections."""
        for _ in range(AT_ONCE):
            line = self._free.get()
            if line is not None:
                line.close()

    def note(self, request: Request, answer: Answered) -> None:
        """Takes one answer into account, which must be no failure of ours."""
        answers, (status, headers, body) = self.answers, answer
        answers.count += 1
        answers.statuses[status] += 1
        assert status < 500, (answer, request, request.data)
        assert b'"internal"' not in body and b"Traceback" not in body, (answer, request, request.data)
        assert not HIDDEN.search(body), (answer, request, request.data)
        id_ = headers.get("x-request-id", "")
        if id_:
            answers.ids.add(id_)
        elif not (_is_page(request) and status in PAGES_STATUS):
            answers.without_id[status] += 1

    def _ask(self, line: Line, request: Request, *pieces: bytes) -> list[tuple[Request, Answered]]:
        line.send(*(pieces or [request.data]))
        return [(request, line.answer(request.verb))]

    def _ask_behind(self, line: Line, request: Request) -> Iterator[tuple[Request, Answered]]:
        """Between two calls that go straight, or behind one: whose own answers they get, whatever comes between."""
        pieces = request.pieces()
        first, last = (secrets.randbelow(SEEN) + 1 for _ in range(2))
        before, after = (Request(lookup(self._bearer, 100 + id_, {"customer_id": id_})) for id_ in (first, last))
        begun = {"torn": pieces[0], "at once": request.data + after.data}.get(str(request.way), b"")
        line.send(before.data + begun)
        yield before, _of_row(line.answer(b"POST"), first)
        line.send(*{"behind": [request.data], "split": pieces, "torn": pieces[1:]}.get(str(request.way), []))
        yield request, line.answer(request.verb)
        if request.way == "at once" and line.is_open and b" HTTP/1.1\r\n" in request.data:
            yield after, _of_row(line.answer(b"POST"), last)


def _of_row(answer: Answered, id_: int) -> Answered:
    """The answer, which must be that row, asked for under its own number."""
    message = json.loads(answer.body)
    assert message.get("id") == 100 + id_, answer
    assert [row["values"]["id"] for row in message["result"]["structuredContent"]["rows"]] == [id_], answer
    return answer


def _is_page(request: Request) -> bool:
    return request.data.split(b" ", 2)[1] != b"/mcp"


def listed_tools(url: str) -> list[dict[str, Any]]:
    """What the server says that its tools take."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": VERSION,
               "mcp-method": "tools/list", "authorization": f"Bearer {token()}"}  # fmt: skip
    meta = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    found: list[dict[str, Any]] = httpx.post(url, json=body, headers=headers, timeout=60).json()["result"]["tools"]
    return found


@contextlib.contextmanager
def under_fuzz(folder: Path, redis_url: str) -> Iterator[tuple[Shop, Process]]:
    """A server whose callers may ask as often as they like, of a store in Redis, and see most of it."""
    budgets = "budgets: {read: {calls: 1000000, per_s: 1}, write: {calls: 1000000, per_s: 1}}"
    policy = f'policy: policy.yaml, policy_key: "{secrets.token_hex(32)}"'
    (folder / "policy.yaml").write_text(POLICY)
    shop = Shop(
        folder,
        access=f"{ISSUERS}, {budgets}, {policy}",
        pipeline="store: cache, freshness_bound_s: 86400",  # whoever stops it, its rows are good
        more=f'connections: {{cache: {{kind: redis, url: "{redis_url}"}}}}\n',
    )
    with shop.serving() as process:
        yield shop, process


@pytest.mark.parametrize(
    ("count", "turns"),
    [pytest.param(SHORT, 1, id="short"), pytest.param(LONG, 25, id="long", marks=pytest.mark.soak)],
)
def test_whatever_comes_is_answered_or_refused_and_each_refusal_recorded(
    tmp_path: Path, redis_url: str, count: int, turns: int
) -> None:
    with under_fuzz(tmp_path, redis_url) as (shop, process):
        url = process.url()
        port = httpx.URL(url).port
        assert port is not None
        tools = listed_tools(url)
        good = token(), token("grace", scope="data:read"), token("eve", scope="")
        tokens = [*good[:1] * 6, *good, None, "x", token(exp=1)]
        wire = Wire(port, good[0])
        server = psutil.Process(process.pid)
        warm: list[int] = []
        files: list[int] = []

        @settings(
            max_examples=count // ((ANYHOW + AGAIN) * turns), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(batches(requests(tools, tokens), returning(good[0])))
        def fuzz(batch: Batch) -> None:
            for turn in range(turns):
                for answers in pool.map(wire.send, recombined(batch, turn)):
                    for answer in answers:
                        wire.note(*answer)
            if wire.answers.count >= WARM and not warm:
                warm.append(server.memory_info().rss)
                files.append(server.num_fds())

        with contextlib.closing(wire), ThreadPoolExecutor(AT_ONCE) as pool:
            fuzz()
        until(lambda: server.num_fds() <= files[0])
        assert server.memory_info().rss - warm[0] < GROWTH_BYTES
        assert "Traceback" not in process.text()
    answers = wire.answers
    assert answers.count >= count * 0.9
    assert_all_recorded(shop, answers)
    shop.verify()


def assert_all_recorded(shop: Shop, answers: Answers) -> None:
    """Each call that was opened has its event, or is one of those that were counted."""
    recorded = {each["id"] for each in shop.each_event("call")}
    counted = Counter[str]()
    for event in shop.events("refusals"):
        counted.update({each["reason"]: each["count"] for each in event["counts"]})
    unknown = answers.ids - recorded
    expected = len(unknown) + sum(answers.without_id.values())
    assert sum(counted.values()) == expected, (counted, answers.without_id, len(unknown))
    assert answers.statuses[200] and answers.statuses[401] and answers.statuses[400] and answers.statuses[403]
