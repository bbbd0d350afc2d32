"""`headgate token` and `headgate key`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer

from headgate.access.keys import KeyInfo
from headgate.access.revocations import Mark, Sort
from headgate.access.token import mint_token
from headgate.app import App
from headgate.config import load
from headgate.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def run_token(config: Path, scopes: Sequence[str], for_: str, subject: str) -> None:
    """Prints a token, and nothing else, so that it can be captured by a shell."""
    with App(load(config)) as app:
        if not app.config.access.takes_dev_tokens:
            raise ConfigError("This config has issuers of its own: development tokens need dev_tokens: true.")
        issuer = app.dev_issuer()
        assert issuer.secret is not None
        typer.echo(
            mint_token(
                issuer.secret,
                issuer=issuer.issuer,
                audience=issuer.audience,
                subject=subject,
                scopes=_scopes(scopes),
                ttl_s=seconds(for_),
                clock=app.clock,
            )
        )


def run_key_make(config: Path, name: str, scopes: Sequence[str], for_: str | None) -> None:
    """Prints the key's id and its secret, this once."""
    with App(load(config)) as app:
        id_, secret = app.keys.make(name, _scopes(scopes), seconds(for_) if for_ else None)
        typer.echo(f"id      {id_}\nsecret  {secret}\nKeep the secret now: it is not stored and can't be shown again.")


def run_key_revoke(config: Path, id_: str) -> int:
    """Revokes a key."""
    with App(load(config)) as app:
        known = app.keys.revoke(id_)
    typer.echo("revoked" if known else f"there is no key {id_}")
    return 0 if known else 1


def run_key_list(config: Path) -> None:
    """A line for each key."""
    with App(load(config)) as app:
        for key in app.keys.list():
            typer.echo(f"{key.id}  {key.name}  {' '.join(sorted(key.scopes))}  {_lasting(key)}")


def run_revoke(config: Path, sort: Sort, name: str, issuer: str, for_: str, *, undo: bool) -> int:
    """Refuses a subject or a token, or lets it in again."""
    mark = Mark(sort, name, issuer)
    with App(load(config)) as app:
        if undo:
            known = app.keys.revocations.restore(mark)
            typer.echo("restored" if known else f"no {sort} {name} is revoked")
            return 0 if known else 1
        app.keys.revocations.revoke(mark, round(seconds(for_) * 1000))
    typer.echo("revoked")
    return 0


def run_revoke_list(config: Path) -> None:
    """A line for each revocation that stands."""
    with App(load(config)) as app:
        for each in app.keys.revocations.list():
            issuer = f"  of {each.mark.issuer}" if each.mark.issuer else ""
            until = datetime.fromtimestamp(each.ends_ms / 1000, UTC).isoformat(timespec="seconds")
            typer.echo(f"{each.mark.sort}  {each.mark.name}{issuer}  until {until}")


def _lasting(key: KeyInfo) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return datetime.fromtimestamp(key.expires_ms / 1000, UTC).isoformat() if key.expires_ms else "for ever"


def seconds(text: str) -> float:
    """`90s`, `30m`, `1h`, `7d` in seconds. ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no duration: write 90s, 30m, 1h or 7d")
    return float(match.group(1)) * _UNITS[match.group(2)]


def _scopes(given: Sequence[str]) -> list[str]:
    """Scopes may be given one by one or separated by commas or spaces."""
    return [scope for each in given for scope in re.split(r"[\s,]+", each) if scope]
