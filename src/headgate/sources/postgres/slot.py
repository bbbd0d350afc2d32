"""Our replication slot as the server shows it.

https://www.postgresql.org/docs/current/view-pg-replication-slots.html
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import NamedTuple

from headgate.connections.postgres import Connection, database_of
from headgate.errors import SourceBusy, SourceNotReady

PATIENCE_S = 3.0
"""How long a walsender whose client has gone may take to let go of the slot."""
_LOOK_AGAIN_S = 0.05


class Slot(NamedTuple):
    """A logical slot of this database with the plugin pgoutput."""

    name: str
    active: bool
    lost: bool
    """Whether the server gave up the changes that it should have kept."""
    confirmed: str
    """The LSN before which nothing is sent again."""
    retained_bytes: int
    """How much of the log the server keeps for it."""


def read_slot(connection: Connection, name: str) -> Slot | None:
    """The slot, if there is one. SourceNotReady if its name is taken by something else."""
    row = connection.execute(_READ, [name]).fetchone()
    if row is None:
        return None
    plugin, database, *rest = row
    if plugin != "pgoutput" or database != database_of(connection):
        raise SourceNotReady(
            f"the replication slot {name} is another database's or plugin's: set another name as the source's `slot`"
        )
    return Slot(name, *rest)


def drop_slot(connection: Connection, slot: Slot) -> None:
    """Removes the slot. SourceBusy while someone reads it: a reader that has just gone is given a moment."""
    deadline = monotonic() + PATIENCE_S
    while slot.active:
        if monotonic() > deadline:
            raise SourceBusy(f"another process reads the replication slot {slot.name}: stop it first")
        sleep(_LOOK_AGAIN_S)
        found = read_slot(connection, slot.name)
        if found is None:
            return
        slot = found
    connection.execute("select pg_drop_replication_slot(%s)", [slot.name])


_READ = """
    select plugin::text, database::text, active, coalesce(wal_status = 'lost', false) or restart_lsn is null,
           coalesce(confirmed_flush_lsn::text, '0/0'),
           coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, 0)
    from pg_replication_slots where slot_name = %s
"""
