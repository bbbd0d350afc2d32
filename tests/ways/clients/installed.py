"""Programs of others that tests run, each installed once, as its lock says, into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from headgate.stack.account import cache_folder
from tests.ways.clients.process import DEADLINE_S, ROOT

BIN = Path(sys.executable).parent
FETCH_S = 600.0


def run(*command: str | Path, cwd: Path = ROOT, timeout_s: float = DEADLINE_S) -> str:
    """What a command prints. It fails the test with its errors if it fails."""
    done = attempt(*command, cwd=cwd, timeout_s=timeout_s)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def attempt(*command: str | Path, cwd: Path = ROOT, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
    """A command that ended, by whatever code."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s)


def node_packages(name: str, source: Path) -> Path:
    """A folder with the packages that the lock in the source folder names, and nothing of theirs run meanwhile."""
    lock = ("package.json", "package-lock.json")

    def install(folder: Path) -> None:
        for file in lock:
            shutil.copy(source / file, folder)
        run(BIN / "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder, timeout_s=FETCH_S)

    return made_once(name, [source / file for file in lock[1:]], install)


def made_once(name: str, recipe: Sequence[Path], commands: Callable[[Path], None]) -> Path:
    """A folder in the cache, filled by `commands(folder)` unless one of the same recipe is there."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in recipe)).hexdigest()[:16]
    folder = cache_folder(None) / "clients" / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{name}-draft-"))
        try:
            commands(draft)
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder
