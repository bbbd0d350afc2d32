"""The fault table names tests that exist, and the steps that the code has."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT
from tests.ways.test_fault_matrix import FAULTS, STEPS

TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_every_step_and_fault_of_the_matrix_stands_in_the_tables() -> None:
    assert set(re.findall(r"^\| \d \| `([\w.]+)` \|", TEXT, re.MULTILINE)) == set(STEPS)
    assert all(f"(`{fault}`)" in TEXT for fault in FAULTS)
