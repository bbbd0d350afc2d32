"""Tables' definitions as the stream tells them, and what only the catalog or the table itself can add."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from psycopg import pq, sql

from headgate.connections.postgres import Connection, error_of
from headgate.errors import TableWithoutKey, Unavailable
from headgate.model.table import Column, Table
from headgate.sources.postgres.heads import Heads
from headgate.sources.postgres.pgoutput import StreamedRelation
from headgate.sources.postgres.publication import table_name
from headgate.sources.postgres.rows import RowShape, Values
from headgate.sources.postgres.schema import Relation, named_tables
from headgate.sources.postgres.values import Types


class Definitions:
    """Knows the captured tables. New and changed definitions gather until they are taken."""

    def __init__(self, connection: Connection, types: Types, relations: Sequence[Relation], server: str) -> None:
        self._connection = connection
        self._types = types
        self._server = server
        self._names = {relation.oid: relation.table.name for relation in relations}
        self._tables = {relation.table.name: relation.table for relation in relations}
        self._changed = dict(self._tables)
        self.heads: Heads | None = None
        """Uses the same connection, which must be free before a statement."""

    def take(self) -> list[Table]:
        """Definitions that became known or changed since the last time."""
        taken = list(self._changed.values())
        self._changed.clear()
        return taken

    def shape_of(self, relation: Relation) -> RowShape:
        """How a table that was read from the catalog becomes JSON."""
        self._note(relation.table)
        return shape_of(relation, self._types)

    def name_of(self, oid: int) -> str | None:
        """The name under which a table is captured, if it is."""
        return self._names.get(oid)

    def streamed(self, relation: StreamedRelation) -> RowShape | None:
        """How a table becomes JSON from here on in the stream; None if it is not captured.

        Unavailable where a captured table was renamed: begun anew, capture finds it under its new name.
        """
        if relation.name not in self._tables:
            if relation.oid in self._names:
                raise Unavailable(f"{self._names[relation.oid]} was renamed to {relation.name}: starting again")
            return None
        self._settle()
        self._types.learn(self._connection, [column.type_oid for column in relation.columns])
        table = self._table(relation)
        self._note(table)
        forms = [(column.name, self._types.form(column.type_oid)) for column in relation.columns]
        return RowShape(table.name, forms, table.key)

    def recover(self, shape: RowShape, values: Values, indexes: list[int]) -> list[bytes | None] | None:
        """Columns of a row as they are at the source now, in its text form; None if there is no such row."""
        self._settle()
        wanted = sql.SQL(", ").join([sql.Identifier(shape.names[index]) for index in indexes])
        places = [
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.SQL(f"${place}"))
            for place, name in enumerate(shape.key, 1)
        ]
        query = sql.SQL("select {} from {} where {}").format(
            wanted, table_name(shape.table), sql.SQL(" and ").join(places)
        )
        key = [values[index] for index in shape.key_indexes]
        result = self._connection.pgconn.exec_params(query.as_bytes(self._connection), key)
        if result.status != pq.ExecStatus.TUPLES_OK:
            self._check_gone(result.error_field(pq.DiagnosticField.SQLSTATE))
            return None
        return [result.get_value(0, place) for place in range(len(indexes))] if result.ntuples else None

    def _check_gone(self, sqlstate: bytes | None) -> None:
        """Passes where the table or column is gone by now, as the row is: what is to come in the stream says so."""
        state = sqlstate.decode() if sqlstate else None
        if state not in ("42P01", "42703"):
            raise error_of(state, self._server)

    def _settle(self) -> None:
        if self.heads is not None:
            self.heads.settle()

    def _note(self, table: Table) -> None:
        if self._tables.get(table.name) != table:
            self._tables[table.name] = self._changed[table.name] = table

    def _table(self, relation: StreamedRelation) -> Table:
        """The definition that the stream tells, with what the catalog now adds to it."""
        found = named_tables(self._connection, self._types, [relation.name])
        current = found[0].table if found else self._tables[relation.name]
        key = self._key(relation, current)
        told = [(column.name, column.type_oid) for column in relation.columns]
        if found and key == current.key and told == list(zip(_names(current), found[0].types, strict=True)):
            return current
        names = {column.name for column in relation.columns}
        return msgspec.structs.replace(
            current,
            columns=self._columns(relation, current),
            key=key,
            unique=tuple(columns for columns in current.unique if names.issuperset(columns)),
            indexed=tuple(columns for columns in current.indexed if names.issuperset(columns)),
            foreign_keys=tuple(link for link in current.foreign_keys if names.issuperset(link.columns)),
        )

    def _key(self, relation: StreamedRelation, current: Table) -> tuple[str, ...]:
        """The key's columns: the identity's in the key's order. With identity FULL, the key's alone."""
        identity = tuple(column.name for column in relation.columns if column.identity)
        for key in (current.key, self._tables[relation.name].key):
            if key and set(identity).issuperset(key):
                return key
        if not identity:
            raise TableWithoutKey(
                f"{relation.name} has lost its key: give it a primary key, then ask for a re-snapshot of it"
            )
        return identity

    def _columns(self, relation: StreamedRelation, current: Table) -> tuple[Column, ...]:
        rows = self._connection.execute(
            "select format_type(oid, modifier) from unnest(%s::oid[], %s::int4[]) with ordinality"
            " as column_types (oid, modifier, place) order by place",
            [[column.type_oid for column in relation.columns], [column.modifier for column in relation.columns]],
        ).fetchall()
        known = {column.name: column for column in current.columns}
        return tuple(
            Column(
                name=column.name,
                type=self._types.form(column.type_oid).type,
                native=native,
                nullable=known[column.name].nullable if column.name in known else True,
            )
            for column, (native,) in zip(relation.columns, rows, strict=True)
        )


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def shape_of(relation: Relation, types: Types) -> RowShape:
    """How a table that was read from the catalog becomes JSON. `types` has learnt its types."""
    columns = zip(relation.table.columns, relation.types, strict=True)
    return RowShape(
        relation.table.name, [(column.name, types.form(oid)) for column, oid in columns], relation.table.key
    )
