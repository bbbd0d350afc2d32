"""What stands in the way of capturing a database, with the mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from headgate.connections.postgres import OLDEST_VERSION, Connection
from headgate.errors import HeadgateError
from headgate.model.finding import Finding
from headgate.sources.postgres.publication import read_publication
from headgate.sources.postgres.schema import Relation, all_tables, named_tables
from headgate.sources.postgres.setup import Names
from headgate.sources.postgres.slot import read_slot
from headgate.sources.postgres.values import Types

_MEBIBYTE = 1024 * 1024
_MUCH_RETAINED = 1024 * _MEBIBYTE


def examine(connection: Connection, names: Names, tables: Sequence[str], part: str) -> Iterator[Finding]:
    """Findings about the server, our privileges, the tables, the slot and the publication."""
    facts = _facts(connection, names)
    yield from _server(facts, part)
    yield from _slots(facts, part)
    yield from _privileges(facts, part)
    types = Types()
    named = bool(tables)
    relations = named_tables(connection, types, tables) if named else all_tables(connection, types)
    yield from _tables(connection, relations, tables, part)
    yield from _objects(connection, names, part)


def _facts(connection: Connection, names: Names) -> dict[str, Any]:
    cursor = connection.execute(_FACTS, [names.slot])
    row = cursor.fetchone()
    assert row is not None and cursor.description is not None  # a select without a table
    return {column.name: value for column, value in zip(cursor.description, row, strict=True)} | {
        "version": connection.info.server_version
    }


def _server(facts: dict[str, Any], part: str) -> Iterator[Finding]:
    version = facts["version"] // 10000
    if facts["version"] < OLDEST_VERSION:
        yield _error(part, f"PostgreSQL {version} is too old", "upgrade to PostgreSQL 14 or newer")
    else:
        yield Finding(level="ok", part=part, message=f"PostgreSQL {version} answers")
    if facts["standby"]:
        yield _error(part, "this server is a standby", "let the DSN lead to its primary")
    if facts["wal_level"] != "logical":
        yield _error(
            part,
            f"wal_level is {facts['wal_level']}",
            "set wal_level = logical in postgresql.conf and restart the server",
        )
    if facts["encoding"] == "SQL_ASCII":
        yield _warning(
            part, "the database's encoding is SQL_ASCII: bytes that are no UTF-8 are captured as \\xNN",
            "move it to a database in UTF8",
        )  # fmt: skip


def _slots(facts: dict[str, Any], part: str) -> Iterator[Finding]:
    # One slot is ours, and one for a moment whenever a table is added.
    if facts["slots_free"] + facts["ours"] < 1:
        yield _error(part, "no replication slot is free", "raise max_replication_slots, or drop an unused slot")
    elif facts["slots_free"] + facts["ours"] < 2:
        yield _warning(part, "only one replication slot is free", "raise max_replication_slots to add tables later")
    if facts["senders_free"] < 1:
        yield _error(part, "no walsender is free", "raise max_wal_senders")
    if facts["keep"] == -1:
        yield _warning(
            part, "max_slot_wal_keep_size is unlimited: a slot that nobody reads fills the disk",
            "set max_slot_wal_keep_size to what the disk can spare",
        )  # fmt: skip


def _privileges(facts: dict[str, Any], part: str) -> Iterator[Finding]:
    if not facts["may_replicate"]:
        yield _error(part, "our user may not replicate", "ALTER ROLE … REPLICATION, as an administrator")
    if not facts["may_create"]:
        yield _error(part, "our user may not create publications", "GRANT CREATE ON DATABASE … to it")


def _tables(
    connection: Connection, relations: Sequence[Relation], names: Sequence[str], part: str
) -> Iterator[Finding]:
    for absent in sorted(set(names) - {relation.table.name for relation in relations}):
        yield _error(part, f"there is no table {absent}", "correct or remove it in the source's `tables`")
    for relation in relations:
        name = relation.table.name
        if relation.obstacle:
            finding = _error if names else _warning
            yield finding(part, f"{name} {relation.obstacle}, so that it can't be captured", "give it a primary key")
        if relation.left_out:
            columns = ", ".join(relation.left_out)
            yield _warning(part, f"{name}: generated columns are left out: {columns}", "use PostgreSQL 18 or newer")
        if relation.partitioned and not relation.obstacle:
            yield _warning(
                part, f"{name} is partitioned: detaching or truncating one partition is not seen",
                "ask for a re-snapshot after it",
            )  # fmt: skip
    capturable = [relation for relation in relations if not relation.obstacle]
    forbidden = [relation.table.name for relation in capturable if not _may_publish(connection, relation)]
    if forbidden:
        yield _error(part, f"our user can't read and publish {', '.join(forbidden)}", "make it a member of their owner")
    if not capturable:
        yield _error(part, "no table can be captured", "give a table a primary key")


def _may_publish(connection: Connection, relation: Relation) -> bool:
    row = connection.execute(_MAY_PUBLISH, [relation.oid]).fetchone()
    return row == (True,)


def _objects(connection: Connection, names: Names, part: str) -> Iterator[Finding]:
    try:
        published = read_publication(connection, names.publication)
        slot = read_slot(connection, names.slot)
    except HeadgateError as error:
        yield _error(part, error.message, "see the message")
        return
    finished = set() if published is None else published.tables & set(published.note.tables)
    if published is None and slot is not None:
        yield _error(part, f"the publication {names.publication} is gone", "headgate detach, then start again")
    elif published is not None and finished and (slot is None or slot.lost):
        yield _error(part, f"the replication slot {names.slot} is gone, or lost its changes", "ask for a re-snapshot")
    elif published is None:
        yield Finding(level="ok", part=part, message="nothing of ours is installed yet")
    else:
        yield Finding(
            level="ok", part=part, message=f"publication {names.publication}: {len(finished)} tables are whole"
        )
    if slot is not None:
        yield _retained(slot.retained_bytes, names.slot, slot.active, part)


def _retained(size: int, name: str, active: bool, part: str) -> Finding:
    state = "is being read" if active else "is not being read"
    message = f"the replication slot {name} {state} and keeps {size // _MEBIBYTE} MiB of the server's log"
    if size > _MUCH_RETAINED:
        return _warning(part, message, "let capture run, or run headgate detach if it never shall again")
    return Finding(level="ok", part=part, message=message)


def _error(part: str, message: str, mend: str) -> Finding:
    return Finding(level="error", part=part, message=message, mend=mend)


def _warning(part: str, message: str, mend: str) -> Finding:
    return Finding(level="warning", part=part, message=message, mend=mend)


_FACTS = """
    select current_setting('wal_level') as wal_level,
           pg_is_in_recovery() as standby,
           current_setting('server_encoding') as encoding,
           current_setting('max_replication_slots')::int8 - (select count(*) from pg_replication_slots) as slots_free,
           (select count(*) from pg_replication_slots where slot_name = %s) as ours,
           current_setting('max_wal_senders')::int8 - (select count(*) from pg_stat_replication) as senders_free,
           (select setting::int8 from pg_settings where name = 'max_slot_wal_keep_size') as keep,
           (select rolsuper or rolreplication from pg_roles where rolname = current_user) as may_replicate,
           has_database_privilege(current_database(), 'CREATE') as may_create
"""

# Only a table's owner may publish it.
_MAY_PUBLISH = """
    select has_table_privilege(c.oid, 'SELECT') and pg_has_role(c.relowner, 'USAGE') from pg_class c where c.oid = %s
"""
