"""The signals of a process that serves: SIGTERM and SIGINT end it, a second one hurries, SIGHUP lets it look."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from headgate.serving.serve import Orders


class Signals:
    """Turns signals into orders, from before the event loop begins until after it has ended."""

    def __init__(self, hurried: Callable[[], None] = lambda: None) -> None:
        """`hurried` is called at a second signal to end, also when no loop runs any more."""
        self.orders = Orders()
        self._hurried = hurried
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = 0

    @contextlib.contextmanager
    def minded(self, *, by_parent: bool = False) -> Iterator[Orders]:
        """Minds them for the length of a block. A worker's parent minds the terminal's, and hurries by SIGUSR1."""
        acts = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._look}
        if by_parent:
            acts |= {signal.SIGINT: self._nothing, signal.SIGUSR1: self._hurry}
        before = {number: signal.signal(number, act) for number, act in acts.items()}
        try:
            yield self.orders
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self) -> None:
        """From now on orders reach this thread's running loop."""
        self._loop = asyncio.get_running_loop()
        for event in (self.orders.stop, self.orders.hurry, self.orders.look):
            if event.is_set():
                self._set(event)

    def _end(self, number: int, frame: object) -> None:
        self._ended += 1
        if self._ended == 1:
            self._set(self.orders.stop)
        else:
            self._hurry(number, frame)

    def _hurry(self, _: int, __: object) -> None:
        self._set(self.orders.stop)
        self._set(self.orders.hurry)
        self._hurried()

    def _look(self, _: int, __: object) -> None:
        self._set(self.orders.look)

    def _nothing(self, _: int, __: object) -> None:
        pass

    def _set(self, event: asyncio.Event) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)
        else:
            event.set()
