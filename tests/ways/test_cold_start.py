"""What a process has imported when it has begun its work: no more than it must.

A client waits for its stdio server, and a person for a command, and nearly all of that is imports: a heavy one that
comes into this way is found here by its name, on any machine, where a time would say nothing.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.ways.deployment import write_config

CHILD = """
import json, sys
from headgate import cli
from headgate.cli import mcp
mcp._FLOW_AFTER_S = 3_600.0  # what comes after the first answers stays away
code = cli.main(["mcp", "--config", sys.argv[1]])
from pydantic import BaseModel
def those_under(model):
    for each in model.__subclasses__():
        yield each
        yield from those_under(each)
built = [f"{each.__module__}.{each.__name__}" for each in those_under(BaseModel) if each.__pydantic_complete__]
print(json.dumps({"modules": sorted(sys.modules), "built": built}), file=sys.stderr)
sys.exit(code)
"""
FLOWING = """
import json, sys, threading
from pathlib import Path
from headgate.app import App
from headgate.cli import audit, credentials, doctor, pipelines, policy, processes, setup, verify
from headgate.config import load
code = setup.run_check(Path(sys.argv[1]))
with App(load(Path(sys.argv[1]))) as app:
    app.start_flow()
    while sorted(each.latest.state for each in app.reporters) != ["running", "running"]:
        threading.Event().wait(0.01)
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
"""Whatever there is of commands that serve nobody, `headgate check` and a flow among them."""
DEADLINE_S = 120.0
GREETING = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
LATER = (
    "typer", "rich", "confluent_kafka", "redis", "hiredis", "psycopg", "pymysql", "pymysqlreplication", "fastavro",
    "headgate.cli.commands", "headgate.connections.kafka", "headgate.flow.capture", "headgate.flow.materialize",
    "headgate.flow.lanes", "headgate.server.express", "headgate.server.http", "headgate.server.listen",
    "headgate.access.document", "headgate.access.policy_file", "headgate.audit.verify", "headgate.stack",
)  # fmt: skip
"""Whole packages and modules that the first answers do without."""
PROTOCOL = ("mcp", "mcp_types", "uvicorn", "httptools", "sse_starlette")


def asked(server: subprocess.Popen[str], method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}) + "\n")
    server.stdin.flush()
    result: dict[str, Any] = json.loads(server.stdout.readline())["result"]
    return result


def shop_in(folder: Path) -> Path:
    """The config of a table in a file there."""
    with closing(sqlite3.connect(folder / "shop.db")) as owner:
        owner.execute("create table customers (id integer primary key, email text unique)")
    pipeline = f'shop: {{source: {{kind: sqlite, path: "{folder / "shop.db"}"}}}}'
    return write_config(folder, f"data: data\naccess: {{local: true}}\npipelines: {{{pipeline}}}\n")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """A stdio server that has answered its first list: its modules, and the pydantic models that are built."""
    config = shop_in(tmp_path_factory.mktemp("cold"))
    command = [sys.executable, "-c", CHILD, str(config)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as server:
        asked(server, "initialize", GREETING)
        assert asked(server, "tools/list", {})["tools"]
        _, said = server.communicate(timeout=DEADLINE_S)
    assert server.returncode == 0, said
    found: dict[str, list[str]] = json.loads(said.splitlines()[-1])
    return found


def test_nothing_heavy_is_imported_before_the_first_list(begun: dict[str, list[str]]) -> None:
    assert "headgate.server.stdio" in begun["modules"]
    early = [name for name in begun["modules"] if any(name == each or name.startswith(f"{each}.") for each in LATER)]
    assert early == []


def test_the_protocol_s_messages_are_built_when_they_come(begun: dict[str, list[str]]) -> None:
    """Of the era that the client does not speak, none; of the SDK's own, a few of some hundreds."""
    built = [name for name in begun["built"] if name.startswith("mcp_types.")]
    assert built and len(built) < 60, built
    assert not [name for name in built if name.startswith("mcp_types._v2026_07_28.")]


def test_who_serves_nobody_goes_without_the_protocol(tmp_path: Path) -> None:
    """It takes each command a second, and each `headgate sync` 30 MiB."""
    command = [sys.executable, "-c", FLOWING, str(shop_in(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stderr.splitlines()[-1])
    assert "headgate.flow.materialize" in modules
    assert [name for name in modules if name.partition(".")[0] in PROTOCOL] == []
