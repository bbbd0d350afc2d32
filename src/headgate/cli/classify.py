"""`headgate classify`: classes for fields, proposed by names and values, kept in the config."""

from __future__ import annotations

import asyncio
import difflib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from headgate.access.classify import Proposal, propose
from headgate.app import App
from headgate.config import Config, load, parse
from headgate.errors import ConfigError, SnapshotPending
from headgate.model.entity import Entity
from headgate.model.row import Row
from headgate.stores.base import Query, Reader

_SAMPLE_BYTES = 8 << 20


def run_classify(config: Path, entity: str | None, sample: int, *, write: bool) -> int:
    """Prints what is proposed and how it changes the config; 1 if there is news and it was not written."""
    loaded = load(config)
    entities, proposals = asyncio.run(_proposals(loaded, entity, sample))
    news = [each for each in proposals if each.is_news]
    for each in proposals:
        typer.echo(f"{'+' if each.is_news else ' '} {each.entity}.{each.field}: {each.proposed} ({each.why})")
    if not news:
        typer.echo("every field has a class")
        return 0
    before = config.read_text(encoding="utf-8")
    after = with_classes(before, loaded, entities, news)
    typer.echo("".join(_diff(before, after, config)))
    if not write:
        typer.echo("look it through, then:  headgate classify --write")
        return 1
    _keep(config, after)
    typer.echo(f"wrote {config}: correct what does not fit; servers take it up when they start anew")
    return 0


async def _proposals(config: Config, only: str | None, sample: int) -> tuple[Mapping[str, Entity], list[Proposal]]:
    """Of the entities that the store holds; one without a whole snapshot yet is judged by names alone."""
    with App(config) as app:
        try:
            entities = await app.reader.entities()
            if not entities:
                raise ConfigError("the store knows of no entity yet: let  headgate run  or  sync  fill it first")
            if only is not None and only not in entities:
                raise ConfigError(f"there is no entity {only!r}; entities: {', '.join(entities)}")
            wanted = [each for name, each in entities.items() if only in (None, name)]
            return entities, [one for each in wanted for one in propose(each, await _sample(app.reader, each, sample))]
        finally:
            await app.reader.close()


async def _sample(reader: Reader, entity: Entity, rows: int) -> Sequence[Row]:
    try:
        return (await reader.find(entity.name, Query(limit=rows, max_bytes=_SAMPLE_BYTES))).rows
    except SnapshotPending:
        return ()


def with_classes(text: str, config: Config, entities: Mapping[str, Entity], news: Sequence[Proposal]) -> str:
    """The config's text with these classes, its comments and order kept. ConfigError if it would not hold."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4_096
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(text)
    blocks = tree.setdefault("entities", {})
    for entity in _to_declare(config, entities, news):
        if entity.name not in blocks:
            blocks[entity.name] = {"from": f"{entity.pipeline}.{entity.table}"}
    for each in news:
        _say(blocks[each.entity], each)
    written = io.StringIO()
    yaml.dump(tree, written)
    parse(written.getvalue(), config.path, os.environ)
    return written.getvalue()


def _to_declare(config: Config, entities: Mapping[str, Entity], news: Sequence[Proposal]) -> list[Entity]:
    """A pipeline that declares one entity serves no other: so all of its derived ones are declared together."""
    touched = {entities[each.entity].pipeline for each in news}
    declared = {name for name, pipeline in config.pipelines.items() if pipeline.entities}
    return [each for each in entities.values() if each.pipeline in touched - declared]


def _say(block: Any, proposal: Proposal) -> None:
    fields = block.get("fields")
    if fields is None:
        fields = block["fields"] = {}
    if fields.get(proposal.field) is None:
        fields[proposal.field] = CommentedMap()
        fields[proposal.field].fa.set_flow_style()
    fields[proposal.field]["class"] = proposal.proposed


def _diff(before: str, after: str, config: Path) -> list[str]:
    lines = (before.splitlines(keepends=True), after.splitlines(keepends=True))
    return list(difflib.unified_diff(*lines, fromfile=str(config), tofile=str(config), n=1))


def _keep(config: Path, text: str) -> None:
    """Written whole beside its place first, with the rights that the file has."""
    draft = config.with_name(f"{config.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.chmod(config.stat().st_mode & 0o777)
        draft.replace(config)
    except OSError as error:
        raise ConfigError(f"{config} can't be written: see to its rights") from error
