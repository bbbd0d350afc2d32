"""The official clients list and call the tools: Python and TypeScript, new and old, over HTTP and stdio."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.ways.asking import ask
from tests.ways.clients.installed import BIN, FETCH_S, made_once, node_packages, run
from tests.ways.clients.process import DEADLINE_S, ROOT, Gate, events_in
from tests.ways.deployment import BASICS, PROGRAM, headgate, ready, until, write_config

CLIENTS = Path(__file__).parent / "clients"
TOOLS = ["check_data_freshness", "describe_data", "find", "lookup", "lookup_customer", "scan", "wait_for_change"]
PROMPTS = ["explain_freshness", "investigate_entity"]
ALL_PROMPTS = ["diagnose_pipeline", *PROMPTS]
ROW = {"id": 4, "email": "c4@shop.example", "plan": "free"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    opened = Gate(tmp_path_factory.mktemp("gate"), "local")
    try:
        yield opened
    finally:
        opened.close()


def on_stdio(folder: Path) -> list[str]:
    """The command of a gate on stdio."""
    return [sys.executable, "-m", "tests.ways.clients.gate", "stdio", str(folder)]


@pytest.fixture(scope="module")
def typescript() -> list[str]:
    """The command of the TypeScript clients, as their lock says."""
    folder = node_packages("typescript", CLIENTS)
    shutil.copy(CLIENTS / "client.mjs", folder)
    return [str(BIN / "node"), str(folder / "client.mjs")]


@pytest.fixture(scope="module")
def old_python() -> list[str]:
    """The command of the Python client of the 1.x line, in a Python of its own."""
    requirements = CLIENTS / "requirements-mcp1.txt"

    def install(folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
        run(*pip, "install", "--quiet", "--require-hashes", "--requirement", requirements, timeout_s=FETCH_S)

    folder = made_once(f"mcp1-{sys.version_info.major}.{sys.version_info.minor}", [requirements], install)
    return [str(folder / "bin" / "python"), str(CLIENTS / "mcp1_client.py")]


def check(found: dict[str, Any], tools: Sequence[str]) -> None:
    """What every client must have seen of a gate, whose clock stands."""
    check_all_but_age(found, tools)
    assert found["freshness"]["staleness_ms"] == 1_000
    assert "1 s behind its source" in found["prompt"]


def check_all_but_age(found: dict[str, Any], tools: Sequence[str]) -> None:
    """What every client must have seen of anything that serves this shop."""
    assert found["tools"] == list(tools)
    assert [row["values"] for row in found["rows"]] == [ROW]
    assert found["freshness"]["state"] == "fresh"
    assert found["mistake"]["isError"] is True
    assert "customer" in found["mistake"]["text"]
    assert found["text"].startswith("#")
    assert found["prompts"] == (ALL_PROMPTS if "list_pipelines" in tools else PROMPTS)
    assert "customer" in found["prompt"]
    assert found["completed"] == ["customer"]
    assert found["unknown"] == -32602


def sse_of(gate: Gate) -> str:
    """Where the deprecated transport is."""
    return gate.url.removesuffix("/mcp") + "/sse"


ALL_TOOLS = sorted([*TOOLS, "get_pipeline_detail", "get_pipeline_errors", "list_pipelines"])


async def used(client: Client) -> dict[str, Any]:
    """What the official Python client of this line sees."""
    tools = (await client.list_tools()).tools
    row = await client.call_tool("lookup_customer", {"customer_id": 4})
    mistake = await client.call_tool("lookup", {"entity": "nothing", "key": 1})
    resources = (await client.list_resources()).resources
    text = await client.read_resource(resources[0].uri)
    prompts = (await client.list_prompts()).prompts
    prompt = await client.get_prompt("explain_freshness", {"entity": "customer"})
    reference = types.PromptReference(name="explain_freshness")
    completed = await client.complete(reference, {"name": "entity", "value": "cu"})
    with pytest.raises(MCPError) as unknown:
        await client.call_tool("no_such_tool", {})
    assert row.meta is not None
    return {
        "tools": [tool.name for tool in tools],
        "rows": row.structured_content["rows"],
        "freshness": row.meta["headgate/freshness"],
        "mistake": {"isError": mistake.is_error, "text": getattr(mistake.content[0], "text", "")},
        "text": getattr(text.contents[0], "text", ""),
        "prompts": [each.name for each in prompts],
        "prompt": getattr(prompt.messages[0].content, "text", ""),
        "completed": completed.completion.values,
        "unknown": unknown.value.code,
    }


# --- Python --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("2026-07-28",) * 2, ("legacy", "2025-11-25")])
async def test_the_python_client_over_http(gate: Gate, mode: str, version: str) -> None:
    headers = {"Authorization": f"Bearer {gate.tokens['data']}"}
    async with (
        asyncio.timeout(DEADLINE_S),
        httpx2.AsyncClient(headers=headers, timeout=DEADLINE_S) as http,
        Client(streamable_http_client(gate.url, http_client=http), mode=mode) as client,
    ):
        assert client.protocol_version == version
        check(await used(client), TOOLS)


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_the_python_client_on_stdio(tmp_path: Path, mode: str, version: str) -> None:
    command, *arguments = on_stdio(tmp_path)
    parameters = StdioServerParameters(command=command, args=arguments, cwd=ROOT)
    async with asyncio.timeout(DEADLINE_S), Client(parameters, mode=mode) as client:
        assert client.protocol_version == version
        check(await used(client), ALL_TOOLS)
    events = events_in(tmp_path)
    assert [(event.method, event.status) for event in events if event.method == "tools/call"] == [
        ("tools/call", "answered"),
        ("tools/call", "refused"),
        ("tools/call", "refused"),
    ]
    assert {(event.door, event.client_name, event.protocol_version) for event in events} == {("stdio", "mcp", version)}


def test_a_python_client_of_the_1_line_over_http(gate: Gate, old_python: list[str]) -> None:
    check(json.loads(run(*old_python, "http", gate.url, gate.tokens["data"])), TOOLS)


def test_a_python_client_of_the_1_line_over_the_deprecated_transport(gate: Gate, old_python: list[str]) -> None:
    check(json.loads(run(*old_python, "sse", sse_of(gate), gate.tokens["data"])), TOOLS)


def test_a_python_client_of_the_1_line_on_stdio(tmp_path: Path, old_python: list[str]) -> None:
    check(json.loads(run(*old_python, "stdio", *on_stdio(tmp_path))), ALL_TOOLS)


# --- TypeScript ----------------------------------------------------------------------------------

TYPESCRIPT = [("v1", "legacy"), ("v2", "legacy"), ("v2", "modern")]


@pytest.mark.parametrize(("release", "era"), TYPESCRIPT)
def test_the_typescript_client_over_http(gate: Gate, typescript: list[str], release: str, era: str) -> None:
    found = json.loads(run(*typescript, release, era, "http", gate.url, gate.tokens["data"]))
    check(found, TOOLS)
    assert found["server"] == "headgate"


@pytest.mark.parametrize(("release", "era"), TYPESCRIPT)
def test_the_typescript_client_on_stdio(tmp_path: Path, typescript: list[str], release: str, era: str) -> None:
    check(json.loads(run(*typescript, release, era, "stdio", *on_stdio(tmp_path))), ALL_TOOLS)
    assert {event.client_name for event in events_in(tmp_path)} == {f"typescript-{release}"}


def test_the_typescript_client_over_the_deprecated_transport(gate: Gate, typescript: list[str]) -> None:
    found = json.loads(run(*typescript, "v1", "legacy", "sse", sse_of(gate), gate.tokens["data"]))
    check(found, TOOLS)


def test_the_local_user_needs_no_token(gate: Gate, typescript: list[str]) -> None:
    check(json.loads(run(*typescript, "v2", "modern", "http", gate.url)), ALL_TOOLS)


# --- the program itself, from a table on --------------------------------------------------------


class Running(NamedTuple):
    """`headgate run` on a table of SQLite, and what a client needs of it."""

    url: str
    token: str
    stdio: list[str]
    """The command of `headgate mcp` beside it."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("program")
    with closing(sqlite3.connect(folder / "shop.db")) as owner:
        owner.execute("create table customers (id integer primary key, email text unique, plan text)")
        rows = [(number, f"c{number}@shop.example", "free") for number in range(1, 10)]
        owner.executemany("insert into customers values (?, ?, ?)", rows)
        owner.commit()
    source = f'pipelines: {{shop: {{source: {{kind: sqlite, path: "{folder / "shop.db"}"}}}}}}'
    config = write_config(folder, BASICS + source)
    token = run(PROGRAM, "token", "--config", config, "--scope", "data:read").strip()
    with headgate(folder, "run") as process:
        url = process.url()
        with httpx.Client(timeout=DEADLINE_S) as asking:
            until(lambda: is_fresh(asking, url))
        yield Running(url, token, [str(PROGRAM), "mcp", "--config", str(config)])


def is_fresh(asking: httpx.Client, url: str) -> bool:
    """Whether the local user is answered, and by what is fresh: the first heartbeat comes after the rows."""
    if not ready(url):
        return False
    answer = ask(asking, url, "lookup", {"entity": "customer", "key": 4}).result
    return answer is not None and answer["_meta"]["headgate/freshness"]["state"] == "fresh"


def test_a_python_client_of_the_1_line_uses_the_program(running: Running, old_python: list[str]) -> None:
    check_all_but_age(json.loads(run(*old_python, "http", running.url, running.token)), TOOLS)
    check_all_but_age(json.loads(run(*old_python, "stdio", *running.stdio)), ALL_TOOLS)


def test_the_typescript_client_uses_the_program(running: Running, typescript: list[str]) -> None:
    modern = [*typescript, "v2", "modern"]
    check_all_but_age(json.loads(run(*modern, "http", running.url, running.token)), TOOLS)
    check_all_but_age(json.loads(run(*modern, "stdio", *running.stdio)), ALL_TOOLS)


# --- MCP Inspector's command line ----------------------------------------------------------------


@pytest.mark.parametrize("transport", ["http", "sse", "stdio"])
def test_the_inspectors_command_line(gate: Gate, tmp_path: Path, transport: str) -> None:
    program = node_packages("inspector", CLIENTS / "inspector") / "node_modules" / ".bin" / "mcp-inspector"
    where: list[str] = [gate.url if transport == "http" else sse_of(gate)]
    token = ["--header", f"Authorization: Bearer {gate.tokens['data']}"]
    target = on_stdio(tmp_path) if transport == "stdio" else [*where, "--transport", transport, *token]

    def inspect(method: str, *more: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(run(BIN / "node", program, "--cli", *target, "--method", method, *more))
        return said

    tools = [tool["name"] for tool in inspect("tools/list")["tools"]]
    row = inspect("tools/call", "--tool-name", "lookup_customer", "--tool-arg", "customer_id=4")
    text = inspect("resources/read", "--uri", "docs://troubleshooting")
    forms = inspect("resources/templates/list")["resourceTemplates"]
    prompt = inspect("prompts/get", "--prompt-name", "explain_freshness", "--prompt-args", "entity=customer")
    assert tools == (ALL_TOOLS if transport == "stdio" else TOOLS)
    assert [each["values"] for each in row["structuredContent"]["rows"]] == [ROW]
    assert text["contents"][0]["text"].startswith("#")
    assert [each["uriTemplate"] for each in forms] == ["headgate://entity/{entity}/{key}"]
    assert "customer" in prompt["messages"][0]["content"]["text"]
