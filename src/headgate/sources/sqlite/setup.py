"""Makes the owner's file ready, in one write transaction: tables, triggers, and what must be read anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from headgate.errors import SourceError
from headgate.sources.sqlite import ledger, triggers
from headgate.sources.sqlite.database import lend_collations, number, writing
from headgate.sources.sqlite.ledger import Entry, Memo
from headgate.sources.sqlite.schema import Definition, choose, read_tables, require_key, unqualified


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a setup is asked for."""

    tables: tuple[str, ...]
    """As the config names them; none means all with a key."""
    resnapshot: frozenset[str]
    """Names without schema, in lower case."""
    memo: Memo
    mode_before: str
    """The journal mode that the file had before it was ours."""
    now_ms: int


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The file as it is now, by table names without schema."""

    version: int
    """SQLite's `schema_version` that this holds for."""
    tables: dict[str, Definition]
    entries: dict[str, Entry]
    pending: tuple[str, ...]
    """Tables that need a snapshot, with the generation of their entries."""
    gone: dict[str, Entry]
    """Tables that were captured and are no longer there, with the entries that settle them."""


def set_up(connection: sqlite3.Connection, request: Request, read_here: Mapping[str, int]) -> Setup:
    """Installs and plans. `read_here`: table → generation of snapshots that this run has handed over.

    A table needs a snapshot when it is new, when its last one is not finished, when its triggers were not
    all there (it was rebuilt, or they were dropped), when its rows look different, or when it was asked for.
    SourceError when a key has become another: the log's topic and the entity have the old one.
    """
    with writing(connection):
        lend_collations(connection)
        everything = read_tables(connection)
        ledger.ensure_state_table(connection)
        known = ledger.entries(connection)
        tables = _choose(everything, request.tables, known)
        widest = max((len(table.key) for table in tables.values()), default=1)
        anew = _bond(connection, request, widest)
        untracked = triggers.install(connection, tables.values())
        _refuse_other_keys(tables, known, request.resnapshot)
        pending = [
            name
            for name, table in tables.items()
            if anew or name in untracked or _needs_snapshot(table, known.get(name), request, read_here)
        ]
        current = {name: known[name] for name in tables if name not in pending}
        current |= _begin(connection, pending, tables, known, request.now_ms)
        gone = _missing(connection, known, tables, request.tables)
        version = number(connection, "PRAGMA schema_version")
    return Setup(version=version, tables=tables, entries=current, pending=tuple(pending), gone=gone)


def _choose(
    everything: Mapping[str, Definition], wanted: Sequence[str], known: Mapping[str, Entry]
) -> dict[str, Definition]:
    """The tables to capture. One that was captured before may have been dropped, but not lost its key."""
    present = {name.lower() for name in everything}
    remembered = {name.lower() for name in known}
    for name, entry in known.items():
        if entry.phase != "gone" and name in everything and _is_wanted(name, wanted):
            require_key(everything[name])
    named = [name for name in wanted if unqualified(name).lower() not in remembered - present]
    return choose(everything, named) if named or not wanted else {}


def _is_wanted(table: str, wanted: Sequence[str]) -> bool:
    return not wanted or table.lower() in {unqualified(name).lower() for name in wanted}


def _bond(connection: sqlite3.Connection, request: Request, key_columns: int) -> bool:
    """Ties file and data folder together. Answers whether what the file remembers can't be believed."""
    # Microseconds of the clock: larger than the ids of any change table that stood here before.
    first_id = request.now_ms * 1000
    made = triggers.ensure_change_table(connection, first_id, key_columns)
    foreign = ledger.fact(connection, "home") != request.memo.home
    went_back = triggers.head_id(connection) < request.memo.seen
    if went_back:
        triggers.count_from(connection, max(first_id, request.memo.seen))
    if foreign:
        ledger.put_fact(connection, "home", request.memo.home)
    if not ledger.fact(connection, "journal_mode"):
        ledger.put_fact(connection, "journal_mode", request.mode_before)
    return made or foreign or went_back


def _refuse_other_keys(tables: Mapping[str, Definition], known: Mapping[str, Entry], resnapshot: Iterable[str]) -> None:
    for name, table in tables.items():
        entry = known.get(name)
        if entry and entry.phase != "gone" and entry.key != table.table.key and name.lower() not in resnapshot:
            raise SourceError(
                f"table {table.table.name!r} has another primary key than before:"
                " correct its entity, then start again with a new snapshot of this table",
                table=table.table.name,
            )


def _needs_snapshot(table: Definition, entry: Entry | None, request: Request, read_here: Mapping[str, int]) -> bool:
    if entry is None or entry.shape != table.shape or table.name.lower() in request.resnapshot:
        return True
    return entry.phase != "done" and read_here.get(table.name) != entry.generation


def _begin(
    connection: sqlite3.Connection,
    pending: Sequence[str],
    tables: Mapping[str, Definition],
    known: Mapping[str, Entry],
    now_ms: int,
) -> dict[str, Entry]:
    """Notes the snapshots as begun, each with a generation larger than any before it."""
    begun = {}
    for name in pending:
        last = known[name].generation if name in known else 0
        table = tables[name]
        begun[name] = Entry(phase="reading", generation=max(now_ms, last + 1), shape=table.shape, key=table.table.key)
        ledger.put_entry(connection, name, begun[name])
    return begun


def _missing(
    connection: sqlite3.Connection,
    known: Mapping[str, Entry],
    tables: Mapping[str, Definition],
    wanted: Sequence[str],
) -> dict[str, Entry]:
    """Captured tables that were dropped. Those that the config no longer wants are forgotten."""
    gone = {}
    for name, entry in known.items():
        if name in tables:
            continue
        if not _is_wanted(name, wanted):
            ledger.forget(connection, name)
        elif entry.phase != "gone":
            gone[name] = msgspec.structs.replace(entry, phase="gone")
    return gone
