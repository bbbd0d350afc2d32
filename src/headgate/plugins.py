"""Loads a kind by its file's name: a new kind is one new file, or another package's entry point."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Literal

from headgate.errors import ConfigError, MissingExtra

Family = Literal["sources", "log", "stores", "state", "subscriptions", "connections", "tools"]

_EXTRA_OF_LIBRARY = {
    "confluent_kafka": "kafka",
    "redis": "redis",
    "hiredis": "redis",
    "psycopg": "postgres",
    "pymysqlreplication": "mysql",
    "pymysql": "mysql",
    "fastavro": "avro",
}
_NO_KINDS = ("base", "secrets")
_LIBRARY_NAME = {
    "confluent_kafka": "confluent-kafka",
    "pymysqlreplication": "mysql-replication",
    "pymysql": "mysql-replication",
}


def load(family: Family, kind: str) -> ModuleType:
    """The module of one kind.

    ConfigError names the kinds there are; MissingExtra names the extra that brings a missing library.
    """
    if kind in kinds(family):
        return _import(f"headgate.{family}.{kind}")
    from importlib.metadata import entry_points  # costs 60 ms, which the stdio server's start has better use for

    for entry in entry_points(group=f"headgate.{family}", name=kind):
        return _import(entry.value)
    raise ConfigError(f"unknown kind {kind!r} of {family}: there are {', '.join(kinds(family))}")


def kinds(family: Family) -> list[str]:
    """The kinds in the family's folder, sorted."""
    package = importlib.import_module(f"headgate.{family}")
    names = (found.name for found in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if name not in _NO_KINDS and not name.startswith("_"))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRA_OF_LIBRARY:
            raise
        raise MissingExtra(_EXTRA_OF_LIBRARY[library], _LIBRARY_NAME.get(library, library)) from error
