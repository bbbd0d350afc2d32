"""One replica that offers talking tools beside its own: `python -m tests.ways.talking_replica CONFIG`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headgate.access.view import View
from headgate.app import App
from headgate.cli.processes import address, run_loop
from headgate.cli.signals import Signals
from headgate.config import load
from headgate.model.entity import Entity
from headgate.serving.serve import serve_http
from headgate.tools._client import Client, elicitation
from headgate.tools.base import Result, TalkingTool, TaskUse, Tool, discover
from tests.unit.server.talkers import NAME, Given, Talkers
from tests.ways.deployment import until_async


async def _answer(_: View, given: Given, __: Client) -> Result:
    return Result(structured={"about": given.about}, text="done")


async def _hold(_: View, given: Given, client: Client) -> Result:
    """Answers once the file that it is asked about is gone."""

    async def is_gone() -> bool:
        return not await asyncio.to_thread(Path(given.about).exists)

    await client.progress(0, None, "begun")
    await until_async(is_gone)
    return Result(structured={"about": given.about}, text="done")


async def _ask(_: View, __: Given, client: Client) -> Result:
    if "who" not in client.answers:
        await client.ask({"who": elicitation("Who?", NAME)})
    return Result(structured=client.answers["who"]["content"], text="done")


def _tool(name: str, answer: Any, task: TaskUse = "required") -> Tool:
    return TalkingTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=Given, output_schema={"type": "object"},
        answer=answer, task=task,
    )  # fmt: skip


OFFERED = [_tool("later", _answer), _tool("endless", _hold), _tool("ask_later", _ask), _tool("hold", _hold, "never")]
"""Those that become tasks at once, and one that never does."""


def main(path: Path) -> None:
    """Serves until SIGTERM."""
    talkers = Talkers()

    def offered(entities: Mapping[str, Entity]) -> Mapping[str, Tool]:
        return dict(
            sorted({**discover(entities), **talkers.tools(entities), **{tool.name: tool for tool in OFFERED}}.items())
        )

    with App(load(path)) as app:
        app.__dict__["rooms"] = replace(app.rooms, offer=replace(app.rooms.offer, tools=offered))
        signals = Signals(app.hurry)
        with signals.minded():
            run_loop(_serve(app, signals))


async def _serve(app: App, signals: Signals) -> None:
    signals.attach()
    await serve_http(app, lambda port: print(f"serving MCP at {address(app.config, port)}", flush=True), signals.orders)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
