"""`headgate demo`: the shop, its simulator, both ways and a live line, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from headgate.app import App
from headgate.cli.processes import run_loop, stop_on_signals
from headgate.config import load
from headgate.demo import shop
from headgate.demo.simulator import Database, PostgresShop, Simulator, SqliteShop, open_shop
from headgate.telemetry import wall_clock_ms

_REFRESH_S = 0.5
_PLAIN_EVERY_S = 5.0
_CHANGE = "update customers set plan='vip' where id=7"
_CHANGE_BOUND = "update customers set plan={} where id=7"


@dataclass(frozen=True)
class _Setting:
    """Where the shop is, and how it is served."""

    database: Database
    dialect: shop.Dialect
    config: Path
    change_line: str


def run_demo(folder: Path, port: int, seconds: float | None, rate: float, *, quiet: bool, with_stack: bool) -> None:
    """Runs until Ctrl-C, or for so many seconds from when it serves."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(_on_stack(folder) if with_stack else _embedded(folder))
        dice = random.Random(7)  # noqa: S311 - the shop is the same each time
        open_shop(setting.database, setting.dialect, dice, wall_clock_ms)
        app = stack.enter_context(App(load(setting.config)))
        app.start_flow()
        stopped = threading.Event()
        simulator = Simulator(setting.database, rate, dice, wall_clock_ms)
        worker = threading.Thread(target=simulator.run, args=(stopped,), name="shop", daemon=True)
        stack.callback(worker.join, 10)
        stack.callback(stopped.set)
        worker.start()
        run_loop(_serve(app, setting, port, seconds, quiet=quiet))
    typer.echo("the demo has ended; its files are in " + str(folder))


@contextlib.contextmanager
def _embedded(folder: Path) -> Iterator[_Setting]:
    path = folder / "shop.db"
    database = SqliteShop(path)
    config = folder / "headgate.yaml"
    config.write_text(shop.config(f'{{kind: sqlite, path: "{path}"}}', "main"), encoding="utf-8")
    try:
        yield _Setting(database, "sqlite", config, _sqlite_line(path))
    finally:
        database.close()


def _sqlite_line(path: Path) -> str:
    """A line for another shell, with what this machine has."""
    if shutil.which("sqlite3"):
        return f'sqlite3 {shlex.quote(str(path))} "{_CHANGE}"'
    change = f'c.execute("{_CHANGE_BOUND.format("?")}", ["vip"])'
    return _python_line(f'import sqlite3; c = sqlite3.connect("{path}"); {change}; c.commit()')


def _python_line(script: str) -> str:
    """The script has no single quote, so that the shell's stay readable."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"


@contextlib.contextmanager
def _on_stack(folder: Path) -> Iterator[_Setting]:
    """Postgres → Kafka → Valkey, all started here and stopped at the end."""
    from headgate import plugins
    from headgate.stack import DEFAULT_SERVICES, Postgres, Stack

    for family, kind in (("connections", "kafka"), ("connections", "redis"), ("connections", "postgres")):
        plugins.load(family, kind)  # type: ignore[arg-type]  # says which extra is missing before servers start
    servers = Stack(folder / "stack", DEFAULT_SERVICES, progress=lambda line: typer.echo(line, err=True))
    servers.up()
    postgres = servers.service("postgres")
    assert isinstance(postgres, Postgres)
    database = PostgresShop(postgres.dsn())
    config = folder / "headgate.yaml"
    source = f'{{kind: postgres, dsn: "{postgres.dsn()}"}}'
    places = "    log: main\n    store: cache\n"
    config.write_text(shop.config(source, "public", servers.connections_yaml(), places), encoding="utf-8")
    change = f'.execute("{_CHANGE_BOUND.format("%s")}", ["vip"])'
    script = f'import psycopg; psycopg.connect("{postgres.dsn()}", autocommit=True){change}'
    try:
        yield _Setting(database, "postgres", config, _python_line(script))
    finally:
        database.close()
        servers.down()


async def _serve(app: App, setting: _Setting, port: int, seconds: float | None, *, quiet: bool) -> None:
    stop = stop_on_signals()
    shown: list[asyncio.Task[None]] = []

    def ready(bound: int) -> None:
        _introduce(setting, bound)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stop.set)
        if not quiet:
            shown.append(asyncio.ensure_future(_show(app, stop)))

    try:
        await app.serve_http(ready, stop, port=port)
    finally:
        stop.set()
        await asyncio.gather(*shown)


def _introduce(setting: _Setting, port: int) -> None:
    url = f"http://127.0.0.1:{port}/mcp"
    program = shutil.which("headgate", path=str(Path(sys.executable).parent)) or "headgate"
    command = f'{{"command": "{program}", "args": ["mcp", "--config", "{setting.config}"]}}'
    typer.echo(f"""
Headgate serves a small shop at {url}

  Claude Code     claude mcp add --transport http shop {url}
  Claude Desktop  claude_desktop_config.json: {{"mcpServers": {{"shop": {command}}}}}
  Cursor          ~/.cursor/mcp.json:         {{"mcpServers": {{"shop": {{"url": "{url}"}}}}}}
  VS Code         code --add-mcp '{{"name":"shop","type":"http","url":"{url}"}}'
  Goose           goose session --with-streamable-http-extension {url}

Ask it: which customer is number 7, and what did they order last?
Change a row from another shell, and ask again:

  {setting.change_line}
""")


async def _show(app: App, stop: asyncio.Event) -> None:
    """A live line on a terminal; elsewhere a line each five seconds."""
    console = Console()
    if not console.is_terminal:
        await _each(_PLAIN_EVERY_S, stop, lambda: typer.echo(_plain(app)))
        return
    with Live(_live(app), console=console, auto_refresh=False, transient=True) as live:
        await _each(_REFRESH_S, stop, lambda: live.update(_live(app), refresh=True))


async def _each(seconds: float, stop: asyncio.Event, act: Callable[[], None]) -> None:
    while not stop.is_set():
        act()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


def _figures(app: App) -> dict[str, str]:
    halves = {reporter.latest.half: reporter.latest for reporter in app.reporters}
    capture, materialize = halves["capture"], halves["materialize"]
    faults = [report.fault for report in halves.values() if report.fault]
    lag = materialize.lag_ms
    return {
        "pipeline": faults[0].message if faults else materialize.state,
        "changes/s": f"{capture.events_per_s:,.0f}",
        "freshness": "not known yet" if lag is None else f"{lag / 1000:.1f} s behind",
        "calls": f"{app.calls:,}",
    }


def _plain(app: App) -> str:
    return "  ".join(f"{name} {value}" for name, value in _figures(app).items())


def _live(app: App) -> Table:
    table = Table.grid(padding=(0, 3))
    for name, value in _figures(app).items():
        table.add_row(f"[dim]{name}[/dim]", value)
    return table
