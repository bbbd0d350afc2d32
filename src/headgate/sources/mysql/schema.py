"""Tables as `information_schema` describes them, each with the reason why it can't be captured, if there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from headgate.errors import SourceNotReady, TableWithoutKey
from headgate.model.table import Column, ForeignKey, Table
from headgate.sources.mysql.config import Config
from headgate.sources.mysql.server import Connection, execute, identify
from headgate.sources.mysql.values import Form, form_of

LEFT_OUT: Final = "such a type can't be read from a binary log"


class Relation(NamedTuple):
    """A table at the source."""

    table: Table
    forms: tuple[Form, ...]
    """Of its columns, in their order."""
    estimate: int
    """Rows as the server guesses."""
    left_out: tuple[str, ...]
    """Columns of types that can't be read from a binary log, each with its type."""

    @property
    def schema_name(self) -> tuple[str, str]:
        """Database and table."""
        database, _, name = self.table.name.partition(".")
        return database, name


def wanted(connection: Connection, config: Config) -> list[Relation]:
    """The tables that a config names, or all of the dsn's database that have a key.

    SourceNotReady names those that do not exist, TableWithoutKey those that it names and that have no key.
    """
    if not config.tables:
        return [relation for relation in read(connection, [config.database]) if relation.table.key]
    names = [config.qualified(table) for table in config.tables]
    databases = sorted({name.partition(".")[0] for name in names})
    found = {relation.table.name: relation for relation in read(connection, databases)}
    absent = sorted(set(names) - found.keys())
    if absent:
        raise SourceNotReady(f"no such table: {', '.join(absent)}. Correct or remove it in the source's `tables`")
    keyless = [name for name in names if not found[name].table.key]
    if keyless:
        raise TableWithoutKey(f"{', '.join(keyless)} has no primary key. Give it one, or take it out of `tables`")
    return [found[name] for name in sorted(set(names))]


def read(connection: Connection, databases: Sequence[str]) -> list[Relation]:
    """Every base table of these databases, by name."""
    columns = _grouped(_ask(connection, _COLUMNS, databases))
    is_mariadb = identify(connection).is_mariadb
    documents = {(row[0], row[1]) for row in _ask(connection, _JSON, databases)} if is_mariadb else set()
    indexes = _grouped(_ask(connection, _INDEXES, databases))
    foreign = _grouped(_ask(connection, _FOREIGN_KEYS, databases))
    return [
        described(
            name, int(estimate or 0), columns[name], documents, indexes[name], foreign[name], is_mariadb=is_mariadb
        )
        for name, estimate in _ask(connection, _TABLES, databases)
    ]


def described(
    name: str,
    estimate: int,
    columns: list[tuple[Any, ...]],
    documents: set[tuple[str, str]],
    indexes: list[tuple[Any, ...]],
    foreign: list[tuple[Any, ...]],
    *,
    is_mariadb: bool,
) -> Relation:
    """A table of what `information_schema` says of it. Columns that can't be read are named beside it."""
    readable, left_out = [], {}
    for _, column, data_type, column_type, nullable in columns:
        form = form_of(data_type.lower(), column_type, is_json=(name, column) in documents, is_mariadb=is_mariadb)
        if form is None:
            left_out[column] = column_type
        else:
            readable.append((Column(name=column, type=form.type, native=column_type, nullable=nullable == "YES"), form))
    by_index = _columns_of(indexes)
    key = by_index.pop(("PRIMARY", True), ())
    table = Table(
        name=name,
        columns=tuple(column for column, _ in readable),
        key=() if left_out.keys() & set(key) else key,
        unique=tuple(columns for (_, unique), columns in by_index.items() if unique),
        indexed=tuple(columns for (_, unique), columns in by_index.items() if not unique),
        foreign_keys=_foreign_keys(foreign),
    )
    names = tuple(f"{column} ({column_type})" for column, column_type in left_out.items())
    return Relation(table, tuple(form for _, form in readable), estimate, names)


def _columns_of(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[str, bool], tuple[str, ...]]:
    """(name, unique) → columns; an index over an expression or a part of a column is none that we can name."""
    found: dict[tuple[str, bool], list[str | None]] = defaultdict(list)
    for _, name, not_unique, column, part in rows:
        found[name, str(not_unique) == "0"].append(None if part is not None else column)
    return {each: tuple(str(name) for name in columns) for each, columns in found.items() if None not in columns}


def _foreign_keys(rows: Iterable[tuple[Any, ...]]) -> tuple[ForeignKey, ...]:
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for _, name, column, table, refers_to in rows:
        found[name, table].append((column, refers_to))
    return tuple(
        ForeignKey(columns=tuple(c for c, _ in pairs), table=table, refers_to=tuple(r for _, r in pairs))
        for (_, table), pairs in found.items()
    )


def _ask(connection: Connection, query: str, databases: Sequence[str]) -> list[tuple[Any, ...]]:
    marks = ", ".join(["%s"] * len(databases))
    return execute(connection, query.replace("{databases}", marks), tuple(databases))


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    grouped: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        grouped[row[0]].append(row)
    return grouped


_TABLES = """
    select concat(table_schema, '.', table_name), table_rows from information_schema.tables
    where table_schema in ({databases}) and table_type = 'BASE TABLE' and locate('.', table_name) = 0 order by 1
"""
_COLUMNS = """
    select concat(table_schema, '.', table_name), column_name, data_type, column_type, is_nullable
    from information_schema.columns where table_schema in ({databases}) order by 1, ordinal_position
"""
_INDEXES = """
    select concat(table_schema, '.', table_name), index_name, non_unique, column_name, sub_part
    from information_schema.statistics where table_schema in ({databases}) order by 1, index_name, seq_in_index
"""
_FOREIGN_KEYS = """
    select concat(table_schema, '.', table_name), constraint_name, column_name,
           concat(referenced_table_schema, '.', referenced_table_name), referenced_column_name
    from information_schema.key_column_usage
    where table_schema in ({databases}) and referenced_table_name is not null
    order by 1, constraint_name, ordinal_position
"""
# MariaDB's JSON is LONGTEXT with a check (https://mariadb.com/kb/en/json/).
_JSON = """
    select concat(constraint_schema, '.', table_name), constraint_name from information_schema.check_constraints
    where constraint_schema in ({databases}) and check_clause = concat('json_valid(`', constraint_name, '`)')
"""
