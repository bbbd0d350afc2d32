"""Asks a server the same question again and again, so that whoever works need not wait for it to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_CLOSE_S = 2.0
Answer = TypeVar("Answer")


class Lookout(Generic[Answer]):
    """Asks on a thread of its own, at once and then every `every_s` seconds. One thread takes the answers.

    A question costs that thread nothing, however busy the server is: a step of rows that comes meanwhile is not late
    by it. An answer is as old as its question.
    """

    def __init__(self, ask: Callable[[], Answer], every_s: float, name: str) -> None:
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def take(self) -> Answer | None:
        """The newest answer, if there is one since the last time. Does not wait. Raises what asking last raised."""
        with self._lock:
            answer, error = self._answer, self._error
            self._answer = self._error = None
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """Ends the thread, and waits for a question that is under way, but no longer than two seconds. Never raises."""
        self._closed.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._closed.is_set():
            answer: Answer | None = None
            error: Exception | None = None
            try:
                answer = self._ask()
            except Exception as raised:  # whoever takes the answers is to know
                error = raised
            with self._lock:
                self._answer, self._error = answer, error
            self._closed.wait(self._every_s)
