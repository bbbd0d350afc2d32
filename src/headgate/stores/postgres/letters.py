"""Dead letters: the statements that a writer's transactions hold, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headgate.model.pipeline import DeadLetter
from headgate.stores.postgres.rows import Statement
from headgate.stores.postgres.steps import Step

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode
_AMONG = "pipeline = %(pipeline)s and id = any(%(ids)b::text[])"


def keep(letter: DeadLetter) -> list[Statement]:
    """Keeps a letter in place of one with its id; unless it was tried again, it is due to be copied."""
    given = {"pipeline": letter.pipeline, "id": letter.id, "time": letter.time_ms, "packed": _encode(letter)}
    statements: list[Statement] = [
        (
            "insert into dead_letters (pipeline, id, time_ms, packed)"
            " values (%(pipeline)s, %(id)s, %(time)s, %(packed)b)"
            " on conflict (pipeline, id) do update set time_ms = excluded.time_ms, packed = excluded.packed",
            given,
        )
    ]
    if not letter.tried_ms:
        due = "insert into uncopied_letters (pipeline, id) values (%(pipeline)s, %(id)s) on conflict do nothing"
        statements.append((due, {"pipeline": letter.pipeline, "id": letter.id}))
    return statements


def remove(pipeline: str, ids: Sequence[str]) -> list[Statement]:
    """Removes letters; the last statement says how many there were."""
    given = {"pipeline": pipeline, "ids": list(ids)}
    return [
        (f"delete from uncopied_letters where {_AMONG}", given),
        (f"delete from dead_letters where {_AMONG}", given),
    ]


def ids(step: Step, pipeline: str) -> list[str]:
    """All ids, the oldest first."""
    found = step.ask(
        "select id from dead_letters where pipeline = %(pipeline)s order by time_ms, id", pipeline=pipeline
    )
    return [id_ for (id_,) in found]


def of(step: Step, pipeline: str, ids: Sequence[str]) -> list[DeadLetter]:
    """The letters of these ids that are there, in their order."""
    if not ids:
        return []
    found = step.ask(f"select id, packed from dead_letters where {_AMONG}", pipeline=pipeline, ids=list(ids))
    by_id = {id_: _decode(packed) for id_, packed in found}
    return [by_id[id_] for id_ in ids if id_ in by_id]


def uncopied(step: Step, pipeline: str, limit: int) -> list[DeadLetter]:
    """Letters that are not noted as copied."""
    found = step.ask(
        "select packed from uncopied_letters join dead_letters using (pipeline, id)"
        " where pipeline = %(pipeline)s limit %(limit)s",
        pipeline=pipeline,
        limit=limit,
    )
    return [_decode(packed) for (packed,) in found]


def note_copied(step: Step, pipeline: str, ids: Sequence[str]) -> None:
    """Notes that letters are copied."""
    if ids:
        step.do(f"delete from uncopied_letters where {_AMONG}", pipeline=pipeline, ids=list(ids))
