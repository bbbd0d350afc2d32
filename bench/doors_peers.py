"""The peers of doors.py: where they come from, how each is started, and what it is asked.

FastMCP lives in an environment of its own, Google's MCP Toolbox in a folder of npm's; both are fetched once, as their
locks say (requirements/fastmcp.txt, bench/peers/package-lock.json), into the cache. What can't be fetched is said so.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from doors_load import Ask, call, start_on

from headgate.stack.account import cache_folder

HERE = Path(__file__).parent
ASKS = 20_000
READY_S = 60.0
FETCH_S = 600.0
_LOCKS = ("package.json", "package-lock.json")
_TOOLBOX = """\
kind: source
name: cache
type: redis
address: ["{address}"]
---
kind: tool
name: get_row
type: redis
source: cache
description: A row by its key.
commands:
  - [GET, $key]
parameters:
  - {{name: key, type: string, description: The key.}}
"""


class Missing(Exception):
    """A peer that can't be had here, and why."""


# --- servers -------------------------------------------------------------------------------------


class Echo:
    """One of the servers of doors_echo.py."""

    def __init__(self, kind: str, core: int) -> None:
        python = str(_fastmcp() / "bin" / "python") if kind == "fastmcp" else sys.executable
        command = [python, str(HERE / "doors_echo.py"), kind]
        self.version = _fastmcp_version() if kind == "fastmcp" else version("uvicorn" if kind == "bare" else "mcp")
        self.process = start_on([core], command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise Missing(f"{kind} did not start")
        self.port = int(said)

    def asks(self, era: str) -> Iterator[Ask]:
        """Texts to send back."""
        texts = (f"said-{number}-" for number in range(ASKS))
        made = (
            Ask(call(self.port, era, "echo", {"text": text}, number=place), text.encode())
            for place, text in enumerate(texts)
        )
        return itertools.cycle(list(made))

    def stop(self) -> None:
        """Ends it."""
        _end(self.process)


class Toolbox:
    """Google's MCP Toolbox, whose one tool is a GET of Redis, by whatever key; here those of the store's own rows."""

    def __init__(self, folder: Path, core: int, url: str, keys: Sequence[tuple[str, str]]) -> None:
        """`keys` are keys of rows, each with what its row alone holds."""
        program = _node_packages() / "node_modules" / "@toolbox-sdk" / "server-linux-x64" / "bin" / "toolbox"
        self.version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        file = folder / "toolbox.yaml"
        file.write_text(_TOOLBOX.format(address=url.split("/")[2]))
        self.port = _free_port()
        self._keys = keys
        words = ["--config", str(file), "--port", str(self.port), "--disable-version-check", "--disable-reload"]
        quiet = ["--log-level", "ERROR"]
        self.process = start_on([core], [str(program), *words, *quiet], stdout=subprocess.DEVNULL, stderr=None)
        _until_open(self.port, self.process)

    def asks(self, era: str) -> Iterator[Ask]:
        """Rows by their keys in Redis."""
        made = [
            Ask(call(self.port, era, "get_row", {"key": key}, number=place), proof.encode())
            for place, (key, proof) in enumerate(self._keys)
        ]
        return itertools.cycle(made)

    def stop(self) -> None:
        """Ends it."""
        _end(self.process)


# --- where they come from ------------------------------------------------------------------------


def _node_packages() -> Path:
    """The packages of bench/peers; nothing of theirs is run when they are installed."""
    node = Path(sys.executable).parent

    def install(folder: Path) -> None:
        for file in _LOCKS:
            shutil.copy(HERE / "peers" / file, folder)
        path = {**os.environ, "PATH": f"{node}:{os.environ['PATH']}"}
        command = [str(node / "npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run(command, cwd=folder, env=path)

    return _made_once("toolbox", HERE / "peers" / _LOCKS[1], install)


def _fastmcp() -> Path:
    requirements = HERE.parent / "requirements" / "fastmcp.txt"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
        # The lock is whole. Debian 12's pip would ask it for `pydantic[email]`, which it names without the extra.
        _run([*pip, "install", "--quiet", "--no-deps", "--require-hashes", "--requirement", str(requirements)])

    return _made_once(f"fastmcp-{sys.version_info.major}.{sys.version_info.minor}", requirements, install)


def _fastmcp_version() -> str:
    found = next(_fastmcp().glob("lib/*/site-packages/fastmcp-*.dist-info"))
    return found.name.split("-")[1].removesuffix(".dist")


def _made_once(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache_folder(None) / "bench" / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{name}-draft-"))
        try:
            install(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What it prints."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name} can't be run: {error}") from error
    if done.returncode:
        raise Missing(f"it can't be installed: {done.stderr.strip()[:500]}")
    return done.stdout


# --- processes -----------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _until_open(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    _end(process)
    raise Missing("it did not start")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
