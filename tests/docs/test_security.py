"""The page on security names tests that there are."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| risk", "| attack"))]

_LOCKED = re.compile(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}")


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda value: str(value).rpartition("/")[2])
def test_a_named_test_is_there(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert test in functions


def test_what_looks_like_a_tests_name_is_one() -> None:
    """A name that is misspelled would go unseen."""
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    quoted = [text for text in re.findall(r"`([^`]+)`", prose) if "tests/" in text or "::" in text]
    assert {tuple(text.split("::")) for text in quoted} == set(NAMED)
    assert all(test.startswith("test_") for _, test in NAMED)


def test_every_line_names_one() -> None:
    assert len(ROWS) == 17
    assert [row.split("|")[1] for row in ROWS if "::test_" not in row] == []


def test_every_dependency_is_locked_with_its_hashes() -> None:
    """And `pip` is told to take nothing else."""
    locks = sorted((ROOT / "requirements").glob("*.txt"))
    assert {lock.stem for lock in locks} >= {"demo", "dev", "stack"}
    for lock in locks:
        locked = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
        entries = [line for line in locked if line.strip() and not line.lstrip().startswith("#")]
        assert entries and [line for line in entries if not _LOCKED.match(line)] == [], lock.name
    installs = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert installs and [line for line in installs if not {"--require-hashes", "--no-index"} & set(line.split())] == []
