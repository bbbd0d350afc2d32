"""How `make test` shares out the tests, and which of those that failed it tries again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import rings

FAILED = "tests/ways/test_push.py::test_a_cut_connection_hides_no_change"
CONTRACT = "tests/contracts/test_log_kafka.py::test_the_broker_places_time"


def test_each_process_has_ways_of_its_own_that_are_there() -> None:
    named = [*rings.BESIDE, *rings.THIRD]
    assert len(set(named)) == len(named)
    for name in named:
        assert Path("tests/ways", f"test_{name}.py").is_file(), name


def test_what_failed_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_both.py").write_text("def test_good(): pass\ndef test_bad(): assert 1 == 2\n")
    cache = tmp_path / "cache"
    assert rings.failures_in(cache) == []
    code = subprocess.call(
        [sys.executable, "-m", "pytest", "-q", "-o", f"cache_dir={cache}", "test_both.py"],
        cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert code == 1
    assert rings.failures_in(cache) == ["test_both.py::test_bad"]


@pytest.mark.parametrize(
    ("failed", "again"),
    [
        ([], False),
        ([FAILED], True),
        ([FAILED, CONTRACT], True),
        (["tests/unit/connections/test_multiplexed.py::test_a_loop"], True),
        ([FAILED] * 5, True),
        ([FAILED] * 6, False),
        ([FAILED, "tests/unit/test_config.py::test_unknown"], False),
        (["tests/ways/test_push.py"], False),  # could not be read at all
    ],
)
def test_a_few_on_servers_are_tried_again_and_nothing_else(failed: list[str], again: bool) -> None:
    assert rings.may_be_tried_again(failed) is again
