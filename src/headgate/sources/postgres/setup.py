"""What a run of capture finds at the source, and puts there: its lock, the publication, the slot's fate.

Which tables are snapshotted is read from the publication's note. The rules:

- the note names a table and the slot holds its changes since: the stream goes on;
- the note names none: an initial snapshot was never finished, so slot and snapshot begin anew;
- the note names some: a table that it lacks, or that has left the publication, is read beside the slot;
- the note names some and the slot is gone: changes were lost, which only a person may accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import psycopg

from headgate.connections.postgres import OLDEST_VERSION, Connection
from headgate.errors import PublicationMissing, SlotMissing, SourceBusy, SourceNotReady
from headgate.sources._lost import unasked
from headgate.sources.postgres.heads import PUBLICATION_GONE
from headgate.sources.postgres.publication import (
    Note,
    Published,
    alter_publication,
    create_publication,
    read_publication,
)
from headgate.sources.postgres.schema import Relation, keyless_published
from headgate.sources.postgres.slot import drop_slot, read_slot
from headgate.sources.postgres.stream import SLOT_GONE
from headgate.sources.postgres.values import Types


class Names(NamedTuple):
    """What is ours at the server."""

    slot: str
    publication: str


class Setup(NamedTuple):
    """What this run begins with."""

    note: Note
    pending: tuple[str, ...]
    """Tables to be read whole, by name."""
    new_slot: bool
    """Whether the slot is to be made, so that every table is pending."""


_LOCK_WAIT = "2s"
"""A session that was closed a moment ago holds its lock until its backend has seen that."""


def take_lock(connection: Connection, names: Names) -> None:
    """Holds the slot's name for this session, from before the slot exists. SourceBusy when another process does."""
    try:
        with connection.transaction():
            connection.execute("select set_config('lock_timeout', %s, true)", [_LOCK_WAIT])
            connection.execute("select pg_advisory_lock(hashtext('headgate'), hashtext(%s))", [names.slot])
    except psycopg.errors.LockNotAvailable as error:
        raise SourceBusy(
            f"another process captures with the replication slot {names.slot}: stop it, or stand by"
        ) from error


def check_server(connection: Connection) -> None:
    """SourceNotReady if the server is too old, a standby, or does not decode its log."""
    version = connection.info.server_version
    if version < OLDEST_VERSION:
        raise SourceNotReady(f"PostgreSQL {version // 10000} is too old: upgrade to 14 or newer")
    row = connection.execute("select current_setting('wal_level'), pg_is_in_recovery()").fetchone()
    assert row is not None  # a select without a table
    level, standby = row
    if standby:
        raise SourceNotReady("this server is a standby: let the DSN lead to its primary")
    if level != "logical":
        raise SourceNotReady(f"wal_level is {level}: set `wal_level = logical` and restart the server")
    connection.execute("set idle_session_timeout = 0")  # the lock must outlast a long snapshot


def unpublish_keyless(connection: Connection, publication: str, types: Types) -> list[str]:
    """Takes tables that have lost their key out of the publication and off its note; names them."""
    lost = keyless_published(connection, types, publication)
    published = read_publication(connection, publication) if lost else None
    if published is not None:
        kept = {name: finished for name, finished in published.note.tables.items() if name not in lost}
        note = msgspec.structs.replace(published.note, tables=kept)
        alter_publication(connection, publication, add=(), drop=lost, note=note)
    return lost


def set_up(
    connection: Connection, names: Names, relations: Sequence[Relation], resnapshot: Sequence[str], now_ms: int
) -> Setup:
    """Brings the publication in line with the tables, drops a slot that is of no use, and says what is to be read.

    Raises SlotMissing or PublicationMissing where changes were lost, unless all tables are to be read again.
    """
    tables = {relation.table.name for relation in relations}
    unknown = sorted(set(resnapshot) - tables)
    if unknown:
        raise SourceNotReady(f"no such table is captured: {', '.join(unknown)}. Ask for a re-snapshot of others")
    published = read_publication(connection, names.publication)
    slot = read_slot(connection, names.slot)
    if published is None and slot is not None and not tables <= set(resnapshot):
        left = unasked(tables - set(resnapshot))
        raise PublicationMissing(PUBLICATION_GONE.format(publication=names.publication) + left)
    finished = _finished(published, tables) - set(resnapshot)
    if finished and (slot is None or slot.lost):
        raise SlotMissing(SLOT_GONE.format(slot=names.slot) + unasked(finished))
    if slot is not None and not finished:
        drop_slot(connection, slot)
    pending = tuple(sorted(tables - finished))
    note = _note(published, finished, bool(pending), now_ms)
    _publish(connection, names.publication, published, tables, note)
    return Setup(note, pending, new_slot=not finished)


def _finished(published: Published | None, tables: set[str]) -> set[str]:
    """Tables whose snapshot is whole and whose changes were sent ever since."""
    return set() if published is None else tables & published.tables & set(published.note.tables)


def _note(published: Published | None, finished: set[str], snapshot: bool, now_ms: int) -> Note:
    """The note to begin with: pending tables are off it before the first of their rows is read."""
    earlier = Note() if published is None else published.note
    generation = max(now_ms, earlier.generation + 1) if snapshot else earlier.generation
    return Note(generation=generation, tables={name: earlier.tables[name] for name in sorted(finished)})


def _publish(connection: Connection, name: str, published: Published | None, tables: set[str], note: Note) -> None:
    if published is None:
        create_publication(connection, name, tables, note)
    elif published.tables != tables or published.note != note:
        add, drop = tables - published.tables, published.tables - tables
        alter_publication(connection, name, add=add, drop=drop, note=note)
