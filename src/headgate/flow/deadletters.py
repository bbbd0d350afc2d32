"""A change that could not be applied, kept whole with its reason."""

from __future__ import annotations

from headgate.errors import HeadgateError
from headgate.log.base import Logged
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Partition, Progress


def dead_letter(
    pipeline: str,
    entity: str,
    record: Logged,
    error: HeadgateError,
    now_ms: int,
    *,
    row: str | None = None,
    at: Progress | None = None,
) -> DeadLetter:
    """The letter of one record: the whole of it, where it stood, and why it was not applied.

    `row` is the key text that it flaws, and `at` what its partition had come to: without both it can't be
    retried later without the danger that a row goes back.
    """
    at = at or Progress()
    return DeadLetter(
        pipeline=pipeline,
        entity=entity,
        topic=record.partition.topic,
        partition=record.partition.number,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
        code=error.code,
        message=error.message,
        time_ms=now_ms,
        row=row,
        generation=at.generation,
        epoch=at.epoch,
        high_water=at.high_water,
    )


def record_of(letter: DeadLetter) -> Logged:
    """The record that a letter is of, as the log had it."""
    place = Partition(letter.topic, letter.partition)
    return Logged(place, letter.offset, letter.time_ms, letter.key, letter.value, letter.headers)
