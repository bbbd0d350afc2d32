"""Shell and Python blocks do what they show."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from headgate.app import App
from headgate.config import load
from tests.docs.blocks import Block, all_blocks, blocks_of
from tests.docs.conftest import Demo, environment

DEADLINE_S = 120.0
SHELL = [block for block in all_blocks("sh", "console") if not block.skipped_because]
PYTHON = [block for block in all_blocks("python") if not block.skipped_because]
SQLITE3 = """#!{python}
import sqlite3, sys
from contextlib import closing
with closing(sqlite3.connect(sys.argv[1], isolation_level=None)) as connection:
    connection.execute(sys.argv[2])
"""


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell(block: Block, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if block.text.startswith("curl ") and shutil.which("curl") is None:
        pytest.skip("no curl on the PATH: install it to have this block run")
    folder, more, text = _place(block, request, tmp_path)
    if block.language == "sh":
        _end(block, _shell(text, folder, tmp_path, more))
        return
    for command, expected in _dialogue(text):
        done = _shell(command, folder, tmp_path, more)
        _end(block, done)
        assert _pattern(expected).fullmatch(done.stdout + done.stderr), f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block: Block, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder, more, text = _place(block, request, tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=folder, env=environment(tmp_path, **more), capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, f"{block}\n{done.stdout}{done.stderr}"


def test_the_change_that_the_readme_makes_is_answered(demo: Demo) -> None:
    """The README's shell block, and what it says of the next call."""
    with closing(sqlite3.connect(demo.folder / "headgate-demo" / "shop.db", timeout=60)) as connection:
        connection.execute("update customers set plan = 'basic' where id = 7")
        connection.commit()
    asked = (
        "import sys, time\n"
        "from mcp import Client\n"
        "import asyncio\n"
        "async def main():\n"
        "    deadline = time.monotonic() + 100\n"
        "    async with Client(sys.argv[1]) as client:\n"
        "        while True:\n"
        "            answer = await client.call_tool('lookup_customer', {'customer_id': 7})\n"
        "            if answer.structured_content['rows'][0]['values']['plan'] == 'basic':\n"
        "                return\n"
        "            assert time.monotonic() < deadline\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", asked, demo.url], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr


def _place(block: Block, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str], str]:
    """Where a block runs, with what more in its environment, and its text with the demo's real address."""
    if block.words == "with the demo":
        demo: Demo = request.getfixturevalue("demo")
        return demo.folder, {"TOKEN": demo.token}, block.text.replace("127.0.0.1:8765", demo.address)
    if block.words.endswith("shop"):
        folder: Path = request.getfixturevalue("shop")
        if "README" in block.page.name:  # there, init is what the block shows
            (folder / "headgate.yaml").unlink()
        if block.words == "with a captured shop":
            _capture(folder)
        return folder, {}, block.text
    for other in blocks_of(block.page):
        if other.words.startswith("setup "):
            (tmp_path / other.words.removeprefix("setup ")).write_text(other.text, encoding="utf-8")
    return tmp_path, {}, block.text


def _capture(folder: Path) -> None:
    """Puts triggers and tables into the shop.db, as a run does."""
    config = load(folder / "headgate.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with App(config) as app:
            for pipeline in config.pipelines.values():
                app.source(pipeline).capture(now_ms=app.clock).close()


def _shell(text: str, folder: Path, home: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environ = environment(home, COLUMNS="200", **more)
    if shutil.which("sqlite3") is None:
        program = home / "bin" / "sqlite3"
        program.parent.mkdir(exist_ok=True)
        program.write_text(SQLITE3.format(python=sys.executable), encoding="utf-8")
        program.chmod(0o755)
        environ["PATH"] += f":{program.parent}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip


def _end(block: Block, done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode != 0) == (block.words == "fails"), f"{block}\n{done.stdout}{done.stderr}"


def _dialogue(text: str) -> list[tuple[str, str]]:
    """Commands, each with the output that is shown after it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def _pattern(shown: str) -> re.Pattern[str]:
    """`…` stands for any text, and on a line of its own for any lines."""
    parts = [re.escape(part) for part in re.sub(r"^…\n", "\0", shown, flags=re.MULTILINE).split("…")]
    return re.compile("[^\n]*".join(parts).replace("\x00", "(?:.*\n)*"))
