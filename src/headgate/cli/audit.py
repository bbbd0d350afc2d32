"""`headgate audit` and `headgate contract`: whether the record is whole, the record as a file, and what it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headgate import __version__
from headgate.app import OUTBOX, App
from headgate.audit.checkpoints import Checkpoint, Witness
from headgate.audit.contract import PipelineTopics, contract
from headgate.audit.export import export_trail, write_export
from headgate.audit.outbox_file import OutboxFile, writers
from headgate.audit.signing import PublicKeys, Signer, public_key, public_key_in
from headgate.audit.trail import Foreign, Taken, log_trail, outbox_trail
from headgate.audit.trail import Progress as Told
from headgate.audit.verify import Report, Verified, Verifier
from headgate.config import Config, load
from headgate.errors import ConfigError, HeadgateError
from headgate.flow.schemas import announced
from headgate.sources.base import Feed

_DAY_MS = 86_400_000
_MOST_WRITERS = 20
_NOT_VERIFIED = 2

Trail = Callable[[Told], Iterable[Taken]]


# --- verify --------------------------------------------------------------------------------------


def run_verify(path: Path, *, outbox: bool, log: bool, export: Path | None, keys: Sequence[Path]) -> int:
    """Reads trails whole. 0: whole; 1: not; 2: that could not be told."""
    try:
        with App(load(path)) as app:
            trusted = _keys(app.config, keys)
            both = not (outbox or log or export)
            whole = True
            if log or both:
                name = f"log {app.events_log or 'in the data folder'}"
                whole &= _verify(name, _of_log(app), trusted, _on_log(app, trusted))
            if outbox or both:
                whole &= _verify("outboxes", _of_outboxes(app), trusted, _in_outboxes(app))
            if export is not None:
                whole &= _verify(str(export), _of_export(export, trusted), trusted, ())
    except HeadgateError as error:
        typer.echo(f"headgate: the record could not be verified: {error.message}", err=True)
        return _NOT_VERIFIED
    return 0 if whole else 1


def _verify(name: str, trail: Trail, keys: PublicKeys, witness: Iterable[Checkpoint]) -> bool:
    verifier = Verifier(keys, witness)
    with _bar(name) as told:
        for taken in trail(told):
            if isinstance(taken, Foreign):
                verifier.foreign(taken.message)
            else:
                verifier.take(taken)
    report = verifier.report()
    _show(name, report)
    return report.breached == 0


def _of_log(app: App) -> Trail:
    return lambda told: log_trail(app.log(app.events_log), progress=told)


def _of_outboxes(app: App) -> Trail:
    return lambda told: outbox_trail(app.config.data / OUTBOX, progress=told)


def _of_export(file: Path, keys: PublicKeys) -> Trail:
    def trail(told: Told) -> Iterator[Taken]:
        try:
            with file.open("rb") as opened:
                yield from export_trail(opened, file.stat().st_size, keys, progress=told)
        except OSError as error:
            raise ConfigError(f"{file}: can't be read") from error

    return trail


def _on_log(app: App, keys: PublicKeys) -> Iterator[Checkpoint]:
    """The checkpoints kept apart that the log must reach: of events that are published and not expired.

    One that was touched says neither: it is left to the verifier.
    """
    waiting = {}
    for writer in writers(app.config.data / OUTBOX):
        file = OutboxFile(app.config.data / OUTBOX, writer)
        waiting[writer] = file.published()
        file.close()
    oldest_ms = app.clock() - round(app.config.audit.retention_days * _DAY_MS)
    for checkpoint in Witness(app.config.data).all():
        is_there = checkpoint.seq < waiting.get(checkpoint.writer, checkpoint.seq + 1)
        is_touched = keys.knows(checkpoint.key) and not checkpoint.holds(keys)
        if is_touched or (is_there and checkpoint.time_ms > oldest_ms):
            yield checkpoint


def _in_outboxes(app: App) -> list[Checkpoint]:
    """Those of writers whose outbox is still there: others' are published and removed."""
    there = set(writers(app.config.data / OUTBOX))
    return [checkpoint for checkpoint in Witness(app.config.data).all() if checkpoint.writer in there]


def _show(name: str, report: Report) -> None:
    for breach in report.breaches:
        event = f" {breach.writer} #{breach.seq}" if breach.writer else ""
        ident = f" ({breach.id})" if breach.id else ""
        typer.echo(f"{breach.kind.upper():11}{event}{ident}: {breach.message}")
    if report.breached > len(report.breaches):
        typer.echo(f"and {report.breached - len(report.breaches)} more")
    for each in [each for each in report.writers if _is_worth_a_line(each)][:_MOST_WRITERS]:
        typer.echo(f"  {_line(each)}")
    repeated = f", {report.repeated} of them again" if report.repeated else ""
    withheld = f", {report.withheld} by their digest alone" if report.withheld else ""
    verdict = "whole" if report.breached == 0 else f"NOT WHOLE: {report.breached} findings"
    typer.echo(f"{name}: {report.events} events of {len(report.writers)} writers{repeated}{withheld}: {verdict}")


def _is_worth_a_line(part: Verified) -> bool:
    return part.first > 1 or not part.final


def _line(part: Verified) -> str:
    start = "" if part.first == 1 else f"verified from {part.first} (what was before has expired); "
    signed = f"signed up to {part.signed}" if part.signed else "no checkpoint so far"
    return f"{part.writer}: {start}ends at {part.last}, {signed}; its writer lives, or was killed" if not part.final \
        else f"{part.writer}: {start}ends at {part.last}, signed"  # fmt: skip


@contextmanager
def _bar(name: str) -> Iterator[Told]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- export, key ---------------------------------------------------------------------------------


def run_export(path: Path, output: Path, *, force: bool) -> None:
    """What the log holds, and then what still waits in outboxes."""
    if output.exists() and not force:
        raise ConfigError(f"{output} is there already: name another by --output, or overwrite it by --force")
    with App(load(path)) as app, _bar(str(output)) as told:
        try:
            with output.open("wb") as file:
                count = write_export(_whole(app, told), file, Signer(app.config.data))
        except OSError as error:
            raise ConfigError(f"{output}: can't be written") from error
    typer.echo(f"wrote {output}: {count} events; verify it:  headgate audit verify --export {output}")


def _whole(app: App, told: Told) -> Iterator[Taken]:
    yield from log_trail(app.log(app.events_log), progress=told)
    yield from outbox_trail(app.config.data / OUTBOX, unpublished=True, progress=told)


def run_key(path: Path) -> None:
    """The public half of the data folder's key."""
    config = load(path)
    signer = Signer(config.data)
    typer.echo(f"{signer.public_pem()}# id {signer.key_id}")


def _keys(config: Config, files: Sequence[Path]) -> PublicKeys:
    base = config.path.parent if config.path else Path()
    named = [*files, *(base / name for name in config.audit.public_keys)]
    own = public_key_in(config.data)
    return PublicKeys([*([own] if own else []), *(public_key(_text(file)) for file in named)])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: this public key can't be read") from error


# --- contract ------------------------------------------------------------------------------------


def run_contract(path: Path) -> None:
    """The AsyncAPI document of a config."""
    with App(load(path)) as app:
        document = document_of(app)
    typer.echo(msgspec.json.format(msgspec.json.encode(document)).decode())


def document_of(app: App) -> dict[str, Any]:
    """The same, as a value."""
    config = app.config
    pipelines = [
        PipelineTopics(
            pipeline=name,
            partitions=pipeline.settings.partitions if pipeline.log else 1,
            retention_ms=app.retention_ms(pipeline),
            tables=sorted({entity.table for entity in pipeline.entities} | set(announced(app.state, name))),
            fed_by=_topics_of(app.feed(pipeline)),
            message_max_bytes=_most_bytes(config, pipeline.log),
        )
        for name, pipeline in config.pipelines.items()
    ]
    servers: list[str] = []
    if app.events_log is not None:
        servers = config.connections[app.events_log].settings.bootstrap_servers.split(",")
    retention_ms = round(config.audit.retention_days * _DAY_MS)
    return contract(
        __version__,
        pipelines,
        calls_retention_ms=retention_ms,
        servers=servers,
        message_max_bytes=_most_bytes(config, app.events_log),
    )


def _topics_of(feed: Feed | None) -> Sequence[str] | None:
    """What others fill, the connector's heartbeats too."""
    if feed is None:
        return None
    pulse = feed.pulse()
    return sorted({*feed.topics().values(), *([pulse.topic] if pulse and pulse.topic else [])})


def _most_bytes(config: Config, log: str | None) -> int | None:
    """The largest record of a log on Kafka."""
    return None if log is None else config.connections[log].settings.message_max_bytes
