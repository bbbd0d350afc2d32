"""Our publication, and the note in its comment: which tables' snapshots the log holds whole.

The comment is a durable fact at the source that needs no table in the owner's database, and that every
process that takes over can read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from psycopg import sql

from headgate.connections.postgres import Connection
from headgate.errors import SourceNotReady
from headgate.sources.postgres.schema import GENERATED_PUBLISHED


class Finished(msgspec.Struct, frozen=True):
    """A snapshot that is whole on the log: it shows what committed before `lsn`."""

    generation: int
    lsn: str


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the comment says."""

    headgate: int = 1
    generation: int = 0
    """The newest snapshot generation that was begun."""
    tables: dict[str, Finished] = {}


class Published(NamedTuple):
    """The publication as it stands."""

    note: Note
    tables: frozenset[str]


def read_publication(connection: Connection, name: str) -> Published | None:
    """The publication, if there is one. SourceNotReady if it is someone else's."""
    row = connection.execute(_READ, [name]).fetchone()
    if row is None:
        return None
    comment, tables = row
    try:
        note = msgspec.json.decode(comment or "", type=Note)
    except msgspec.DecodeError:
        raise SourceNotReady(
            f"the publication {name} is not Headgate's: set another name as the source's `publication`, or drop it"
        ) from None
    return Published(note, frozenset(tables))


def create_publication(connection: Connection, name: str, tables: Collection[str], note: Note) -> None:
    """Makes the publication and its note in one step."""
    options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
    if connection.info.server_version >= GENERATED_PUBLISHED:
        options += ", publish_generated_columns = stored"
    command = sql.SQL("create publication {} {} with ({})").format(
        sql.Identifier(name), _for_tables(tables), sql.SQL(options)
    )
    with connection.transaction():
        connection.execute(command)
        write_note(connection, name, note)


def alter_publication(
    connection: Connection, name: str, *, add: Collection[str], drop: Collection[str], note: Note
) -> None:
    """Changes which tables are published, and the note, in one step."""
    with connection.transaction():
        for table in sorted(add):
            connection.execute(sql.SQL("alter publication {} add {}").format(sql.Identifier(name), _table(table)))
        for table in sorted(drop):
            connection.execute(sql.SQL("alter publication {} drop {}").format(sql.Identifier(name), _table(table)))
        write_note(connection, name, note)


def write_note(connection: Connection, name: str, note: Note) -> None:
    """Replaces the note."""
    text = sql.Literal(msgspec.json.encode(note).decode())
    connection.execute(sql.SQL("comment on publication {} is {}").format(sql.Identifier(name), text))


def drop_publication(connection: Connection, name: str) -> None:
    """Removes the publication, and the note with it."""
    connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(name)))


def table_name(table: str) -> sql.Identifier:
    """`schema.table` as SQL."""
    schema, _, name = table.partition(".")
    return sql.Identifier(schema, name)


def _for_tables(tables: Collection[str]) -> sql.Composable:
    return sql.SQL("for ") + sql.SQL(", ").join([_table(table) for table in sorted(tables)]) if tables else sql.SQL("")


def _table(table: str) -> sql.Composable:
    # ONLY: tables that inherit from it are tables of their own; it means nothing for a partitioned one.
    return sql.SQL("table only {}").format(table_name(table))


_READ = """
    select obj_description(p.oid, 'pg_publication'),
           array(select n.nspname || '.' || c.relname from pg_publication_rel r
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
                 where r.prpubid = p.oid)
    from pg_publication p where p.pubname = %s
"""
