"""`headgate pipeline` and `headgate letters`: an operator's hand on running pipelines, wherever they run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Literal

import typer

from headgate.access.control import Control
from headgate.app import App
from headgate.config import load
from headgate.errors import ConfigError
from headgate.model.pipeline import DeadLetter

_SOON = "its processes obey within about a second, as soon as one runs"


def run_pause(config: Path, name: str) -> None:
    """Asks a pipeline to pause."""
    with _control(config, name, "pause") as control:
        is_news = control.pause()
    typer.echo(f"{name}: {'asked to pause' if is_news else 'was asked to pause already'}; {_SOON}")
    typer.echo("its source keeps what changes meanwhile: do not leave it paused for long")


def run_resume(config: Path, name: str) -> None:
    """Asks a pipeline to go on."""
    with _control(config, name, "resume") as control:
        is_news = control.resume()
    typer.echo(f"{name}: asked to go on; {_SOON}" if is_news else f"{name}: was not asked to pause")


def run_restart(config: Path, name: str) -> None:
    """Asks a pipeline to begin anew."""
    with _control(config, name, "restart") as control:
        control.restart()
    typer.echo(f"{name}: asked to begin anew from its saved positions; {_SOON}")


def run_resnapshot(config: Path, name: str, table: str) -> None:
    """Asks for one table to be read again."""
    with _control(config, name, "resnapshot", table) as control:
        is_news = control.resnapshot(table)
    typer.echo(f"{name}: {'asked' if is_news else 'was asked already'} to read {table} again; {_SOON}")


def run_letters_list(config: Path, name: str, limit: int) -> None:
    """A line for each of the newest letters."""
    with _opened(config, name) as app:
        letters, total = asyncio.run(_newest(app, name, limit))
    for letter in letters:
        typer.echo(f"{letter.id}  {_time(letter)}  {letter.code}  {letter.message}")
    typer.echo(f"{len(letters)} of {total} dead letters" if total else "no dead letters")


def run_letters(config: Path, name: str, action: Literal["retry", "drop"], ids: Sequence[str], *, every: bool) -> None:
    """Asks for letters to be retried or dropped."""
    if bool(ids) == every:
        raise ConfigError("name the letters by their ids, as  headgate letters list  shows them, or give --all")
    with _control(config, name, action, "all" if every else ", ".join(ids)) as control:
        control.letters(action, None if every else ids)
    which = "all dead letters" if every else f"{len(ids)} dead letter(s)"
    typer.echo(f"{name}: asked to {action} {which}; {_SOON}")


async def _newest(app: App, name: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
    try:
        return await app.reader.dead_letters(name, limit)
    finally:
        await app.reader.close()


def _time(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat(timespec="seconds")


@contextmanager
def _control(config: Path, name: str, action: str, subject: str = "") -> Iterator[Control]:
    """What may be asked of the pipeline, with what is asked in the record already."""
    with _opened(config, name) as app:
        asyncio.run(app.journal.pipeline(name, action, getuser(), subject))
        yield Control(app.state, name, app.clock)


@contextmanager
def _opened(config: Path, name: str) -> Iterator[App]:
    with App(load(config)) as app:
        if name not in app.config.pipelines:
            raise ConfigError(f"there is no pipeline {name!r}; pipelines: {', '.join(app.config.pipelines) or 'none'}")
        yield app
