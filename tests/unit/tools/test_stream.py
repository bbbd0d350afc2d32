"""Streams: batches by size and by time, no further ahead than a step, and closed however they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from headgate.access.view import View
from headgate.testing import MemoryReader, view_of
from headgate.tools._arguments import Arguments
from headgate.tools._client import Level, Question
from headgate.tools._stream import Pace, Stream, StreamingTool, batches
from headgate.tools.base import Result

WITHIN_S = 60.0
DONE = Result(structured={"done": True}, text="done")


class Nothing(Arguments):
    """Takes nothing."""


class Hearing:
    """A client that notes what it is told, and may be slow to take it."""

    capabilities: Mapping[str, Any] = {}
    answers: Mapping[str, Any] = {}
    kept: Any = None

    def __init__(self, *, hears: bool = True) -> None:
        self.told: list[Any] = []
        self.done: list[float] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.is_open = False
        self._hears = hears

    def hears(self, level: Level) -> bool:
        return self._hears and level == "info"

    async def opening(self) -> None:
        self.is_open = True

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        self.done.append(done)

    async def notice(self, level: Level, data: Any) -> None:
        await self.takes.wait()
        assert self.is_open, "rows leave once the record says that they do"
        self.told.append(data)

    async def ask(self, questions: Mapping[str, Question], keep: Any = None) -> Any:
        raise AssertionError("nobody asks")


class Source:
    """A generator of numbered items, and how far it came."""

    def __init__(self, steps: int, size: int = 1) -> None:
        self.steps = steps
        self.size = size
        self.made = 0
        self.is_closed = False
        self.may_go_on: Callable[[int], Any] | None = None

    async def stream(self, _: View | None = None, __: Any = None, ___: bool = True) -> Stream:
        try:
            for step in range(self.steps):
                if self.may_go_on is not None:
                    await self.may_go_on(step)
                self.made = step + 1
                yield [{"n": step * self.size + number} for number in range(self.size)]
            yield DONE
        finally:
            self.is_closed = True


def tool(source: Source, pace: Pace) -> StreamingTool[Nothing]:
    return StreamingTool(
        name="count", title="Count", description="Counts.", scopes=frozenset(), arguments=Nothing,
        output_schema={"type": "object"}, stream=source.stream, pace=lambda _: pace,
    )  # fmt: skip


VIEW = view_of(MemoryReader([], {}, as_of_ms=0))
SLOWLY = Pace(batch_size=10, max_latency_ms=60_000)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            if true():
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("steps", "size"), [(0, 1), (1, 1), (10, 1), (25, 1), (3, 7), (2, 25), (1, 0)])
async def test_every_item_is_told_once_in_order_in_whole_batches_and_a_rest(steps: int, size: int) -> None:
    found = [each async for each in batches(Source(steps, size).stream(), SLOWLY)]
    *told, result = found
    assert result is DONE
    numbers = [item["n"] for batch in told if not isinstance(batch, Result) for item in batch]
    assert numbers == list(range(steps * size))
    sizes = [len(batch) for batch in told if not isinstance(batch, Result)]
    assert sizes == [10] * (len(numbers) // 10) + ([len(numbers) % 10] if len(numbers) % 10 else [])


async def test_what_has_waited_long_enough_is_told_though_it_is_no_whole_batch() -> None:
    source, gate = Source(2), asyncio.Event()

    async def second_waits(step: int) -> None:
        if step:
            await gate.wait()

    source.may_go_on = second_waits
    coming = batches(source.stream(), Pace(batch_size=10, max_latency_ms=20))
    async with asyncio.timeout(WITHIN_S):
        assert await anext(coming) == [{"n": 0}]
    assert source.made == 1, "it did not wait for the second"
    gate.set()
    assert [each async for each in coming] == [[{"n": 1}], DONE]


async def test_who_takes_no_batch_stops_the_stream_a_step_ahead() -> None:
    source, client = Source(1_000, 10), Hearing()
    client.takes.clear()
    calling = asyncio.create_task(tool(source, SLOWLY).talk(VIEW, {}, client))
    await until(lambda: source.made > 0)
    for _ in range(200):
        await asyncio.sleep(0)
    assert source.made <= 2
    client.takes.set()
    assert await calling is DONE
    assert source.made == 1_000
    assert [told["first"] for told in client.told] == list(range(0, 10_000, 10))
    assert client.done == list(range(10, 10_001, 10))


async def test_who_does_not_listen_hears_how_far_it_is_alone() -> None:
    client = Hearing(hears=False)
    assert await tool(Source(3, 10), SLOWLY).talk(VIEW, {}, client) is DONE
    assert (client.told, client.done) == ([], [10, 20, 30])
    quiet = Hearing()
    assert await tool(Source(1, 10), Pace(is_told=False)).talk(VIEW, {}, quiet) is DONE
    assert quiet.told == []
    assert await tool(Source(3, 10), SLOWLY).run(VIEW, {}) is DONE


async def test_a_cancelled_call_closes_its_stream() -> None:
    source, client = Source(1_000, 10), Hearing()
    client.takes.clear()
    calling = asyncio.create_task(tool(source, SLOWLY).talk(VIEW, {}, client))
    await until(lambda: source.made > 0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert source.is_closed


async def test_a_cancelled_call_stops_the_step_that_is_under_way() -> None:
    source, begun = Source(1), asyncio.Event()

    async def for_ever(_: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    source.may_go_on = for_ever
    calling = asyncio.create_task(tool(source, SLOWLY).run(VIEW, {}))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert source.is_closed


async def test_what_fails_in_a_stream_fails_the_call() -> None:
    source = Source(3)

    async def third_fails(step: int) -> None:
        if step == 2:
            raise ValueError("third")

    source.may_go_on = third_fails
    with pytest.raises(ValueError, match="third"):
        await tool(source, SLOWLY).run(VIEW, {})
    assert source.is_closed


async def test_a_stream_without_a_result_is_an_error() -> None:
    async def nothing() -> Stream:
        yield []

    with pytest.raises(RuntimeError, match="result"):
        assert [each async for each in batches(nothing(), SLOWLY)]
