"""Work that is bounded in time, and begins at once."""

from __future__ import annotations

import asyncio

import pytest

from headgate.server.request import in_time


class Slow:
    """Waits until it is let go on, and notes how that ended."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended = ""

    async def work(self) -> str:
        try:
            await self.go.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "whole"
        return "answer"


async def test_work_that_need_not_wait_is_answered_whatever_its_time() -> None:
    async def work() -> str:
        return "answer"

    assert await in_time(work(), 0.0) == "answer"


async def test_work_that_waits_goes_on_where_it_was() -> None:
    slow = Slow()
    task = asyncio.ensure_future(in_time(slow.work(), 60.0))
    await asyncio.sleep(0)
    slow.go.set()
    assert await task == "answer"
    assert slow.ended == "whole"


async def test_work_that_takes_longer_is_stopped() -> None:
    slow = Slow()
    with pytest.raises(TimeoutError):
        await in_time(slow.work(), 0.0)
    assert slow.ended == "cancelled"


async def test_a_cancellation_reaches_the_work() -> None:
    slow = Slow()
    task = asyncio.ensure_future(in_time(slow.work(), 60.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ended == "cancelled"


async def test_what_the_work_raises_is_raised() -> None:
    async def work(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise ValueError("no")

    for wait in (False, True):
        with pytest.raises(ValueError, match="no"):
            await in_time(work(wait), 60.0)
