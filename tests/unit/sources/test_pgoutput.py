"""Messages of pgoutput, written as the protocol's page lays them out, and what the decoder makes of them.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from struct import pack
from typing import Any

import pytest

from headgate.errors import SourceError
from headgate.model.change import UNAVAILABLE
from headgate.model.change import Sequence as SourceSequence
from headgate.sources.postgres.pgoutput import POSTGRES_EPOCH_MS, Decoder, StreamedRelation
from headgate.sources.postgres.rows import RowShape, Values
from headgate.sources.postgres.values import TEXT, Types

UNCHANGED = object()
ORDERS = 16384
COMMITTED_MS = 1_800_000_000_123


class Server:
    """Writes messages to a decoder as a walsender would, and plays the source for what is read there."""

    def __init__(self, stored: Sequence[bytes | None] | None = None, key: tuple[str, ...] = ("id",)) -> None:
        self.stored = stored
        self.key = key
        self.asked: list[tuple[Values, list[int]]] = []
        self.described: list[StreamedRelation] = []
        self.decoder = Decoder(self._shape, self._recover)

    def _shape(self, relation: StreamedRelation) -> RowShape | None:
        self.described.append(relation)
        if relation.name == "public.others":
            return None
        columns = [
            (column.name, Types().form(column.type_oid) if column.type_oid != 25 else TEXT)
            for column in relation.columns
        ]
        return RowShape(relation.name, columns, self.key)

    def _recover(self, shape: RowShape, values: Values, indexes: list[int]) -> list[bytes | None] | None:
        self.asked.append((list(values), indexes))
        return None if self.stored is None else list(self.stored)

    def send(self, payload: bytes, lsn: int = 0) -> None:
        self.decoder.decode(memoryview(pack(">cQQq", b"w", lsn, lsn, 0) + payload))

    def begin(self, final_lsn: int) -> None:
        self.send(b"B" + pack(">QqI", final_lsn, (COMMITTED_MS - POSTGRES_EPOCH_MS) * 1000, 7))

    def commit(self, lsn: int, end: int) -> None:
        self.send(b"C" + pack(">BQQq", 0, lsn, end, 0))

    def relation(self, oid: int = ORDERS, name: bytes = b"orders") -> None:
        columns = [(1, b"id", 23), (0, b"note", 25), (0, b"total", 1700)]
        body = b"".join(pack(">B", flag) + column + b"\0" + pack(">Ii", kind, -1) for flag, column, kind in columns)
        self.send(b"R" + pack(">I", oid) + b"public\0" + name + b"\0d" + pack(">H", len(columns)) + body)

    def row(self, *parts: Any, oid: int = ORDERS, lsn: int = 0) -> None:
        """`row(b"U", b"K", (…), b"N", (…))`"""
        kind, *rest = parts
        body = b"".join(part if isinstance(part, bytes) else tuple_data(*part) for part in rest)
        self.send(kind + pack(">I", oid) + body, lsn)

    def taken(self) -> list[tuple[Any, ...]]:
        """Operation, key, before, after of each change, as values."""
        return [
            (
                change.op,
                *(None if part is None else json.loads(part) for part in (change.key, change.before, change.after)),
            )
            for change in self.decoder.take()
        ]


def tuple_data(*values: Any) -> bytes:
    parts = [pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            parts.append(b"t" + pack(">I", len(value)) + value)
    return b"".join(parts)


def whole(number: int, note: str | None, total: str) -> dict[str, Any]:
    return {"id": number, "note": note, "total": total}


@pytest.fixture
def server() -> Server:
    made = Server()
    made.begin(100)
    made.relation()
    return made


def test_an_insert(server: Server) -> None:
    server.row(b"I", b"N", (b"1", b"a", b"2.50"))
    assert server.taken() == [("c", {"id": 1}, None, whole(1, "a", "2.50"))]


def test_a_null_in_the_last_column(server: Server) -> None:
    server.row(b"I", b"N", (b"1", b"a", None))
    assert server.taken() == [("c", {"id": 1}, None, {"id": 1, "note": "a", "total": None})]


def test_a_change_carries_the_commit_and_its_time(server: Server) -> None:
    server.row(b"I", b"N", (b"1", b"a", b"2.50"), lsn=60)
    (change,) = server.decoder.take()
    assert (change.table, change.sequence, change.time_ms) == ("public.orders", SourceSequence(100, 60), COMMITTED_MS)


def test_an_update_without_its_old_row(server: Server) -> None:
    server.row(b"U", b"N", (b"1", b"b", b"3"))
    assert server.taken() == [("u", {"id": 1}, None, whole(1, "b", "3"))]


def test_an_update_with_its_whole_old_row(server: Server) -> None:
    server.row(b"U", b"O", (b"1", b"a", b"2"), b"N", (b"1", b"b", b"3"))
    assert server.taken() == [("u", {"id": 1}, whole(1, "a", "2"), whole(1, "b", "3"))]


def test_a_delete_by_its_key(server: Server) -> None:
    server.row(b"D", b"K", (b"1", None, None))
    assert server.taken() == [("d", {"id": 1}, {"id": 1}, None)]


def test_a_delete_with_its_whole_old_row(server: Server) -> None:
    server.row(b"D", b"O", (b"1", None, b"2"))
    assert server.taken() == [("d", {"id": 1}, whole(1, None, "2"), None)]


def test_a_key_change_is_a_delete_and_a_create(server: Server) -> None:
    server.row(b"U", b"K", (b"1", None, None), b"N", (b"9", b"a", b"2"))
    assert server.taken() == [("d", {"id": 1}, {"id": 1}, None), ("c", {"id": 9}, None, whole(9, "a", "2"))]


def test_an_old_key_that_is_the_same_is_a_plain_update(server: Server) -> None:
    server.row(b"U", b"K", (b"1", None, None), b"N", (b"1", b"a", b"2"))
    assert server.taken() == [("u", {"id": 1}, None, whole(1, "a", "2"))]


def test_an_unchanged_toast_column_makes_the_change_partial(server: Server) -> None:
    server.row(b"U", b"N", (b"1", UNCHANGED, b"3"))
    (change,) = server.decoder.take()
    assert change.partial
    assert json.loads(change.after or b"") == whole(1, UNAVAILABLE, "3")


def test_an_unchanged_toast_column_comes_from_a_whole_old_row(server: Server) -> None:
    server.row(b"U", b"O", (b"1", b"long", b"2"), b"N", (b"1", UNCHANGED, b"3"))
    (change,) = server.decoder.take()
    assert not change.partial
    assert json.loads(change.after or b"") == whole(1, "long", "3")


def test_a_null_in_the_whole_old_row_fills_too(server: Server) -> None:
    server.row(b"U", b"O", (b"1", None, b"2"), b"N", (b"1", UNCHANGED, b"3"))
    assert server.taken() == [("u", {"id": 1}, whole(1, None, "2"), whole(1, None, "3"))]


def test_a_moved_row_reads_its_unchanged_column_at_the_source() -> None:
    server = Server(stored=[b"long"])
    server.begin(100)
    server.relation()
    server.row(b"U", b"K", (b"1", None, None), b"N", (b"9", UNCHANGED, b"3"))
    assert server.asked == [([b"9", None, b"3"], [1])]
    assert server.taken() == [("d", {"id": 1}, {"id": 1}, None), ("c", {"id": 9}, None, whole(9, "long", "3"))]


def test_a_moved_row_that_is_gone_at_the_source_stays_partial(server: Server) -> None:
    server.row(b"U", b"K", (b"1", None, None), b"N", (b"9", UNCHANGED, b"3"))
    deleted, created = server.decoder.take()
    assert (deleted.op, deleted.partial) == ("d", False)
    assert (created.op, created.partial) == ("c", True)


def test_a_composite_key_keeps_the_keys_order() -> None:
    server = Server(key=("total", "id"))
    server.begin(100)
    server.relation()
    server.row(b"I", b"N", (b"1", None, b"2.0"))
    assert server.decoder.take()[0].key == b'{"total":"2.0","id":1}'


def test_a_truncate_names_each_table_once(server: Server) -> None:
    server.relation(oid=2, name=b"items")
    server.relation(oid=3, name=b"others")
    server.send(b"T" + pack(">IBIII", 3, 0, ORDERS, 2, 3), lsn=50)
    changes = server.decoder.take()
    assert [(change.op, change.table, change.key) for change in changes] == [
        ("t", "public.orders", None),
        ("t", "public.items", None),
    ]
    assert changes[0].sequence is not None and changes[1].sequence is not None
    assert changes[0].sequence < changes[1].sequence


def test_sequences_grow_where_rows_share_an_lsn(server: Server) -> None:
    for number, lsn in ((b"1", 60), (b"2", 60), (b"3", 60), (b"4", 61), (b"5", 90)):
        server.row(b"I", b"N", (number, None, b"0"), lsn=lsn)
    assert [change.sequence for change in server.decoder.take()] == [
        SourceSequence(100, event) for event in (60, 61, 62, 63, 90)
    ]  # fmt: skip


def test_the_count_begins_anew_with_each_transaction(server: Server) -> None:
    server.row(b"I", b"N", (b"1", None, b"0"), lsn=90)
    server.commit(100, 108)
    server.begin(200)
    server.row(b"I", b"N", (b"2", None, b"0"), lsn=80)
    assert [change.sequence for change in server.decoder.take()] == [SourceSequence(100, 90), SourceSequence(200, 80)]


def test_the_position_moves_with_commits_alone(server: Server) -> None:
    server.row(b"I", b"N", (b"1", None, b"0"), lsn=90)
    assert server.decoder.position == 0
    server.commit(100, 108)
    assert server.decoder.position == 108


def test_a_table_that_is_not_captured_is_left_out(server: Server) -> None:
    server.relation(oid=5, name=b"others")
    server.row(b"I", b"N", (b"1", None, b"0"), oid=5)
    server.row(b"U", b"N", (b"1", None, b"0"), oid=5)
    server.row(b"D", b"K", (b"1", None, None), oid=5)
    assert server.taken() == []


def test_what_a_snapshot_shows_already_is_left_out(server: Server) -> None:
    server.decoder.set_floor("public.orders", 150)
    server.commit(100, 108)
    for final in (149, 150):
        server.begin(final)
        server.row(b"I", b"N", (str(final).encode(), None, b"0"))
        server.send(b"T" + pack(">IBI", 1, 0, ORDERS))
        server.commit(final, final + 1)
    assert [(change.op, change.key) for change in server.decoder.take()] == [("c", b'{"id":150}'), ("t", None)]


def test_a_relation_is_read_whole(server: Server) -> None:
    (relation,) = server.described
    assert (relation.oid, relation.name) == (ORDERS, "public.orders")
    assert [(column.name, column.type_oid, column.modifier, column.identity) for column in relation.columns] == [
        ("id", 23, -1, True),
        ("note", 25, -1, False),
        ("total", 1700, -1, False),
    ]


def test_other_messages_are_passed_over(server: Server) -> None:
    server.send(b"O" + pack(">Q", 5) + b"origin\0")
    server.send(b"Y" + pack(">I", 77) + b"public\0mood\0")
    server.send(b"M" + pack(">BQ", 0, 5) + b"prefix\0" + pack(">I", 2) + b"hi")
    assert server.taken() == []


def test_a_row_that_does_not_fit_its_table_is_an_error(server: Server) -> None:
    with pytest.raises(SourceError, match=r"public\.orders"):
        server.row(b"I", b"N", (b"1", b"a"))


def test_a_table_that_was_never_described_is_an_error(server: Server) -> None:
    with pytest.raises(SourceError, match="never described"):
        server.row(b"I", b"N", (b"1", b"a", b"2"), oid=99)
