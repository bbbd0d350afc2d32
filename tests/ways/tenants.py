"""A shop of two tenants, whichever store holds its rows, and clients of theirs that ask for anything at random."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt

from tests.ways.asking import VERSION
from tests.ways.deployment import PATIENCE_S

TENANTS = ("zq-acme", "zq-birch")
CUSTOMERS, ORDERS = 60, 180
SECRET = secrets.token_hex(32)
TASKS: Mapping[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
UPDATED = "notifications/resources/updated"
_META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
_CONFIG = f"""\
data: data
server: {{port: 0}}
access:
  issuers: [{{issuer: "https://login.example/", algorithms: [HS256], secret: "{SECRET}"}}]
  policy: policy.yaml
  policy_key: "{secrets.token_hex(32)}"
  budgets: {{read: 1000000}}
tasks: {{after_ms: 0}}
entities:
  customer:
    from: shop.main.customers
    lookups: [tenant, email, plan]
    sorted: [score]
    relations: {{orders: {{entity: order, field: id, target_field: customer_id, many: true}}}}
    fields:
      email: {{class: personal.email}}
      tenant: {{class: none}}
      name: {{class: none}}
      plan: {{class: none}}
      score: {{class: none}}
  order:
    from: shop.main.orders
    lookups: [tenant, customer_id]
    sorted: [total]
    relations: {{customer: {{entity: customer, field: customer_id, target_field: id}}}}
pipelines:
"""
EMBEDDED = f"{_CONFIG}  shop: {{source: {{kind: sqlite, path: shop.db}}}}\n"
_TABLES = """
create table customers(id integer primary key, tenant text, name text, email text, plan text, score integer);
create table orders(id integer primary key, tenant text, customer_id integer, total integer, note text);
"""


def on_redis(url: str) -> str:
    """The config of a shop whose rows, state and budgets are on Redis."""
    return f"""\
{_CONFIG}  shop: {{source: {{kind: sqlite, path: shop.db}}, store: cache}}
state: cache
connections:
  cache: {{kind: redis, url: "{url}"}}
"""


def policy(fields: str) -> str:
    """A document under which tenants see their own rows, and customers' fields as told."""
    return f"""\
rules:
  - name: own
    to: everyone
    tools: ["*"]
    entities:
      customer: {{rows: tenant = claims.tenant, fields: {fields}}}
      order: {{rows: tenant = claims.tenant}}
"""


class Row(NamedTuple):
    """A customer's row: what is secret of it stands in no other row."""

    id: int
    tenant: str
    name: str
    email: str
    plan: str
    score: int


class Shop(NamedTuple):
    """A running server over both tenants' rows."""

    url: str
    folder: Path
    rows: Sequence[Row]

    def own(self, tenant: str) -> list[Row]:
        return [row for row in self.rows if row.tenant == tenant]

    def change(self, *ids: int) -> None:
        """These customers have other scores, at the source."""
        with closing(sqlite3.connect(self.folder / "shop.db", timeout=PATIENCE_S)) as connection, connection:
            connection.executemany("update customers set score = (score + 1) % 40 where id = ?", zip(ids))


def fill(file: Path) -> list[Row]:
    """Orders of one tenant lead to customers of the other too: a relation must not."""
    dice = random.Random(5)
    rows = [
        Row(number, tenant := TENANTS[number % 2], f"{tenant}-name-{number}x", f"u{number}@{tenant}-{number}x.example",
            dice.choice(["free", "vip"]), dice.randrange(40))
        for number in range(1, CUSTOMERS + 1)
    ]  # fmt: skip
    orders = [
        (number, TENANTS[dice.randrange(2)], dice.randint(1, CUSTOMERS), dice.randrange(99)) for number in range(ORDERS)
    ]
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(_TABLES)
        connection.executemany("insert into customers values (?, ?, ?, ?, ?, ?)", rows)
        connection.executemany(
            "insert into orders values (?, ?, ?, ?, ?)", [(*each, f"{each[1]}-note-{each[0]}x") for each in orders]
        )
        connection.commit()
    return rows


# --- a connection that stays ------------------------------------------------------------------------


class Line:
    """One connection, each request on it in one piece: so whoever comes again may go straight."""

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, headers: Mapping[str, str], body: bytes) -> str:
        """The whole answer, headers and body."""
        if self._opened is None:
            self._opened = await asyncio.open_connection(self._url.host, self._url.port)
        reader, writer = self._opened
        lines = [f"POST {self._url.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
                 *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]  # fmt: skip
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
            return head + (await reader.readexactly(int(length.partition(":")[2]))).decode()

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()


# --- a caller ---------------------------------------------------------------------------------------


class Shared(NamedTuple):
    """What all callers of a run know, of whichever tenant: each tries what another one was given."""

    cursors: dict[str, str]
    tasks: list[str]

    @classmethod
    def nothing(cls) -> Shared:
        return cls({}, [])


class Caller:
    """One tenant's client. It looks through everything that it gets for what is the other tenant's."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        shop: Shop,
        tenant: str,
        dice: random.Random,
        shared: Shared,
        subject: str = "agent",
    ) -> None:
        self.tenant = tenant
        self.other = next(each for each in TENANTS if each != tenant)
        self.rows_seen = self.looked_up = self.told = 0
        self.line = Line(shop.url)
        self._http = http
        self._shop = shop
        self._dice = dice
        self._shared = shared
        claims = {"iss": "https://login.example/", "aud": "headgate", "sub": subject, "tenant": tenant,
                  "exp": int(time.time()) + 3_600, "scope": "data:read pipelines:read"}  # fmt: skip
        self._token = jwt.encode(claims, SECRET, "HS256")

    # --- by the wire ---

    def _request(self, method: str, params: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json, text/event-stream",
                   "MCP-Protocol-Version": VERSION, "Mcp-Method": method}  # fmt: skip
        if name := params.get("name") or params.get("uri") or params.get("taskId"):
            headers["Mcp-Name"] = name
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": {**_META, **meta}}}
        return headers, json.dumps(body).encode()

    def _look_through(self, params: Mapping[str, Any], raw: str) -> None:
        for said in _texts(params):  # what it said itself may be said back
            raw = raw.replace(said, "")
        assert self.other not in raw, f"{self.tenant} asked {params} and got {raw}"

    async def messages(self, method: str, meta: Mapping[str, Any], **params: Any) -> list[dict[str, Any]]:
        """All that one request is answered, the answer last; every byte looked through."""
        headers, body = self._request(method, params, meta)
        response = await self._http.post(
            self._shop.url, content=body, headers={**headers, "Content-Type": "application/json"}
        )
        self._look_through(params, f"{response.headers}{response.text}")
        if response.text[:1] == "{":
            return [response.json()]
        lines = response.text.splitlines()
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One request's answer."""
        return (await self.messages(method, {}, **params))[-1]

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's result, or its error."""
        result: dict[str, Any] = (await self.ask("tools/call", name=tool, arguments=arguments)).get("result", {})
        return result

    @asynccontextmanager
    async def _stream(self, method: str, **params: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The messages of an open stream as they come, each looked through."""
        headers, body = self._request(method, params, {})

        async def messages(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
            async for line in response.aiter_lines():
                self._look_through(params, line)
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

        headers["Content-Type"] = "application/json"
        async with self._http.stream("POST", self._shop.url, content=body, headers=headers) as response:
            yield messages(response)

    # --- what it asks ---

    async def anything(self) -> None:
        """One request of any sort, with values of both tenants in it."""
        often = [self.by_key] * 12 + [self._page] * 2
        await self._dice.choice([
            *often, self._by_email, self._by_relation, self._filtered, self._resource, self._list, self._described,
            self._nonsense, self._scanned, self._waited, self._prompted, self._completed, self._listened, self._task,
            self._changed,
        ])()  # fmt: skip

    def _any_row(self) -> Row:
        return self._dice.choice(self._shop.rows)

    async def by_key(self) -> None:
        """As an agent asks most: on a connection that stays, with the same headers each time."""
        row = self._any_row()
        params = {"name": "lookup_customer", "arguments": {"customer_id": row.id}}
        raw = await self.line.post(*self._request("tools/call", params, {}))
        self._look_through(params, raw)
        found = json.loads(raw.partition("\r\n\r\n")[2])["result"]["structuredContent"]["rows"]
        assert bool(found) == (row.tenant == self.tenant)
        self.looked_up += 1
        self.rows_seen += len(found)

    async def _by_email(self) -> None:
        row = self._any_row()
        found = (await self.call("lookup", entity="customer", by={"email": row.email}))["structuredContent"]["rows"]
        assert bool(found) == (row.tenant == self.tenant)

    async def _by_relation(self) -> None:
        await self.call("lookup", entity="customer", key=self._any_row().id, include=["orders"])
        await self.call("lookup", entity="order", key=self._dice.randrange(ORDERS), include=["customer"])

    async def _page(self) -> None:
        """A page, from a cursor that may be one that the other tenant was given."""
        arguments: dict[str, Any] = {"entity": "customer", "limit": self._dice.randint(1, 9)}
        if self._dice.random() < 0.5:
            arguments |= {"order_by": "score", "descending": self._dice.random() < 0.5}
        name = json.dumps(sorted((key, value) for key, value in arguments.items() if key != "limit"))
        cursor = self._shared.cursors.get(name)
        result = await self.call("find", **arguments, **({"cursor": cursor} if cursor else {}))
        truncated = result.get("structuredContent", {}).get("truncated")
        self._share(name, truncated["cursor"] if truncated else None)

    def _share(self, name: str, cursor: str | None) -> None:
        if cursor:
            self._shared.cursors[name] = cursor
        else:
            self._shared.cursors.pop(name, None)

    async def _filtered(self) -> None:
        row = self._any_row()
        where: dict[str, Any] = self._dice.choice([
            {"tenant": row.tenant}, {"plan": row.plan}, {"score": {"ge": row.score}}, {"name": row.name},
            {"tenant": row.tenant, "score": {"lt": row.score}}, {"email": row.email},
        ])  # fmt: skip
        found = await self.call("find", entity=self._dice.choice(["customer", "order", "x"]), where=where)
        assert where.get("tenant") != self.other or not found.get("structuredContent", {}).get("rows")

    async def _resource(self) -> None:
        row = self._any_row()
        answer = await self.ask("resources/read", uri=f"headgate://entity/customer/{row.id}")
        assert ("result" in answer) == (row.tenant == self.tenant)

    async def _list(self) -> None:
        await self.ask(self._dice.choice(["tools/list", "resources/list", "resources/templates/list", "prompts/list"]))

    async def _described(self) -> None:
        await self.call("check_data_freshness")
        described = await self.call("describe_data", entity="customer")
        assert described["structuredContent"]["entities"][0]["rows"] == len(self._shop.own(self.tenant))

    async def _scanned(self) -> None:
        """All rows, told in batches while they are read."""
        arguments = {"entity": "customer", "tell": True, "batch_size": self._dice.randint(1, 20)}
        meta = {"io.modelcontextprotocol/logLevel": "info"}
        *notices, answer = await self.messages("tools/call", meta, name="scan", arguments=arguments)
        told = [row for each in notices if each["method"] == "notifications/message" for row in _rows_in(each)]
        assert len(told) == len(self._shop.own(self.tenant)) == answer["result"]["structuredContent"]["told"]["rows"]

    async def _waited(self) -> None:
        """Since a moment that may be one of the other tenant's."""
        row = self._any_row()
        wheres: list[dict[str, Any]] = [{"plan": row.plan}, {"tenant": row.tenant}]
        what: dict[str, Any] = self._dice.choice([{"key": row.id}, *({"where": where} for where in wheres)])
        name = json.dumps(["wait", what])
        after = self._shared.cursors.get(name)
        result = await self.call(
            "wait_for_change", entity="customer", timeout_s=0, **what, **({"after": after} if after else {})
        )
        self._share(name, result.get("structuredContent", {}).get("cursor"))

    async def _prompted(self) -> None:
        key = str(self._any_row().id)
        await self.ask("prompts/get", name="investigate_entity", arguments={"entity": "customer", "key": key})
        await self.ask("prompts/get", name="explain_freshness", arguments={"entity": "order"})

    async def _completed(self) -> None:
        ref = self._dice.choice([{"type": "ref/prompt", "name": "investigate_entity"},
                                 {"type": "ref/resource", "uri": "headgate://entity/{entity}/{key}"}])  # fmt: skip
        answer = await self.ask("completion/complete", ref=ref, context={"arguments": {"entity": "customer"}},
                                argument={"name": "key", "value": self._dice.choice(["", "1", "2"])})  # fmt: skip
        keys = answer["result"]["completion"]["values"]
        assert keys and {int(key) for key in keys} <= {row.id for row in self._shop.own(self.tenant)}

    async def _changed(self) -> None:
        self._shop.change(self._any_row().id)

    async def _listened(self) -> None:
        """Both tenants' rows change, and it hears of its own alone."""
        own = self._dice.choice(self._shop.own(self.tenant)).id
        others = self._dice.choice(self._shop.own(self.other)).id
        uris = [f"headgate://entity/customer/{number}" for number in (others, own)]
        wanted = {"resourceSubscriptions": uris, "toolsListChanged": True}
        async with (
            asyncio.timeout(PATIENCE_S),
            self._stream("subscriptions/listen", notifications=wanted) as stream,
        ):
            assert (await anext(stream))["method"] == "notifications/subscriptions/acknowledged"
            self._shop.change(others, own)
            notice = await anext(stream)
            assert (notice["method"], notice["params"]["uri"]) == (UPDATED, uris[1])
            self.told += 1

    async def _task(self) -> None:
        """Its own, and one that may be the other tenant's."""
        meta = {"io.modelcontextprotocol/clientCapabilities": TASKS}
        [made] = await self.messages("tools/call", meta, name="scan", arguments={"entity": "customer"})
        if made["result"]["resultType"] == "task":
            self._shared.tasks.append(made["result"]["taskId"])
        if self._shared.tasks:
            await self.messages("tasks/get", meta, taskId=self._dice.choice(self._shared.tasks[-9:]))

    async def _nonsense(self) -> None:
        row = self._any_row()
        tries: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.call("lookup_invoice", id=row.id),
            lambda: self.call("lookup", entity="customer", key={"id": row.id}),
            lambda: self.call("find", entity="customer", cursor=row.email),
            lambda: self.call("find", entity="customer", order_by="email"),
            lambda: self.call("lookup", entity="customer", by={"name": row.name}),
            lambda: self.call("wait_for_change", entity="customer", where={"name": row.name}, timeout_s=0),
            lambda: self.call("list_pipelines"),
            lambda: self.ask("prompts/get", name="investigate_entity", arguments={"entity": row.name}),
            lambda: self.ask("resources/read", uri="headgate://entity/customer/"),
        ]
        await self._dice.choice(tries)()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str) and value:
        yield value


def _rows_in(notice: Mapping[str, Any]) -> list[Any]:
    """The rows of one batch that is told."""
    rows: list[Any] = notice["params"]["data"]["items"]
    return rows
