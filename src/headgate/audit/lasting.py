"""A future that ends by what it waits for alone: cancelling whoever waits for it does not cancel it.

So a call whose client has left still waits until its event is durable, and is only then cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Lasting(asyncio.Future[None]):
    """Can't be cancelled. Made within a running loop."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Never."""
        return False

    @classmethod
    def of(cls, work: Coroutine[Any, Any, None]) -> Lasting:
        """Done when the work is, which begins at once and goes on whoever leaves."""
        lasting = cls()
        task = asyncio.ensure_future(work)
        task.add_done_callback(lasting._ended)
        return lasting

    @classmethod
    def done_already(cls) -> Lasting:
        """Nothing to wait for."""
        lasting = cls()
        lasting.set_result(None)
        return lasting

    @classmethod
    def failed(cls, error: Exception) -> Lasting:
        """Failed already."""
        lasting = cls()
        lasting.set_exception(error)
        return lasting

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            super().cancel()
        else:
            self.set_exception(error)
