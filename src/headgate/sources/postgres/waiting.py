"""Waits for sockets in a way that another thread can end."""

from __future__ import annotations

import selectors
import socket


class Waiting:
    """One thread waits; `stop` may be called from any."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._stopped = False

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def watch(self, descriptor: int) -> None:
        """Waits for this socket to become readable too, from now on."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def forget(self, descriptor: int) -> None:
        """No longer waits for it. Nothing happens if it was not watched."""
        try:
            self._selector.unregister(descriptor)
        except (KeyError, ValueError):
            pass  # closed, or never watched

    def wait(self, timeout_s: float) -> bool:
        """Whether a watched socket became readable within `timeout_s`. Returns at once after `stop`."""
        if self._stopped:
            return False
        return bool(self._selector.select(max(0.0, timeout_s)))

    def stop(self) -> None:
        """Ends every wait, now and later."""
        self._stopped = True
        try:
            self._button.send(b"!")
        except OSError:
            pass  # closed already, or rung already

    def close(self) -> None:
        """Lets go. Never raises."""
        self._selector.close()
        self._bell.close()
        self._button.close()


def wait_readable(descriptor: int, timeout_s: float | None) -> bool:
    """Whether a socket becomes readable within `timeout_s`; None waits for as long as that takes."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(timeout_s if timeout_s is None else max(0.0, timeout_s)))
