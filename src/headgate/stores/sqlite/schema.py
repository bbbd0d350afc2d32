"""The tables of the file, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.connections._wal import turn_to_wal
from headgate.errors import StoreError, Unavailable

VERSION = 2

_TABLES = """
create table spaces (
    id integer primary key, entity text not null, build text not null, generation integer not null,
    unique (entity, build, generation));
create table rows (
    space integer not null, key text not null, partition integer not null, epoch integer not null,
    flaw text not null, json blob not null, primary key (space, key)) without rowid;
create table entries (
    space integer not null, field text not null, value blob not null, key text not null,
    primary key (space, field, value, key)) without rowid;
create table counts (
    space integer not null, partition integer not null, epoch integer not null, rows integer not null,
    primary key (space, partition, epoch)) without rowid;
create table progress (
    entity text not null, build text not null, partition integer not null, packed blob not null,
    primary key (entity, build, partition)) without rowid;
create table pointers (entity text primary key, pointer text not null) without rowid;
create table definitions (
    entity text not null, build text not null, packed blob not null, primary key (entity, build)) without rowid;
create table current (entity text primary key, build text not null) without rowid;
create table dead_letters (
    pipeline text not null, id text not null, time_ms integer not null, packed blob not null,
    primary key (pipeline, id)) without rowid;
create index dead_letters_by_time on dead_letters (pipeline, time_ms, id);
create table uncopied_letters (pipeline text not null, id text not null, primary key (pipeline, id)) without rowid;
"""

_OUT_OF_OUR_HANDS = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def connect_writer(target: Path, timeout_s: float) -> sqlite3.Connection:
    """Opens the file to write, making it if needed. Unavailable, or StoreError for a file that is not ours."""
    with guard():
        target.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(target, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def connect_reader(target: Path, timeout_s: float) -> sqlite3.Connection | None:
    """Opens the file to read alone; None while no writer has made it yet.

    It is opened for writing as SQLite sees it, since whoever reads a WAL may have to recover it.
    """
    if not target.exists():
        return None
    with guard():
        connection = sqlite3.connect(
            f"{target.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("pragma query_only = on")
            is_ready = _version(connection) != 0
        except BaseException:
            connection.close()
            raise
    if is_ready:
        return connection
    connection.close()
    return None


@contextmanager
def guard() -> Iterator[None]:
    """Raises what SQLite says as Unavailable, where waiting may help, or StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _OUT_OF_OUR_HANDS:
            raise Unavailable("the store's file is busy or its disk is full: try again") from error
        raise StoreError("the store's file can't be used: look at the process's log") from error
    except OSError as error:
        raise StoreError("the store's folder can't be made: look at the process's log") from error


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that excludes other writers from its start. Any exception takes all of it back."""
    with guard():
        connection.execute("begin immediate")
        try:
            yield
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One snapshot."""
    with guard():
        connection.execute("begin")
        try:
            yield
        finally:
            if connection.in_transaction:
                connection.execute("rollback")


def _prepare(connection: sqlite3.Connection) -> None:
    turn_to_wal(connection)
    connection.execute("pragma synchronous = normal")
    with writing(connection):
        version = _version(connection)
        if version == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {VERSION}")
        elif version != VERSION:
            raise StoreError(
                "the store's file was written by another version of Headgate: remove it, and it is filled anew"
            )


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("pragma user_version").fetchone()[0]
    return version
