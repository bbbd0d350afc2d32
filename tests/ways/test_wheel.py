"""The built wheel works with `src` gone: its code, its texts and its locks are all in it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and our own environment's libraries behind it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("headgate-*.whl")
    venv.create(folder / "env", with_pip=False)
    program = folder / "env" / "bin" / "python"
    paths = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return program


def run(python: Path, folder: Path, code: str) -> str:
    done = subprocess.run([str(python), "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_wheel_that_is_imported(python: Path, tmp_path: Path) -> None:
    found = run(python, tmp_path, "import headgate; print(headgate.__file__)")
    assert str(ROOT / "src") not in found
    assert str(python.parents[1]) in found


def test_the_demo_runs(python: Path, tmp_path: Path) -> None:
    words = ["demo", "--dir", str(tmp_path / "shop"), "--port", "0", "--for", "6"]
    said = run(python, tmp_path, f"import sys; from headgate.cli import main; sys.exit(main({words!r}))")
    assert "Headgate serves a small shop at http://127.0.0.1:" in said
    assert "the demo has ended" in said


def test_the_stack_finds_its_lock_and_every_room_its_files(python: Path, tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, headgate
for found in pkgutil.walk_packages(headgate.__path__, "headgate."):
    importlib.import_module(found.name)
from headgate.stack import jars
assert len(jars.locked("kafka")) > 5
from headgate.tools._resources import resources
assert resources()
"""
    run(python, tmp_path, code)
