"""Runs the official conformance suite against the fixture server: `python -m tests.conformance.suite`.

Every failure is held against `baseline.json`: what the SDK's own everything-server, run stateless, fails too, each
with the reason. The suite is pinned in package-lock.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.ways.clients.installed import BIN, attempt, node_packages
from tests.ways.clients.process import Gate

HERE = Path(__file__).parent
LANES: Final = ("on", "off")
"""Of the express lane."""
REVISION: Final = "2026-07-28"
_SUITE_S = 300.0
_TASKS = (
    "tasks-capability-negotiation", "tasks-dispatch-and-envelope", "tasks-lifecycle", "tasks-mrtr-composition",
    "tasks-mrtr-input", "tasks-request-headers", "tasks-request-state-removal", "tasks-required-task-error",
    "tasks-wire-fields",
)  # fmt: skip
"""All but `tasks-status-notifications`, which the suite itself skips."""


@dataclass(frozen=True)
class Run:
    """One way to run the suite."""

    name: str
    arguments: tuple[str, ...]
    scored: frozenset[str] | None = None
    """The scenarios that count; None: all of them."""
    one_by_one: tuple[str, ...] = ()
    """Scenarios that the suite runs only by their names."""


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario: how many checks held, and the ids of those that did not."""

    passed: int
    failed: tuple[str, ...]


def required() -> Run:
    """What the revision requires, frozen at its release."""
    return Run("required", ("--requirements", REVISION), frozenset(baseline()["required"]))


def tasks() -> Run:
    """The scenarios of the Tasks extension, which belong to no revision."""
    return Run("tasks", ("--spec-version", REVISION, "--force"), one_by_one=_TASKS)


def whole(revision: str) -> Run:
    """Every scenario that there is for a revision."""
    return Run(f"all {revision}", ("--suite", "all", "--spec-version", revision))


def baseline() -> dict[str, Any]:
    """What the SDK's own server fails: revision → scenario → `checks` and the `reason`; and what is required."""
    found: dict[str, Any] = json.loads((HERE / "baseline.json").read_text(encoding="utf-8"))
    return found


def allowed(run: Run) -> dict[str, set[str]]:
    """The checks that may fail in a run, by scenario."""
    is_whole = run.scored is None and not run.one_by_one
    failures = baseline()["failures"].get(run.arguments[-1], {}) if is_whole else {}
    return {scenario: set(each["checks"]) for scenario, each in failures.items()}


def run_suite(url: str, run: Run) -> dict[str, Outcome]:
    """What came of each scenario that counts."""
    program = node_packages("conformance", HERE) / "node_modules" / "@modelcontextprotocol" / "conformance"
    named_or_all: list[tuple[str, ...]] = [("--scenario", name) for name in run.one_by_one] or [()]
    with tempfile.TemporaryDirectory() as folder:
        for which in named_or_all:
            ended = attempt(
                BIN / "node", program / "dist" / "index.js", "server", "--url", url, "-o", folder, *which,
                *run.arguments, timeout_s=_SUITE_S,
            )  # fmt: skip
        outcomes = {file.parent.name: _outcome(file) for file in Path(folder).glob("server-*/checks.json")}
    assert outcomes, f"the suite did not run:\n{ended.stdout[-2_000:]}\n{ended.stderr[-2_000:]}"
    named = {_scenario_of(name): outcome for name, outcome in outcomes.items()}
    return {name: each for name, each in sorted(named.items()) if run.scored is None or name in run.scored}


def unexpected(run: Run, outcomes: dict[str, Outcome]) -> dict[str, list[str]]:
    """The checks that failed and may not, by scenario."""
    may = allowed(run)
    wrong = {name: sorted(set(each.failed) - may.get(name, set())) for name, each in outcomes.items()}
    return {name: checks for name, checks in wrong.items() if checks}


def _outcome(file: Path) -> Outcome:
    checks = json.loads(file.read_text(encoding="utf-8"))
    failed = tuple(sorted({check["id"] for check in checks if check["status"] == "FAILURE"}))
    return Outcome(sum(check["status"] == "SUCCESS" for check in checks), failed)


def _scenario_of(folder: str) -> str:
    """`server-<scenario>-<time>`: the time is 2026-11-21T05-50-44-807Z."""
    return folder.removeprefix("server-")[: -len("-0000-00-00T00-00-00-000Z")]


def main() -> int:
    """Prints what came of each run; 1 if anything failed that may not."""
    wrong = 0
    for express in LANES:
        print(f"express lane {express}")
        with tempfile.TemporaryDirectory() as folder:
            gate = Gate(Path(folder), "conformance", express)
            try:
                for run in (required(), whole("2026-07-28"), whole("2025-11-25"), tasks()):
                    wrong += _report(run, run_suite(gate.url, run))
            finally:
                gate.close()
    return min(wrong, 1)


def _report(run: Run, outcomes: dict[str, Outcome]) -> int:
    wrong = unexpected(run, outcomes)
    held = sum(not each.failed for each in outcomes.values())
    print(f"{run.name}: {held} of {len(outcomes)} scenarios, {sum(each.passed for each in outcomes.values())} checks")
    for name, each in outcomes.items():
        if each.failed:
            print(f"  {name}: {', '.join(each.failed)}{'' if name in wrong else ' (the SDK fails it too)'}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
