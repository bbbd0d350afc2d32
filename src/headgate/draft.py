"""Drafts a config from a source's schema: what `headgate init` writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit, urlunsplit

from headgate.access.classify import by_name
from headgate.errors import ConfigError
from headgate.model.derive import declare_all, derive
from headgate.model.entity import Entity
from headgate.model.table import Table

PASSWORD_VARIABLE = "HEADGATE_SOURCE_PASSWORD"  # noqa: S105 - the name of a variable, not a secret


def source_block(url: str) -> tuple[str, dict[str, str], str | None]:
    """The kind and settings of a source's URL, and its password apart.

    The settings hold `${HEADGATE_SOURCE_PASSWORD}` in the password's place. ConfigError for an unknown scheme.
    """
    parts = urlsplit(url)
    if parts.scheme in ("postgres", "postgresql"):
        return "postgres", {"dsn": _without_password(url)}, parts.password
    if parts.scheme in ("mysql", "mariadb"):
        return "mysql", {"dsn": _without_password(url)}, parts.password
    if parts.scheme == "sqlite":
        path = url.removeprefix("sqlite:///") or ""
        if not path:
            raise ConfigError("A SQLite URL is  sqlite:///relative/file.db  or  sqlite:////absolute/file.db")
        return "sqlite", {"path": path}, None
    raise ConfigError("The source's URL begins with  postgresql://,  mysql://  or  sqlite:///")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:${{{PASSWORD_VARIABLE}}}@{host}"))


def pipeline_name(url: str) -> str:
    """A name for the pipeline: the database's own, made to fit."""
    stem = urlsplit(url).path.rstrip("/").rpartition("/")[2].rpartition(".")
    name = re.sub(r"[^a-z0-9_-]+", "-", (stem[0] or stem[2]).lower()).strip("-_")
    return name if re.match(r"^[a-z]", name) else f"db-{name}".rstrip("-")


def draft(pipeline: str, kind: str, settings: dict[str, str], tables: Sequence[Table]) -> str:
    """The commented config. Tables without a key are named, and left out."""
    keyed = [table for table in tables if table.key]
    entities = derive(declare_all(pipeline, keyed), {table.name: table for table in keyed}, {})
    return "\n".join([*_head(pipeline, kind, settings, keyed), *_left_out(tables), *_entities(entities, keyed), ""])


def _head(pipeline: str, kind: str, settings: dict[str, str], tables: Sequence[Table]) -> Iterator[str]:
    yield "# Made by `headgate init`. Look it through, then:  headgate check && headgate run"
    yield "data: .headgate  # the embedded log, store, state and the record of calls"
    yield "server: {host: 127.0.0.1, port: 8765}"
    yield "access:"
    yield "  local: false  # true lets clients on this machine in without a token;  headgate token  makes one"
    yield ""
    yield "# With Kafka and Redis, name them here and under the pipeline (log:, store:); nothing else changes."
    yield "# connections:"
    yield '#   main:  {kind: kafka, bootstrap_servers: "kafka:9092"}'
    yield '#   cache: {kind: redis, url: "${REDIS_URL}"}'
    yield ""
    yield "pipelines:"
    yield f"  {pipeline}:"
    yield "    source:"
    yield f"      kind: {kind}"
    for name, value in settings.items():
        yield f'      {name}: "{value}"'
    yield f"      tables: [{', '.join(_quoted(table.name) for table in tables)}]"
    yield "    # log: main"
    yield "    # store: cache"
    yield "    freshness_bound_s: 30  # past it, answers say that they may be out of date"


def _left_out(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        if not table.key:
            yield f"    # {table.name} is left out: it has no primary key"


def _entities(entities: Sequence[Entity], tables: Sequence[Table]) -> Iterator[str]:
    by_name = {table.name: table for table in tables}
    yield ""
    yield "entities:"
    for entity in entities:
        yield f"  {_quoted(entity.name)}:"
        yield f"    from: {_quoted(f'{entity.pipeline}.{entity.table}')}"
        yield f"    key: [{', '.join(map(_quoted, entity.key))}]"
        yield f"    lookups: [{', '.join(map(_quoted, entity.lookups))}]  # fields to look rows up by"
        yield f"    sorted: [{', '.join(map(_quoted, entity.sorted))}]  # fields to range over and order by"
        yield from _fields(by_name[entity.table])
        yield from _relations(entity)


def _fields(table: Table) -> Iterator[str]:
    found = [(column.name, found) for column in table.columns if (found := by_name(table.name, column.name))]
    if found:
        yield "    fields:  # looks like personal data or a secret: say so, or correct it"
        for name, classification in found:
            yield f"      {_quoted(name)}: {{class: {classification}}}"


def _relations(entity: Entity) -> Iterator[str]:
    if entity.relations:
        yield "    relations:  # from foreign keys"
    for relation in entity.relations:
        yield (
            f"      {_quoted(relation.name)}: {{entity: {_quoted(relation.entity)}, field: {_quoted(relation.field)}, "
            f"target_field: {_quoted(relation.target_field)}, many: {str(relation.many).lower()}}}"
        )


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) and name.lower() not in _YAML_WORDS else f'"{name}"'


_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
