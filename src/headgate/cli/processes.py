"""`headgate run`, `serve` and `sync`: processes that live until they are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from headgate.app import App
from headgate.cli.progress import display, show_snapshots
from headgate.cli.signals import Signals
from headgate.collecting import collecting_rarely
from headgate.config import Config, load
from headgate.errors import ConfigError
from headgate.flow.stops import want_resnapshot
from headgate.model.pipeline import Half
from headgate.serving.following import follow_config
from headgate.serving.reload import version_of
from headgate.serving.serve import serve_http

_DOING: dict[Half, str] = {"capture": "capturing", "materialize": "materializing"}


def run_run(path: Path, port: int | None, *, flow: Sequence[Half], serve: bool, resnapshot: Sequence[str] = ()) -> None:
    """Runs the halves that were asked for, until SIGINT or SIGTERM; then ends both in order. A second one hurries."""
    version = version_of(path.read_bytes()) if path.exists() else ""
    with App(load(path)) as app:
        require_pipelines(app.config)
        signals = Signals(app.hurry)
        with signals.minded():
            for table in resnapshot:
                _want_resnapshot(app, table)
            if flow:
                app.start_flow(flow)
                typer.echo(f"{' and '.join(map(_DOING.__getitem__, flow))} {', '.join(app.config.pipelines)}", err=True)
            else:
                app.start_publishing()
            with collecting_rarely():
                run_loop(_until_stopped(app, port, signals, version, serve=serve))
            app.close()  # by signals that are minded still


def require_pipelines(config: Config) -> None:
    """ConfigError when there are none."""
    if not config.pipelines:
        raise ConfigError(f"{config.path}: there are no pipelines: make a config with  headgate init SOURCE_URL")


def address(config: Config, port: int) -> str:
    """Where MCP is served."""
    return f"http{'s' if config.server.tls else ''}://{config.server.host}:{port}/mcp"


def _want_resnapshot(app: App, name: str) -> None:
    pipeline, _, table = name.partition(".")
    if pipeline not in app.config.pipelines or not table:
        raise ConfigError(f"--resnapshot takes pipeline.schema.table; pipelines: {', '.join(app.config.pipelines)}")
    want_resnapshot(app.state, pipeline, table)


async def _until_stopped(app: App, port: int | None, signals: Signals, version: str, *, serve: bool) -> None:
    signals.attach()
    orders = signals.orders
    shown = asyncio.ensure_future(_show(app, orders.stop))

    def ready(bound: int) -> None:
        typer.echo(f"serving MCP at {address(app.config, bound)}", err=True)

    try:
        if serve:
            await serve_http(app, ready, orders, port=port, version=version)
        else:
            await follow_config(app, orders, version)
    finally:
        orders.stop.set()
        await shown


async def _show(app: App, stop: asyncio.Event) -> None:
    """How far this process's snapshots are."""
    if app.reporters:
        shown = display(Console(stderr=True), app.clock)
        await show_snapshots(lambda: [reporter.latest for reporter in app.reporters], shown, stop)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
