"""`headgate doctor`: tries every part that the config names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

from headgate import plugins
from headgate.access.findings import findings_of
from headgate.access.issuer import Issuer
from headgate.access.jwks import KeySet
from headgate.access.policy import Edition
from headgate.access.policy_file import read_text
from headgate.app import OUTBOX, App
from headgate.audit import standing
from headgate.audit.signing import key_id, public_key
from headgate.cli.setup import check_pipeline, show
from headgate.cli.topics import topics_on
from headgate.config import load
from headgate.errors import ConfigError, HeadgateError
from headgate.model.entity import Entity
from headgate.model.finding import Finding
from headgate.server import tls
from headgate.serving.certificate import tls_files
from headgate.tools.base import approvable


def run_doctor(path: Path) -> int:
    """A line for each finding; 1 if any is an error."""
    with App(load(path)) as app:
        findings = [*_findings(app)]
    for finding in findings:
        show(finding)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _findings(app: App) -> Iterator[Finding]:
    yield from _connections(app)
    for name in app.config.pipelines:
        yield from check_pipeline(app, name)
    yield from _tls(app)
    yield from _issuers(app)
    yield from _policy(app)
    yield from _trusted_keys(app)
    yield from standing.diagnose(app.config.data / OUTBOX, app.outbox_bytes, app.state)


def _connections(app: App) -> Iterator[Finding]:
    for name, connection in app.config.connections.items():
        module = plugins.load("connections", connection.kind)
        more = (topics_on(app, name),) if connection.kind == "kafka" else ()
        yield from module.diagnose(name, connection.settings, *more)


def _tls(app: App) -> Iterator[Finding]:
    files = tls_files(app.config)
    if files is not None:
        yield tls.diagnose(*files, app.clock())


# --- access --------------------------------------------------------------------------------------


def _issuers(app: App) -> Iterator[Finding]:
    """Keys that stand in the config were checked with it; those that are published are fetched."""
    for issuer in app.config.access.issuers:
        part = f"issuer {issuer.issuer}"
        if issuer.jwks is None:
            yield Finding(level="ok", part=part, message="its key stands in the config")
        else:
            yield asyncio.run(_published(issuer, app).diagnose(part))


def _published(issuer: Issuer, app: App) -> KeySet:
    assert issuer.jwks is not None, "it publishes its keys"
    return KeySet(issuer.jwks, issuer.issuer, issuer.algorithms, app.clock)


def _policy(app: App) -> Iterator[Finding]:
    """The document by itself, then beside the entities that the store holds."""
    file = app.config.policy
    if file is None:
        return
    try:
        edition = Edition.of(read_text(file), file.name, approvable())
    except ConfigError as error:
        mend = "headgate policy check  names each mistake: a server does not start with it"
        yield Finding(level="error", part="policy", message=error.message, mend=mend)
        return
    assert edition.rules is not None, "a document has rules"
    yield Finding(level="ok", part="policy", message=f"{file.name} holds, {edition.version}")
    yield from findings_of(edition.rules.document, _entities(app))


def _entities(app: App) -> Mapping[str, Entity]:
    """None while there is no store; one that does not answer has a finding of its own."""

    async def read() -> Mapping[str, Entity]:
        try:
            return await app.reader.entities()
        finally:
            await app.reader.close()

    try:
        return asyncio.run(read())
    except HeadgateError:
        return {}


# --- the record ----------------------------------------------------------------------------------


def _trusted_keys(app: App) -> Iterator[Finding]:
    """Keys of other machines, by which `headgate audit verify` checks their checkpoints."""
    base = app.config.path.parent if app.config.path else Path()
    for name in app.config.audit.public_keys:
        part = f"audit.public_keys, {name}"
        try:
            key = public_key((base / name).read_text(encoding="utf-8"))
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            message = error.message if isinstance(error, ConfigError) else "this public key can't be read"
            mend = "name a file with what  headgate audit key  prints on that machine"
            yield Finding(level="error", part=part, message=message, mend=mend)
        else:
            yield Finding(level="ok", part=part, message=f"holds the key {key_id(key)}")
