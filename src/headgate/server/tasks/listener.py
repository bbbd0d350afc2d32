"""The client of a call that may become a task: present at first, and from then on reached by the task alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from headgate.errors import CapabilityMissing, InputRequired
from headgate.server.tasks.task import Task
from headgate.tools._client import Client, Level, Question, missing


class Listener:
    """A `tools._client.Client`. Once it is away, progress becomes the task's note, and what is asked ends a round."""

    def __init__(
        self, present: Client | None, capabilities: Mapping[str, Any], answers: Mapping[str, Any], kept: Any
    ) -> None:
        self._present = present
        self.capabilities = capabilities
        self.answers = answers
        self.kept = kept
        self.note = ""
        """How far the tool says it is."""

    @classmethod
    def present(cls, client: Client) -> Listener:
        """Whoever called, and still waits for the answer."""
        return cls(client, client.capabilities, client.answers, client.kept)

    @classmethod
    def away(cls, task: Task) -> Listener:
        """Whoever made the task."""
        return cls(None, task.asked.capabilities, task.answers_by_name(), task.kept)

    def leave(self) -> None:
        """The call has become a task: its client has an answer, and hears no more on its request's stream."""
        self._present = None

    def hears(self, level: Level) -> bool:
        """Whether a notice of that level reaches anyone."""
        return self._present is not None and self._present.hears(level)

    async def opening(self) -> None:
        """As the client's own; a task has no stream by which rows could leave."""
        if self._present is not None:
            await self._present.opening()

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tells the client, and keeps it for the task's note."""
        of = "" if total is None else f" of {total:g}"
        self.note = message or f"{done:g}{of}"
        if self._present is not None:
            await self._present.progress(done, total, message)

    async def notice(self, level: Level, data: Any) -> None:
        """Tells the client; a task has no notices."""
        if self._present is not None:
            await self._present.notice(level, data)

    async def ask(self, questions: Mapping[str, Question], keep: Any = None) -> NoReturn:
        """Ends the round: of the request, or of the task."""
        if self._present is not None:
            await self._present.ask(questions, keep)
        lacking = missing(questions, self.capabilities)
        if lacking:
            raise CapabilityMissing(lacking)
        raise InputRequired(questions, "", keep)
