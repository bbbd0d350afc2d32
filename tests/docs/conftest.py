"""The running demo, and the folders that blocks run in."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
READY_WITHIN_S = 120.0
_URL = re.compile(r"serves a small shop at (http://\S+)")


@dataclass(frozen=True)
class Demo:
    """`headgate demo` under way. Blocks run in `folder`, where the demo's own is `headgate-demo`."""

    url: str
    folder: Path
    token: str

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.split("/")[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """What blocks run with: this environment's programs first, and a home of their own."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for the session, at a free port, once every entity can be read."""
    folder = tmp_path_factory.mktemp("demo")
    command = [str(BIN / "headgate"), "demo", "--port", "0", "--rate", "2", "--quiet"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watchdog = threading.Timer(READY_WITHIN_S, process.kill)
    watchdog.start()
    try:
        url = _url_of(process)
        _wait_until_ready(url)
        watchdog.cancel()
        yield Demo(url, folder, _token(folder))
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=READY_WITHIN_S)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a small shop.db and the headgate.yaml that `headgate init` makes of it."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(
            "create table customers (id integer primary key, name text not null, email text not null unique);"
            "create table orders (id integer primary key, customer_id integer not null references customers (id));"
        )
    run(tmp_path, "headgate", "init", "sqlite:///shop.db")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """What a command prints; it fails the test if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        found = _URL.search(line)
        if found:
            return found[1]
    raise AssertionError(f"the demo ended before it served:\n{''.join(said)}")


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(url.replace("/mcp", "/readyz"), timeout=60):
                return
        except urllib.error.HTTPError as error:
            error.close()
            assert time.monotonic() < deadline, f"the demo is not ready: {error.code}"
        threading.Event().wait(0.1)


def _token(folder: Path) -> str:
    return run(folder, "headgate", "token", "--config", "headgate-demo/headgate.yaml", "--scope", "data:read").strip()
