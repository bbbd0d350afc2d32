"""`headgate verify`: whether the store holds what the source holds."""

from __future__ import annotations

import asyncio
import sys

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from headgate.app import App
from headgate.config import Config
from headgate.errors import ConfigError, Unavailable
from headgate.flow.verify import Verified

DIFFERENT = 1
UNCLEAR = 2


def run_verify(config: Config, pipeline: str, settle_s: float) -> int:
    """Compares every entity of a pipeline. 0: the same; 1: not; 2: that could not be told."""
    if pipeline not in config.pipelines:
        there = ", ".join(config.pipelines) or "none"
        raise ConfigError(f"there is no pipeline {pipeline!r}; pipelines: {there}")
    try:
        with App(config) as app:
            results = asyncio.run(_verify(app, pipeline, settle_s))
    except Unavailable as error:
        typer.echo(f"headgate: {error.message}", err=True)
        return UNCLEAR
    for result in results:
        _show(result)
    outcomes = {result.outcome for result in results}
    return DIFFERENT if "different" in outcomes else UNCLEAR if "unclear" in outcomes else 0


async def _verify(app: App, pipeline: str, settle_s: float) -> list[Verified]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("begins", total=None)
        return await app.verify(
            pipeline, settle_s, lambda what, rows: bar.update(task, description=what, completed=rows)
        )


def _show(result: Verified) -> None:
    typer.echo(f"{result.entity}: {_said(result)}")
    for difference in result.differences:
        flaw = f" (marked {difference.flaw})" if difference.flaw else ""
        typer.echo(f"  {difference.kind:9} {difference.key}{flaw}")
    if result.total > len(result.differences):
        typer.echo(f"  and {result.total - len(result.differences)} more")


def _said(result: Verified) -> str:
    if result.outcome == "same":
        return f"the same, {result.rows} rows"
    unclear = []
    if result.unsettled:
        unclear.append(f"{result.unsettled} keys changed at each look, so that nothing can be said of them")
    if result.left_out:
        unclear.append(f"{result.left_out} more differed at first and were not looked at again, as there were too many")
    if result.outcome == "unclear":
        return f"not known to be the same: of {result.rows} rows, {'; '.join(unclear)}. Try again when it is quieter"
    return "; ".join([f"{result.total} of {result.rows} rows differ and stay different", *unclear])
