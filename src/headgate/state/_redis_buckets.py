"""Token buckets in Redis or Valkey: a take is one script, and the clock is the server's.

A bucket is one key that holds `<spent> <at> <period>`, in whole numbers: `spent` counts the tokens that are out,
each as `period` units, so that `capacity` units come back with every millisecond since `at`. It ends by itself
when the bucket is full again: no key is a full bucket. Doubles hold these numbers exactly up to 2^53.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from headgate.connections._multiplexed import Multiplexed, Script, replied, shared
from headgate.connections._wire import packed_command
from headgate.connections.redis import Config
from headgate.model.question import Question
from headgate.state.base import Buckets, Taken

T = TypeVar("T")

# KEYS: the bucket. ARGV: cost, capacity, period. Answers whether it was taken, what is left, when to come back.
_TAKE: Final = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local cost, capacity, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local spent, at, of = 0, now, period
local held = redis.call('GET', KEYS[1])
if held then
  spent, at, of = string.match(held, '^(%d+) (%d+) (%d+)$')
  spent, at, of = tonumber(spent), tonumber(at), tonumber(of)
  if of ~= period then spent = math.ceil(spent * period / of) end
  spent = math.max(0, spent - math.max(0, now - at) * capacity)
end
local wanted, full = spent + cost * period, capacity * period
local taken = wanted <= full
if taken then spent = wanted end
if taken or now < at then
  local packed = string.format('%.0f %.0f %.0f', spent, now, period)
  redis.call('SET', KEYS[1], packed, 'PX', math.max(1, math.ceil(spent / capacity)))
end
local left = math.max(0, math.floor((full - spent) / period))
return {taken and 1 or 0, left, taken and 0 or math.ceil((wanted - full) / capacity)}
""")


def open_buckets(target: Config) -> Buckets:
    """The buckets on this connection, which is made on first use."""
    return RedisBuckets(shared(target), target.prefix)


class RedisBuckets:
    """Takes over one shared connection: those of one turn of the loop leave in one write."""

    def __init__(self, connection: Multiplexed, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix

    async def take(self, key: str, cost: int, capacity: int, period_ms: int) -> Taken:
        """See `Buckets.take`."""
        return await self.begin(key, cost, capacity, period_ms, lambda taken: taken)

    def begin(self, key: str, cost: int, capacity: int, period_ms: int, read: Callable[[Taken], T]) -> Future[T]:
        """See `Posting.begin`."""
        name, words = self._words(key, cost, capacity, period_ms)
        return self._connection.begin(_TAKE, [name], words, lambda reply: read(_taken(reply)))

    def question(self, key: str, cost: int, capacity: int, period_ms: int) -> Question[Taken]:
        """See `Posting.question`."""
        name, words = self._words(key, cost, capacity, period_ms)
        packed = packed_command(("EVALSHA", _TAKE.sha, 1, name, *words))
        return Question(partial(self._connection.post, packed), lambda reply: _taken(replied(reply)))

    def _words(self, key: str, cost: int, capacity: int, period_ms: int) -> tuple[str, list[int]]:
        if not 1 <= cost <= capacity:
            raise ValueError("a cost is at least 1 and at most what the bucket holds")
        # Each bucket has a hash tag of its own, so that on a Cluster they are spread.
        return f"{self._prefix}:bucket:{{{key}}}", [cost, capacity, period_ms]

    async def close(self) -> None:
        """See `Buckets.close`."""
        await self._connection.close()


def _taken(reply: list[int]) -> Taken:
    ok, remaining, retry_after_ms = reply
    return Taken(ok == 1, remaining, retry_after_ms)
