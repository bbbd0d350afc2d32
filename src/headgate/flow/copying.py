"""Copies dead letters to a topic of their own, so that any Kafka tool can look at them, and dropping loses none."""

from __future__ import annotations

from collections.abc import Callable

from headgate.errors import HeadgateError, RecordTooLarge
from headgate.flow.materializing import Materializing
from headgate.log.base import Appender, Headers, Record, Topic
from headgate.model.pipeline import DeadLetter, dead_letter_topic
from headgate.stores.base import Writer
from headgate.telemetry import logger

_log = logger("flow.copying")
_MOST = 500
_FLUSH_S = 5.0
_ORPHANED_MS = 60_000


class Copies:
    """One run's copying. One thread uses it.

    The store notes what is copied after the log has acknowledged it: each letter is copied at least once,
    whatever crashes. Key, value and headers are the record's own; ours are added behind them. A log that does not
    answer delays copies and nothing else.
    """

    def __init__(self, rooms: Materializing, writer: Writer) -> None:
        self._rooms = rooms
        self._writer = writer
        self._topic = dead_letter_topic(rooms.pipeline)
        self._appender: Appender | None = None

    def copy(self, is_mine: Callable[[DeadLetter], bool]) -> set[str]:
        """Copies letters that are this process's, and those that nobody has copied for a minute.

        Answers the ids of letters that are still not copied (some of them, where there are many).
        """
        due = self._writer.uncopied_dead_letters(self._rooms.pipeline, _MOST)
        orphaned_ms = self._rooms.clock() - _ORPHANED_MS
        mine = [letter for letter in due if is_mine(letter) or letter.time_ms < orphaned_ms]
        left = {letter.id for letter in due}
        if mine and self._append(mine):
            copied = [letter.id for letter in mine]
            self._writer.note_copied(self._rooms.pipeline, copied)
            left.difference_update(copied)
        return left

    def close(self) -> None:
        """Lets go. Never raises."""
        appender, self._appender = self._appender, None
        if appender is not None:
            appender.close()

    def _append(self, letters: list[DeadLetter]) -> bool:
        try:
            appender = self._appender or self._open()
            for letter in letters:
                self._append_one(appender, letter)
            appender.flush(_FLUSH_S)
        except HeadgateError as error:
            _log.warning("%s: dead letters could not be copied so far: %s", self._rooms.pipeline, error.message)
            self.close()
            return False
        return True

    def _open(self) -> Appender:
        self._rooms.log.ensure([Topic(name=self._topic, retention_ms=self._rooms.retention_ms)])
        self._appender = self._rooms.log.appender()
        return self._appender

    def _append_one(self, appender: Appender, letter: DeadLetter) -> None:
        headers = (*letter.headers, *_place(letter))
        try:
            appender.append(self._topic, Record(letter.key, letter.value, headers), 0)
        except RecordTooLarge:  # it fitted without our headers; the store holds it whole
            appender.append(self._topic, Record(letter.key, None, (*headers, ("headgate.left-out", b"value"))), 0)


def _place(letter: DeadLetter) -> Headers:
    """Where the record stood, and why it was not applied."""
    said = {
        "id": letter.id,
        "entity": letter.entity,
        "topic": letter.topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "code": letter.code,
        "message": letter.message,
        "time_ms": str(letter.time_ms),
    }
    return tuple((f"headgate.{name}", value.encode()) for name, value in said.items())
