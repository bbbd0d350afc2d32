"""Dead letters in the file. Each function runs in the transaction that its caller has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from headgate.model.pipeline import DeadLetter

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode
_AMONG = "pipeline = ? and id in (select value from json_each(?))"


def keep(connection: sqlite3.Connection, letters: Sequence[DeadLetter]) -> None:
    """Keeps letters in place of those with their ids; unless it was tried again, each is due to be copied."""
    connection.executemany(
        "insert or replace into dead_letters values (?, ?, ?, ?)",
        [(letter.pipeline, letter.id, letter.time_ms, _encode(letter)) for letter in letters],
    )
    connection.executemany(
        "insert or ignore into uncopied_letters values (?, ?)",
        [(letter.pipeline, letter.id) for letter in letters if not letter.tried_ms],
    )


def remove(connection: sqlite3.Connection, pipeline: str, ids: Sequence[str]) -> int:
    """Removes letters; answers how many there were."""
    among = (pipeline, _json(ids))
    connection.execute(f"delete from uncopied_letters where {_AMONG}", among)
    return connection.execute(f"delete from dead_letters where {_AMONG}", among).rowcount


def ids(connection: sqlite3.Connection, pipeline: str) -> list[str]:
    """All ids, the oldest first."""
    found = connection.execute("select id from dead_letters where pipeline = ? order by time_ms, id", [pipeline])
    return [id_ for (id_,) in found]


def of(connection: sqlite3.Connection, pipeline: str, ids: Sequence[str]) -> list[DeadLetter]:
    """The letters of these ids that are there, in their order."""
    found = connection.execute(f"select id, packed from dead_letters where {_AMONG}", (pipeline, _json(ids)))
    by_id = {id_: _decode(packed) for id_, packed in found}
    return [by_id[id_] for id_ in ids if id_ in by_id]


def uncopied(connection: sqlite3.Connection, pipeline: str, limit: int) -> list[DeadLetter]:
    """Letters that are not noted as copied."""
    found = connection.execute(
        "select packed from uncopied_letters join dead_letters using (pipeline, id) where pipeline = ? limit ?",
        [pipeline, limit],
    )
    return [_decode(packed) for (packed,) in found]


def note_copied(connection: sqlite3.Connection, pipeline: str, ids: Sequence[str]) -> None:
    """Notes that letters are copied."""
    connection.execute(f"delete from uncopied_letters where {_AMONG}", (pipeline, _json(ids)))


def _json(ids: Sequence[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()
