"""The official conformance suite against Headgate's own stack: as `make conformance`, which prints what came of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.suite import LANES, Run, allowed, required, run_suite, tasks, unexpected, whole
from tests.ways.clients.process import Gate, events_in


@pytest.fixture(scope="module", params=LANES)
def fixture_server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Gate]:
    server = Gate(tmp_path_factory.mktemp("conformance"), "conformance", request.param)
    try:
        yield server
    finally:
        server.close()


def test_all_that_the_revision_requires_holds(fixture_server: Gate) -> None:
    outcomes = run_suite(fixture_server.url, required())
    assert unexpected(required(), outcomes) == {}
    assert len(outcomes) == 37
    assert all(outcome.passed for outcome in outcomes.values())
    assert {event.door for event in events_in(fixture_server.folder)} == {"http"}, "the page has recorded the calls"


def test_every_scenario_of_the_tasks_extension_holds(fixture_server: Gate) -> None:
    outcomes = run_suite(fixture_server.url, tasks())
    assert unexpected(tasks(), outcomes) == {}
    assert outcomes.keys() == set(tasks().one_by_one)
    assert all(outcome.passed for outcome in outcomes.values())


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_nothing_fails_that_the_sdks_own_server_holds(fixture_server: Gate, revision: str) -> None:
    run: Run = whole(revision)
    outcomes = run_suite(fixture_server.url, run)
    assert unexpected(run, outcomes) == {}
    assert len(outcomes) > 30
    assert {name for name, outcome in outcomes.items() if outcome.failed} == set(allowed(run)), (
        "waivers that are needed"
    )
