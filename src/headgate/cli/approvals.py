"""`headgate approvals`: who has the data folder, or the state, decides about calls of others that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from headgate.access.approval import Approvals
from headgate.access.identity import os_user
from headgate.app import App
from headgate.audit.event import rfc3339
from headgate.config import load
from headgate.errors import ConfigError
from headgate.model.approval import LONGEST_REASON, Approval, Decision
from headgate.model.caller import Caller
from headgate.tools._frames import inert


def run_list(config: Path, *, every: bool) -> None:
    """What waits, with whose call and which arguments; with `every` also what is decided and not over."""
    with _opened(config) as approvals:
        found = asyncio.run(approvals.every())
    shown = [each for each in found if every or each.phase == "waiting"]
    for approval in shown:
        typer.echo(_line(approval))
    if not shown:
        typer.echo("no approvals" if every else "no approvals wait")


def run_decide(config: Path, approval_id: str, decision: Decision, reason: str) -> None:
    """Decides, as the local user."""
    if len(reason) > LONGEST_REASON or (decision == "denied" and not reason.strip()):
        raise ConfigError(f"say why with --reason, in {LONGEST_REASON} characters at most: the caller is told it")
    by = Caller(subject=os_user(), method="local", scopes=frozenset())
    with _opened(config) as approvals:
        approval = asyncio.run(approvals.decide(approval_id, decision, reason.strip(), by, _anybodys))
    typer.echo(f"{approval.id}: {approval.phase}; until {rfc3339(approval.ends_ms)}")


def _anybodys(_: Approval) -> None:
    """No policy hides anything from who has the state itself."""


def _line(approval: Approval) -> str:
    wish, kept = approval.wish, approval.arguments
    arguments = inert(kept.json.decode()) if kept.json else f"{kept.size} bytes, {kept.sha256}"
    who = f"{wish.caller.subject} ({wish.caller.method}{f', {wish.caller.issuer}' if wish.caller.issuer else ''})"
    return (
        f"{approval.id}  {approval.phase}  {inert(who)}: {wish.tool} {arguments}"
        f"  asked {rfc3339(approval.asked_ms)}, until {rfc3339(approval.ends_ms)}"
    )


@contextmanager
def _opened(config: Path) -> Iterator[Approvals]:
    with App(load(config)) as app:
        yield Approvals(app.state, app.clock, app.config.access.approvals, app.journal.approval)
