"""The tables, how they come to be, and what PostgreSQL's errors mean to a store.

Texts are compared by their bytes (`collate "C"`). A row's JSON is kept as the bytes that the log carried:
`convert_from(json, 'UTF8')::jsonb` reads it in SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from headgate.connections.postgres import Config, Connection, connect, describe, error_of
from headgate.errors import SourceError, StoreError, Unavailable

VERSION = 1

_TABLES = """
create table installation (version integer not null);
create table spaces (
    id bigint generated always as identity primary key, entity text collate "C" not null,
    build text collate "C" not null, generation bigint not null, unique (entity, build, generation));
create table rows (
    space bigint, key text collate "C", partition integer not null, epoch bigint not null, flaw text not null,
    json bytea not null, primary key (space, key));
create table entries (
    space bigint, field text collate "C", value bytea, key text collate "C", primary key (space, field, value, key));
create table leads (
    space bigint, field text collate "C", key text collate "C", value bytea not null,
    primary key (space, field, key));
create table counts (
    space bigint, partition integer, epoch bigint, rows bigint not null, primary key (space, partition, epoch));
create table progress (
    entity text collate "C", build text collate "C", partition integer, epoch bigint not null, packed bytea not null,
    primary key (entity, build, partition));
create table pointers (entity text collate "C" primary key, pointer text not null);
create table definitions (
    entity text collate "C", build text collate "C", packed bytea not null, primary key (entity, build));
create table current (entity text collate "C" primary key, build text not null);
create table dead_letters (
    pipeline text collate "C", id text collate "C", time_ms bigint not null, packed bytea not null,
    primary key (pipeline, id));
create index on dead_letters (pipeline, time_ms, id);
create table uncopied_letters (pipeline text collate "C", id text collate "C", primary key (pipeline, id));
"""


PLANNING = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
"""Every statement here reads by an index, whatever its values, and however small a table was when it was planned."""


def connect_writer(target: Config) -> Connection:
    """A connection to write by, whose schema holds the tables. Unavailable or StoreError.

    Tables are made once, whoever comes at the same time.
    """
    with guard(target):
        settings = {**PLANNING, "search_path": target.store_schema, "synchronous_commit": "off"}
        connection = connect(target.conninfo(), settings=settings)
        try:
            _prepare(connection, target.store_schema)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def guard(target: Config) -> Iterator[None]:
    """Raises what psycopg says as Unavailable, where waiting may help, or StoreError."""
    try:
        yield
    except psycopg.Error as error:
        raise store_error(error, target) from error
    except SourceError as error:  # as a connection's own errors are, whatever it is for
        raise StoreError(error.message) from error


def store_error(error: psycopg.Error, target: Config) -> StoreError | Unavailable:
    """What an error of psycopg means."""
    where = describe(target.dsn.get_secret_value())
    if error.sqlstate in _REFUSALS:
        return StoreError(f"{where}: {_REFUSALS[error.sqlstate]}")
    found = error_of(error.sqlstate, where)
    return found if isinstance(found, Unavailable) else StoreError(found.message)


_REFUSALS = {
    "42501": "our user lacks a privilege: grant it CREATE on the database, or make it owner of the store's schema",
    "54000": "a key is longer than an index of PostgreSQL takes (about 2,600 bytes): keep this entity in another store",
    "25006": "the server is read-only: give the connection a DSN that leads to the primary",
}


def _prepare(connection: Connection, schema: str) -> None:
    found = connection.execute("select to_regclass('installation')").fetchone()
    if found is None or found[0] is None:
        _make(connection, schema)
    (version,) = connection.execute("select version from installation").fetchone() or (0,)
    if version != VERSION:
        raise StoreError(
            f"the schema {schema} was written by another version of Headgate: drop it, and it is filled anew"
        )


def _make(connection: Connection, schema: str) -> None:
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"headgate.tables.{schema}"])
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
        if connection.execute("select to_regclass('installation')").fetchone() == (None,):
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(sql.SQL(statement))
            connection.execute("insert into installation values (%s)", [VERSION])
