"""Decodes the messages of the plugin pgoutput (protocol version 1, text) into changes.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from headgate.errors import SourceError
from headgate.model.change import Change, Op, Sequence
from headgate.sources.postgres.rows import RowShape, Values

POSTGRES_EPOCH_MS = 946_684_800_000
"""2000-01-01, from which the protocol counts its microseconds."""

HEADER = Struct(">cQQq")
"""XLogData: `w`, the message's LSN, the end of the log, the server's clock."""

_PAD = b"\0\0\0\0"  # lets the last column's kind and length be read together when it has no length

_head = Struct(">BI").unpack_from
_width = Struct(">H").unpack_from
_begin = Struct(">QqI").unpack_from
_commit = Struct(">BQQq").unpack_from
_relation = Struct(">I").unpack_from
_column_type = Struct(">Ii").unpack_from
_lsn = Struct(">Q").unpack_from

_TEXT, _NULL, _UNCHANGED = b"tnu"
_NEW, _KEY, _OLD = b"NKO"
_ALONE = 31  # where a row begins that stands alone in its message: after header, kind, table and `N`

_new = tuple.__new__  # a named tuple's own way takes twice as long


class StreamedColumn(NamedTuple):
    """A column as the stream describes it."""

    name: str
    type_oid: int
    modifier: int
    identity: bool
    """Whether it is part of the replica identity."""


class StreamedRelation(NamedTuple):
    """A table as the stream describes it, before its first change and after each change of its definition."""

    oid: int
    name: str
    """`schema.table`."""
    columns: tuple[StreamedColumn, ...]


class Tuple(NamedTuple):
    """A row as it came: not yet converted."""

    values: Values
    nulls: int
    missing: int
    end: int


OnRelation = Callable[[StreamedRelation], RowShape | None]
"""Answers how the table's rows become JSON; None leaves its changes out."""
Recover = Callable[[RowShape, Values, list[int]], list[bytes | None] | None]
"""Reads columns of a row at the source, by its unconverted values; None if there is no such row now."""


class Decoder:
    """Turns messages into changes, which gather in `changes` until they are taken.

    `position`: every transaction that committed before this LSN has been decoded whole. Sequences grow strictly.
    """

    def __init__(self, on_relation: OnRelation, recover: Recover) -> None:
        self.changes: list[Change] = []
        self.position = 0
        self.floors: dict[str, int] = {}
        """Per table, the LSN of its snapshot: what committed before it is in there already."""
        self._on_relation = on_relation
        self._recover = recover
        self._shapes: dict[int, RowShape | None] = {}
        self._newest_floor = 0
        self._floored = False
        self._commit = 0
        self._event = 0
        self._time_ms = 0

    def set_floor(self, table: str, lsn: int) -> None:
        """Leaves out changes of this table that committed before `lsn`."""
        self.floors[table] = lsn
        self._newest_floor = max(self.floors.values())

    def precedes_snapshot(self, table: str) -> bool:
        """Whether the present transaction is in this table's snapshot already."""
        return self._commit < self.floors.get(table, 0)

    def take(self) -> list[Change]:
        """The changes gathered since the last time."""
        taken, self.changes = self.changes, []
        return taken

    def decode(self, message: memoryview) -> None:
        """Decodes one XLogData message."""
        kind = message[25]
        if kind == 73:  # I
            self._row(message.tobytes(), "c")
            return
        if kind == 85 and message[30] == _NEW:  # U
            self._row(message.tobytes(), "u")
            return
        data = b"".join((message, _PAD))
        if kind == 85:
            self._update_with_old(data)
        elif kind == 68:  # D
            self._delete(data)
        elif kind == 66:  # B
            self._begin(data)
        elif kind == 67:  # C
            self.position = max(self.position, _commit(data, 26)[2])
        elif kind == 82:  # R
            relation = read_relation(data)
            self._shapes[relation.oid] = self._on_relation(relation)
        elif kind == 84:  # T
            self._truncate(data)

    def _begin(self, data: bytes) -> None:
        self._commit, microseconds, _ = _begin(data, 26)
        self._event = 0
        self._time_ms = microseconds // 1000 + POSTGRES_EPOCH_MS
        self._floored = self._commit < self._newest_floor

    def _shape(self, data: bytes) -> RowShape | None:
        oid = _relation(data, 26)[0]
        try:
            shape = self._shapes[oid]
        except KeyError:
            raise SourceError("the stream names a table that it never described: start capture again") from None
        if self._floored and shape is not None and self.precedes_snapshot(shape.table):
            return None
        return shape

    def _row(self, data: bytes, op: Op) -> None:
        """A row that stands alone in its message."""
        shape = self._shape(data)
        if shape is None:
            return
        found = shape.read(data, _ALONE)
        if found is None:
            values, nulls, missing, _ = read_tuple(data + _PAD, _ALONE, shape)
            shape.seen(nulls, missing)
            row = shape.row(values, nulls, missing)
            self._emit(data, op, shape, shape.key_of(values), None, row, missing != 0)
        else:
            row, key, partial = found
            self._emit(data, op, shape, key, None, row, partial)

    def _update_with_old(self, data: bytes) -> None:
        shape = self._shape(data)
        if shape is None:
            return
        old = read_tuple(data, 31, shape)
        new = read_tuple(data, old.end + 1, shape)
        whole = data[30] == _OLD
        moved = any(old.values[index] != new.values[index] for index in shape.key_indexes)
        if new.missing and whole:
            new = _filled(new, _missing_indexes(new.missing), old.values)
        if new.missing and moved:
            new = self._recovered(shape, new)
        before = shape.row(old.values, old.nulls, old.missing) if whole else None
        if not whole:
            shape.convert(old.values)
        row = shape.row(new.values, new.nulls, new.missing)
        key = shape.key_of(new.values)
        if not moved:
            self._emit(data, "u", shape, key, before, row, new.missing != 0)
            return
        old_key = shape.key_of(old.values)
        self._emit(data, "d", shape, old_key, before or old_key, None, False)
        self._emit(data, "c", shape, key, None, row, new.missing != 0)

    def _recovered(self, shape: RowShape, new: Tuple) -> Tuple:
        """Columns that the stream left out, read at the source: the row under its old key lies elsewhere.

        What is read may be newer than the change, and the changes to come will say the same. Where the row is
        gone by now, the columns stay unavailable: its delete, or its next move, is still to come.
        """
        indexes = _missing_indexes(new.missing)
        found = self._recover(shape, new.values, indexes)
        if found is None:
            return new
        return _filled(new, indexes, dict(zip(indexes, found, strict=True)))

    def _delete(self, data: bytes) -> None:
        shape = self._shape(data)
        if shape is None:
            return
        values, nulls, missing, _ = read_tuple(data, 31, shape)
        if data[30] == _OLD:
            before = shape.row(values, nulls, missing)
            key = shape.key_of(values)
        else:
            shape.convert(values)
            before = key = shape.key_of(values)
        self._emit(data, "d", shape, key, before, None, False)

    def _truncate(self, data: bytes) -> None:
        count = _relation(data, 26)[0]
        for place in range(count):
            shape = self._shapes.get(_relation(data, 31 + 4 * place)[0])
            if shape is not None and not self.precedes_snapshot(shape.table):
                self._emit(data, "t", shape, None, None, None, False)

    def _emit(
        self, data: bytes, op: Op, shape: RowShape, key: bytes | None, before: bytes | None, after: bytes | None,
        partial: bool,
    ) -> None:  # fmt: skip
        lsn = _lsn(data, 1)[0]
        # Rows of one COPY share an LSN; the same transaction sent again counts the same way.
        self._event = event = lsn if lsn > self._event else self._event + 1
        self.changes.append(
            Change(
                op=op,
                table=shape.table,
                key=key,
                before=before,
                after=after,
                sequence=_new(Sequence, (self._commit, event, "")),
                time_ms=self._time_ms,
                partial=partial,
            )
        )


def read_tuple(data: bytes, at: int, shape: RowShape) -> Tuple:
    """The row that starts at `at`. SourceError if it has another number of columns than its table."""
    if _width(data, at)[0] != shape.width:
        raise SourceError(f"{shape.table}: a row does not fit its table's description: start capture again")
    values: Values = []
    append = values.append
    nulls = missing = 0
    at += 2
    for bit in shape.bits:
        kind, size = _head(data, at)
        if kind == _TEXT:
            start = at + 5
            at = start + size
            append(data[start:at])
        else:
            append(None)
            at += 1
            if kind == _NULL:
                nulls |= bit
            else:
                missing |= bit
    return Tuple(values, nulls, missing, at)


def read_relation(data: bytes) -> StreamedRelation:
    """A Relation message. The schema's name is empty for pg_catalog, which is never published."""
    oid = _relation(data, 26)[0]
    schema, at = _text(data, 30)
    name, at = _text(data, at)
    count = _width(data, at + 1)[0]
    at += 3
    columns = []
    for _ in range(count):
        identity = bool(data[at] & 1)
        column, at = _text(data, at + 1)
        type_oid, modifier = _column_type(data, at)
        at += 8
        columns.append(StreamedColumn(column, type_oid, modifier, identity))
    return StreamedRelation(oid, f"{schema}.{name}", tuple(columns))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _missing_indexes(missing: int) -> list[int]:
    return [index for index in range(missing.bit_length()) if missing >> index & 1]


def _filled(row: Tuple, indexes: list[int], source: Values | dict[int, bytes | None]) -> Tuple:
    values, nulls, missing, end = row
    for index in indexes:
        values[index] = source[index]
        missing &= ~(1 << index)
        if source[index] is None:
            nulls |= 1 << index
    return Tuple(values, nulls, missing, end)
