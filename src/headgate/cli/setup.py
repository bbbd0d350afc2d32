"""`headgate init`, `check` and `detach`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from headgate import plugins
from headgate.access.policy_file import check_policy
from headgate.app import App
from headgate.config import load
from headgate.draft import PASSWORD_VARIABLE, draft, pipeline_name, source_block
from headgate.errors import ConfigError, HeadgateError
from headgate.model.derive import derive
from headgate.model.finding import Finding
from headgate.telemetry import wall_clock_ms
from headgate.tools.base import approvable

_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def run_init(url: str, output: Path, name: str | None, *, force: bool) -> None:
    """Writes the drafted config."""
    if output.exists() and not force:
        raise ConfigError(f"{output} is there already: name another by --output, or overwrite it by --force")
    kind, settings, password = source_block(url)
    module = plugins.load("sources", kind)
    real = {key: value.replace(f"${{{PASSWORD_VARIABLE}}}", password or "") for key, value in settings.items()}
    pipeline = name or pipeline_name(url)
    source = module.open_source(module.Config(**real), pipeline, Path(".headgate"), wall_clock_ms)
    tables = source.tables()
    output.write_text(draft(pipeline, kind, settings, tables), encoding="utf-8")
    keyed = sum(bool(table.key) for table in tables)
    typer.echo(f"wrote {output}: pipeline {pipeline} with {keyed} entities")
    for finding in source.diagnose():
        if finding.level != "ok":
            show(finding)
    if password is not None:
        typer.echo(f"the password is not in it: export {PASSWORD_VARIABLE}=…")
    typer.echo(f"next: headgate check --config {output} && headgate run --config {output}")


def run_check(path: Path) -> int:
    """The config, then what its sources make of it."""
    config = load(path)
    if config.policy is not None:
        check_policy(config.policy, approvable())
    with App(config) as app:
        findings = [finding for name in config.pipelines for finding in check_pipeline(app, name)]
    for finding in findings:
        show(finding)
    wrong = any(finding.level == "error" for finding in findings)
    if not wrong:
        typer.echo(f"{path}: fine; pipelines: {', '.join(config.pipelines) or 'none'}")
    return 1 if wrong else 0


def check_pipeline(app: App, name: str) -> Iterator[Finding]:
    """Whether a pipeline's source can be read, and whether its entities fit the tables."""
    pipeline = app.config.pipelines[name]
    try:
        source = app.feed(pipeline) or app.source(pipeline)
        yield from source.diagnose()
        tables = {table.name: table for table in source.tables()}
        for entity in pipeline.entities:
            if entity.table not in tables:
                known = ", ".join(sorted(tables)) or "none"
                raise ConfigError(f"entity {entity.name!r}: the source has no table {entity.table}; it has: {known}")
        derive(pipeline.entities, tables, {})
    except HeadgateError as error:
        yield Finding(level="error", part=f"pipeline {name}", message=error.message)


def run_detach(path: Path, only: str | None) -> None:
    """Takes everything of ours off the sources."""
    config = load(path)
    if only is not None and only not in config.pipelines:
        raise ConfigError(f"there is no pipeline {only!r}; pipelines: {', '.join(config.pipelines)}")
    with App(config) as app:
        for name, pipeline in config.pipelines.items():
            if only in (None, name):
                taken = [] if app.feed(pipeline) is not None else app.source(pipeline).detach()
                typer.echo("\n".join(f"{name}: took off {line}" for line in taken) or f"{name}: nothing of ours there")


def show(finding: Finding) -> None:
    """Prints what was found of one part, and the mend."""
    mend = f"\n          → {finding.mend}" if finding.mend else ""
    typer.echo(f"{_SIGNS[finding.level]} {finding.part}: {finding.message}{mend}")
