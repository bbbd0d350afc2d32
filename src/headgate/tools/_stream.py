"""Tools that yield what they find as they find it: in batches, no faster than their client takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias

from headgate.access.view import View
from headgate.errors import InvalidArguments
from headgate.tools._arguments import A, parse
from headgate.tools._client import NOBODY, Client, Level
from headgate.tools.base import Result, Taking

BATCH_SIZE = 1_000
MAX_LATENCY_MS = 100
HEARD_AT: Level = "info"
"""The level of the notices that batches are told by: a client that wants that level hears them."""

Items: TypeAlias = Sequence[Mapping[str, Any]]
Stream: TypeAlias = AsyncGenerator[Items | Result, None]
"""Any number of items at a time, in order, and at the end the result."""


@dataclass(frozen=True)
class Pace:
    """A batch is told once it has `batch_size` items, or `max_latency_ms` after its first one came."""

    batch_size: int = BATCH_SIZE
    max_latency_ms: int = MAX_LATENCY_MS
    is_told: bool = True
    """Whether items are told at all; else there is progress alone."""


@dataclass(frozen=True, kw_only=True)
class StreamingTool(Taking[A], Generic[A]):
    """A tool made of an async generator, which the page runs.

    `stream` gets the arguments, checked, and whether anyone hears the items; if not, the result is all that counts.
    Each batch is a notice `{"tool", "first", "items"}` on the request's own stream, and then progress. What is
    told is awaited, so that a client that reads slowly slows the generator: beyond the batch that is being told it
    is at most one step ahead, whatever there is to read. A call that is cancelled closes the generator.
    """

    stream: Callable[[View, A, bool], Stream]
    pace: Callable[[A], Pace] = lambda _: Pace()
    tells: ClassVar[bool] = True
    """Rows leave before the call has ended: it is paid for, and its opening recorded, before the first one does."""

    def would_tell(self, arguments: Mapping[str, Any], client: Client) -> bool:
        """Whether a call with these arguments tells this client its items."""
        try:
            return self._tells(parse(self.arguments, arguments), client)
        except InvalidArguments:
            return False

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Answers without a client: nobody hears the items."""
        return await self.talk(view, arguments, NOBODY)

    async def talk(self, view: View, arguments: Mapping[str, Any], client: Client) -> Result:
        """Checks the arguments, tells what comes, and answers."""
        given = parse(self.arguments, arguments)
        is_heard = self._tells(given, client)
        if is_heard:
            await client.opening()
        told = 0
        async with aclosing(batches(self.stream(view, given, is_heard), self.pace(given))) as coming:
            async for batch in coming:
                if isinstance(batch, Result):
                    return batch
                if is_heard:
                    await client.notice(HEARD_AT, {"tool": self.name, "first": told, "items": batch})
                told += len(batch)
                await client.progress(told, None, f"{told} rows read")
        raise RuntimeError("a stream must end with its result")

    def _tells(self, given: A, client: Client) -> bool:
        return self.pace(given).is_told and client.hears(HEARD_AT)


async def batches(stream: Stream, pace: Pace) -> AsyncGenerator[Items | Result, None]:
    """The items in batches, in their order, and then the result. Closes the stream, however it ends.

    While a batch is taken, at most one step of the stream is under way.
    """
    loop = asyncio.get_running_loop()
    waiting: list[Mapping[str, Any]] = []
    due_s = 0.0
    async with aclosing(stream):
        step = _step(stream)
        try:
            while True:
                await asyncio.wait({step}, timeout=max(0.0, due_s - loop.time()) if waiting else None)
                if not step.done():
                    batch, waiting = waiting, []
                    yield batch
                    continue
                came = step.result()
                if isinstance(came, Result):
                    break
                if not waiting:
                    due_s = loop.time() + pace.max_latency_ms / 1000
                waiting += came
                while len(waiting) >= pace.batch_size:
                    batch, waiting = waiting[: pace.batch_size], waiting[pace.batch_size :]
                    yield batch
                step = _step(stream)
            if waiting:
                yield waiting
            yield came
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


def _step(stream: Stream) -> asyncio.Task[Items | Result]:
    return asyncio.ensure_future(_next(stream))


async def _next(stream: Stream) -> Items | Result:
    try:
        return await anext(stream)
    except StopAsyncIteration:  # which no task may raise
        raise RuntimeError("a stream must end with its result") from None
