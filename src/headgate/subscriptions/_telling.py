"""Tells of changes without keeping whoever makes them waiting."""

from __future__ import annotations

import threading
from typing import Any

from headgate import plugins
from headgate.errors import HeadgateError
from headgate.subscriptions.base import MOST_KEYS, Sender, Touched, encode
from headgate.telemetry import logger

_PACE_S = 0.005
"""The least time between two messages: what changes meanwhile goes out as one."""
_PAUSES_S = (0.05, 0.2, 1.0)
_CLOSE_S = 2.0
_log = logger("subscriptions")


def open_teller(kind: str, target: Any) -> Teller:
    """A teller of that kind. ConfigError for one that there is not."""
    return Teller(plugins.load("subscriptions", kind).open_sender(target))


class Teller:
    """Takes what changed from any thread and sends it from one of its own, which begins with the first of it.

    What is told within 5 ms, or while a message is under way, goes out as one. When sending fails, all that there is
    may have changed, and that is sent as soon as it can be.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._touched: dict[str, set[str] | None] = {}
        self._thread: threading.Thread | None = None

    def tell(self, touched: Touched) -> None:
        """Has it sent. Returns at once, and never raises."""
        with self._lock:
            for entity, keys in touched.items():
                self._touched[entity] = _joined(self._touched.get(entity, set()), keys)
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="telling", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Sends what is left, if that can be done in two seconds, and lets go. Never raises."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        failures = 0
        try:
            while not (self._closing.is_set() and not self._touched):
                self._wake.wait()
                self._wake.clear()
                if not (touched := self._take()):
                    continue
                try:
                    self._sender.send(encode(touched, self._sender.most_bytes))
                    failures = 0
                    self._closing.wait(_PACE_S)
                except HeadgateError as error:
                    _log.warning("nobody can be told of changed rows now: %s", error.message)
                    self.tell({"": None})
                    if self._closing.wait(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)]):
                        return
                    failures += 1
        finally:
            self._sender.close()

    def _take(self) -> Touched:
        with self._lock:
            touched, self._touched = self._touched, {}
        return touched


def _joined(known: set[str] | None, more: object) -> set[str] | None:
    if known is None or not isinstance(more, set | frozenset | tuple | list | dict):
        return None
    known.update(more)
    return known if len(known) <= MOST_KEYS else None
