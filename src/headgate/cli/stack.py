"""`headgate stack`: real servers on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from headgate.stack import DEFAULT_SERVICES, Stack


def run_up(folder: Path, more: Sequence[str]) -> None:
    """Starts the servers and prints the block to paste."""
    stack = Stack(folder.absolute(), [*DEFAULT_SERVICES, *more] if more else (), progress=say)
    stack.up()
    typer.echo(stack.connections_yaml().rstrip())


def run_down(folder: Path, *, purge: bool) -> None:
    """Stops them."""
    Stack(folder.absolute(), progress=say).down(purge=purge)


def run_status(folder: Path) -> None:
    """A line for each."""
    for status in Stack(folder.absolute()).status():
        where = ", ".join(str(value) for key, value in (status.connection or {}).items() if key != "kind")
        typer.echo(f"{status.name:10} {'running' if status.running else 'stopped':8} {where}")


def say(line: str) -> None:
    """Progress goes to standard error, so that standard output can be piped into a file."""
    typer.echo(line, err=True)
