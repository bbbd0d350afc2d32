"""`headgate serve --workers N`: one port, served by several processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import typer

from headgate.app import App
from headgate.cli.processes import address, require_pipelines, run_loop
from headgate.cli.signals import Signals
from headgate.config import load
from headgate.errors import ConfigError, HeadgateError
from headgate.server.crowd import raise_files
from headgate.server.listen import bind
from headgate.serving.board import Board, Standing
from headgate.serving.handed import Handed
from headgate.serving.parent import WRONG_CONFIG, Parent, Place
from headgate.serving.reload import version_of
from headgate.serving.serve import serve_http

_BEAT_S = 0.25


def run_workers(path: Path, port: int | None, workers: int) -> int:
    """Serves until SIGTERM or SIGINT, and answers the exit code."""
    version, config = version_of(path.read_bytes()) if path.exists() else "", load(path)
    require_pipelines(config)
    raise_files()
    listener = bind(config.server.host, config.server.port if port is None else port)
    bound = listener.getsockname()[1]

    def ready() -> None:
        typer.echo(f"serving MCP at {address(config, bound)} by {workers} processes", err=True)
        typer.echo("the deprecated HTTP+SSE transport (/sse) is refused: it needs one process alone", err=True)

    return Parent(config, version, listener, workers, lambda place: _work(place, bound), ready).run()


def _work(place: Place, port: int) -> int:
    """One worker's life."""
    try:
        with App(place.config) as app:
            signals = Signals(app.hurry)
            with signals.minded(by_parent=True):
                app.start_publishing()
                run_loop(_serve(app, place, port, signals))
                app.close()  # by signals that are minded still
    except HeadgateError as error:
        print(f"headgate: {error.message}", file=sys.stderr)
        return WRONG_CONFIG if isinstance(error, ConfigError) else 1
    return 0


async def _serve(app: App, place: Place, port: int, signals: Signals) -> None:
    signals.attach()
    board, number = place.board, place.number
    handed = Handed(place.line, signals.orders)

    def ready(_: int) -> None:
        board.stand(number, Standing.ready)
        handed.ready()

    beside = [asyncio.ensure_future(each) for each in (_beat(board, number), _tell_end(signals, board, number))]
    try:
        await serve_http(
            app,
            ready,
            signals.orders,
            port=port,
            entry=handed,
            workers=board.counted,
            version=place.version,
            taken=handed.taken,
        )
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _beat(board: Board, number: int) -> None:
    while True:
        board.beat(number)
        await asyncio.sleep(_BEAT_S)


async def _tell_end(signals: Signals, board: Board, number: int) -> None:
    await signals.orders.stop.wait()
    board.stand(number, Standing.draining)
