"""Whoever runs a pipeline: a client whose credential may read, and change a pipeline's life."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.ways.asking import ask
from tests.ways.deployment import PROGRAM

BASICS = """\
data: data
server: {port: 0}
access: {local: true, budgets: {read: 1000000, write: 1000000}}
"""
"""What configs begin with whose operators ask without a pause."""

SCOPES = "pipelines:read,pipelines:write,data:read"
DEADLINE_S = 120.0


def command(folder: Path, *words: str) -> str:
    """Runs a command of ours that ends by itself, and answers what it printed."""
    done = subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Operator:
    """Asks one server about one pipeline."""

    def __init__(self, folder: Path, url: str, pipeline: str) -> None:
        token = command(folder, "token", "--scope", SCOPES).strip()
        self._client = httpx.Client(timeout=60, headers={"Authorization": f"Bearer {token}"})
        self._url = url
        self._pipeline = pipeline

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A whole result. It must not be an error."""
        answer = ask(self._client, self._url, tool, arguments)
        assert answer.result is not None and not answer.result["isError"], answer
        return answer.result

    def ask(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structure that a tool of pipelines answers."""
        found: dict[str, Any] = self.call(tool, pipeline_id=self._pipeline, **arguments)["structuredContent"]
        return found

    def status(self) -> str:
        (mine,) = (
            each
            for each in self.call("list_pipelines")["structuredContent"]["pipelines"]
            if each["pipeline_id"] == self._pipeline
        )
        return str(mine["status"])

    def detail(self) -> dict[str, Any]:
        return self.ask("get_pipeline_detail")

    def faults(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("get_pipeline_errors")["faults"]
        return found

    def letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("get_pipeline_errors", limit=200)["dead_letters"]
        return found

    def row(self, entity: str, key: Any) -> dict[str, Any] | None:
        """One row as it is answered: `values`, perhaps a `flaw`. None where there is none, or no snapshot yet."""
        answer = ask(self._client, self._url, "lookup", {"entity": entity, "key": key})
        if answer.result is None or answer.result["isError"]:
            return None
        rows = answer.result["structuredContent"]["rows"]
        return rows[0] if rows else None

    def values(self, entity: str, key: Any) -> dict[str, Any]:
        return (self.row(entity, key) or {"values": {}})["values"]  # type: ignore[no-any-return]  # JSON

    def freshness(self, entity: str) -> dict[str, Any]:
        """State and staleness of what is answered now."""
        answer = self.call("check_data_freshness", entity=entity)
        (mine,) = answer["structuredContent"]["entities"]
        found: dict[str, Any] = mine["freshness"]
        return found

    def close(self) -> None:
        self._client.close()


@contextmanager
def operator(folder: Path, url: str, pipeline: str) -> Iterator[Operator]:
    """An operator, for the length of a block."""
    opened = Operator(folder, url, pipeline)
    try:
        yield opened
    finally:
        opened.close()
