"""`headgate demo` as a newcomer runs it: what it says, and that a row changed beside it is what the tools answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from headgate.stack import Stack
from headgate.stack.ports import free_port
from tests.services import throwaway_folder
from tests.ways.asking import ask
from tests.ways.deployment import PATIENCE_S, PROGRAM, headgate, ready, until


class Demo(NamedTuple):
    """One that serves."""

    port: int
    url: str
    change: str
    """The line that it prints for another shell."""


@contextmanager
def running_demo(folder: Path, *words: str) -> Iterator[Demo]:
    """A quiet demo that runs until it is asked to end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    with headgate(folder, "demo", "--port", str(port), "--quiet", *words) as process:
        until(lambda: ready(url))
        (change,) = until(lambda: re.findall(r"^ +(\S.*update customers set plan.*)$", process.text(), re.MULTILINE))
        yield Demo(port, url, change)
    assert "changes/s" not in process.text()
    assert "the demo has ended" in process.text()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("demo")) as found:
        yield found


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)


def plan_of_seven(url: str) -> str:
    """What the tool says of customer 7, whom the shop itself leaves alone."""
    with httpx.Client(timeout=60) as asking:
        answer = ask(asking, url, "lookup_customer", {"customer_id": 7})
    assert answer.result is not None, answer
    (row,) = answer.result["structuredContent"]["rows"]
    return str(row["values"]["plan"])


def change_and_see(demo: Demo) -> None:
    """By the very line that is printed, in a shell of its own."""
    assert plan_of_seven(demo.url) != "vip"
    subprocess.run(demo.change, shell=True, check=True, timeout=PATIENCE_S)
    until(lambda: plan_of_seven(demo.url) == "vip")


def test_it_says_how_to_reach_it_and_ends_by_itself(tmp_path: Path) -> None:
    port = free_port()
    done = run(tmp_path, "demo", "--dir", "shop", "--port", str(port), "--for", "3", "--rate", "50")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    url = f"http://127.0.0.1:{port}/mcp"
    for line in (
        f"claude mcp add --transport http shop {url}",
        "claude_desktop_config.json",
        "~/.cursor/mcp.json",
        "code --add-mcp",
        f"goose session --with-streamable-http-extension {url}",
        "update customers set plan=",  # for the sqlite3 program, or for Python where that is missing
        "changes/s",
        "freshness",
        "calls",
        f"the demo has ended; its files are in {tmp_path / 'shop'}",
    ):
        assert line in said
    assert "Traceback" not in said


def test_a_row_changed_by_the_printed_line_is_what_the_tools_answer(demo: Demo) -> None:
    change_and_see(demo)


def test_a_busy_port_names_a_free_one(demo: Demo, tmp_path: Path) -> None:
    busy = run(tmp_path, "demo", "--port", str(demo.port), "--for", "5", "--quiet")
    assert busy.returncode == 1
    assert re.search(rf"port {demo.port} is busy: port \d+ is free", busy.stderr)
    assert "Traceback" not in busy.stderr


def test_on_real_servers_it_does_the_same_and_leaves_none_of_them_running() -> None:
    with throwaway_folder() as folder:
        with running_demo(folder, "--stack") as demo:
            change_and_see(demo)
        statuses = Stack(folder / "headgate-demo" / "stack").status()
        assert {status.name for status in statuses} == {"kafka", "postgres", "valkey"}
        assert not any(status.running for status in statuses)
