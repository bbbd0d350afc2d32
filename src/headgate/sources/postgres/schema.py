"""Tables as the catalog describes them, each with the reason why it can't be captured, if there is one.

https://www.postgresql.org/docs/current/catalogs.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from headgate.connections.postgres import Connection
from headgate.errors import SourceNotReady, TableWithoutKey
from headgate.model.table import Column, ForeignKey, Table
from headgate.sources.postgres.values import Types

GENERATED_PUBLISHED = 180000
"""From this version on, stored generated columns can be published. Before it, they are left out."""


class Relation(NamedTuple):
    """A table at the source."""

    oid: int
    table: Table
    types: tuple[int, ...]
    """OIDs of the columns' types."""
    partitioned: bool
    estimate: int
    """Rows as the planner last knew; -1 if it never looked."""
    obstacle: str
    """Why it can't be captured; empty if it can."""
    left_out: tuple[str, ...]
    """Generated columns that this server can't publish."""


class _Index(NamedTuple):
    columns: tuple[str, ...]
    primary: bool
    unique: bool
    identity: bool


def all_tables(connection: Connection, types: Types) -> list[Relation]:
    """Every ordinary or partitioned table outside the system's schemas and extensions, by name."""
    return _read(connection, types, "true", [])


def named_tables(connection: Connection, types: Types, names: Iterable[str]) -> list[Relation]:
    """The tables of these `schema.table` names that exist, by name; partitions too."""
    return _read(connection, types, "n.nspname || '.' || c.relname = any(%s)", [list(names)], partitions=True)


def wanted(connection: Connection, types: Types, names: Sequence[str]) -> list[Relation]:
    """The tables that a config names, or all that can be captured.

    SourceNotReady names those that do not exist, TableWithoutKey those that it names and that have no key.
    """
    if not names:
        return [relation for relation in all_tables(connection, types) if not relation.obstacle]
    relations = named_tables(connection, types, names)
    absent = sorted(set(names) - {relation.table.name for relation in relations})
    if absent:
        raise SourceNotReady(f"no such table: {', '.join(absent)}. Correct or remove it in the source's `tables`")
    obstacles = [f"{relation.table.name} {relation.obstacle}" for relation in relations if relation.obstacle]
    if obstacles:
        raise TableWithoutKey(f"{'; '.join(obstacles)}. Give it a primary key, or take it out of `tables`")
    return relations


def keyless_published(connection: Connection, types: Types, publication: str) -> list[str]:
    """Tables of the publication that have lost their key: their owner's updates fail as long as they are in it."""
    rows = connection.execute(_PUBLISHED, [publication]).fetchall()
    return [
        relation.table.name for relation in named_tables(connection, types, [r[0] for r in rows]) if relation.obstacle
    ]


def _read(
    connection: Connection, types: Types, condition: str, arguments: list[Any], *, partitions: bool = False
) -> list[Relation]:
    generated = ("", "s") if connection.info.server_version >= GENERATED_PUBLISHED else ("",)
    scope = "" if partitions else "and not c.relispartition"
    relations = connection.execute(_RELATIONS.format(condition=condition, scope=scope), arguments).fetchall()
    oids = [relation[0] for relation in relations]
    columns = _grouped(connection, _COLUMNS, oids)
    indexes = _indexes(connection, oids)
    foreign_keys = _foreign_keys(connection, oids)
    types.learn(connection, {column[2] for rows in columns.values() for column in rows})
    return [
        _relation(row, columns[row[0]], indexes[row[0]], foreign_keys[row[0]], types, generated) for row in relations
    ]


def _relation(
    row: tuple[Any, ...],
    columns: list[tuple[Any, ...]],
    indexes: list[_Index],
    foreign_keys: list[ForeignKey],
    types: Types,
    generated: tuple[str, ...],
) -> Relation:
    oid, name, kind, persistence, identity, estimate, unfit_partitions = row
    sent = [column for column in columns if column[5] in generated]
    key = _key(identity, indexes)
    table = Table(
        name=name,
        columns=tuple(
            Column(name=column[1], type=types.form(column[2]).type, native=column[3], nullable=column[4])
            for column in sent
        ),
        key=key,
        unique=tuple(index.columns for index in indexes if index.unique and index.columns != key),
        indexed=tuple(index.columns for index in indexes if not index.unique),
        foreign_keys=tuple(foreign_keys),
    )
    obstacle = _obstacle(table, persistence, identity, unfit_partitions)
    left_out = tuple(column[1] for column in columns if column not in sent)
    type_oids = tuple(column[2] for column in sent)
    return Relation(oid, table, type_oids, kind == "p", int(estimate), obstacle, left_out)


def _key(identity: str, indexes: list[_Index]) -> tuple[str, ...]:
    """The columns that every update and delete will name: what the replica identity stands on."""
    for index in indexes:
        if (identity in "df" and index.primary) or (identity == "i" and index.identity):
            return index.columns
    return ()


def _obstacle(table: Table, persistence: str, identity: str, unfit_partitions: int) -> str:
    names = {column.name for column in table.columns}
    if "." in table.name.replace(".", "", 1):
        return "has a dot in its name or its schema's"
    if persistence != "p":
        return "is unlogged, so that its changes reach no log"
    if identity == "n":
        return "has REPLICA IDENTITY NOTHING"
    if not table.key:
        return "has no primary key"
    if not names.issuperset(table.key):
        return "has a generated column in its key, which this version can't publish"
    if unfit_partitions:
        return "has partitions whose replica identity is not the default one"
    return ""


def _indexes(connection: Connection, oids: list[int]) -> dict[int, list[_Index]]:
    grouped = _grouped(connection, _INDEXES, oids)
    found: dict[int, list[_Index]] = defaultdict(list)
    for oid, rows in grouped.items():
        found[oid] = [_Index(tuple(columns), *flags) for _, columns, *flags in rows]
    return found


def _foreign_keys(connection: Connection, oids: list[int]) -> dict[int, list[ForeignKey]]:
    grouped = _grouped(connection, _FOREIGN_KEYS, oids)
    found: dict[int, list[ForeignKey]] = defaultdict(list)
    for oid, rows in grouped.items():
        found[oid] = [
            ForeignKey(columns=tuple(columns), table=table, refers_to=tuple(refers_to))
            for _, columns, table, refers_to in rows
        ]
    return found


def _grouped(connection: Connection, query: str, oids: list[int]) -> dict[int, list[tuple[Any, ...]]]:
    rows: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in connection.execute(query, [oids]):
        rows[row[0]].append(row)
    return rows


_RELATIONS = """
    select c.oid::int8, n.nspname || '.' || c.relname, c.relkind::text, c.relpersistence::text,
           c.relreplident::text, c.reltuples::float8,
           (select count(*) from pg_partition_tree(c.oid) p join pg_class leaf on leaf.oid = p.relid
            where c.relkind = 'p' and p.isleaf and leaf.relreplident not in ('d', 'f'))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and c.relpersistence <> 't'
      and n.nspname <> 'information_schema' and n.nspname not like 'pg\\_%%' and {condition} {scope}
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    order by 2
"""

_COLUMNS = """
    select attrelid::int8, attname::text, atttypid::int8, format_type(atttypid, atttypmod), not attnotnull,
           attgenerated::text
    from pg_attribute where attrelid = any(%s) and attnum > 0 and not attisdropped order by attrelid, attnum
"""

_INDEXES = """
    select i.indrelid::int8,
           array(select a.attname::text from unnest(i.indkey[:i.indnkeyatts - 1]) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum order by k.place),
           i.indisprimary, i.indisunique, i.indisreplident
    from pg_index i
    where i.indrelid = any(%s) and i.indisvalid and i.indpred is null and i.indexprs is null
    order by i.indrelid, i.indisprimary desc, i.indexrelid
"""

_FOREIGN_KEYS = """
    select c.conrelid::int8,
           array(select a.attname::text from unnest(c.conkey) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum order by k.place),
           n.nspname || '.' || t.relname,
           array(select a.attname::text from unnest(c.confkey) with ordinality k(attnum, place)
                 join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum order by k.place)
    from pg_constraint c join pg_class t on t.oid = c.confrelid join pg_namespace n on n.oid = t.relnamespace
    where c.conrelid = any(%s) and c.contype = 'f' and not t.relispartition
    order by c.conrelid, c.conname
"""

_PUBLISHED = """
    select n.nspname || '.' || c.relname
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace where p.pubname = %s
"""
