"""State in Redis or Valkey: every write is one script, so that it is atomic however many processes there are.

Keys, all within one hash tag: `v:<key>` holds `<version>|<value>`; `n:<key>` outlives it for a while and
holds the version alone; the sorted sets `names` (by name) and `ends` (by the time of the end) spare a scan
the walk over the whole server.
"""

from __future__ import annotations

from collections.abc import Mapping

from headgate.connections.redis import Config, guard
from headgate.errors import HeadgateError, StateConflict
from headgate.state import _redis_buckets
from headgate.state.base import Buckets, Entry, State
from headgate.telemetry import Clock

NUMBERS_KEPT_MS = 3_600_000
"""How long the version of a removed or expired key is remembered."""

_CONFLICT = -1

_HEAD = """
local held = redis.call('GET', KEYS[1])
local version = held and tonumber(string.match(held, '^%d+')) or 0
if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= version then return -1 end
"""

# KEYS: v:<key>, n:<key>, names, ends. ARGV: key, expected version or '', how long numbers are kept, and on
# a put the value and the time to live or ''.
_PUT = (
    _HEAD
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local key, kept, ttl = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[5])
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', '(' .. now, 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[3], ended)
  redis.call('ZREM', KEYS[4], ended)
end
if not held then version = tonumber(redis.call('GET', KEYS[2]) or '0') end
local number = string.format('%d', version + 1)
if ttl then
  redis.call('SET', KEYS[1], number .. '|' .. ARGV[4], 'PX', ttl)
  redis.call('SET', KEYS[2], number, 'PX', ttl + kept)
  redis.call('ZADD', KEYS[4], now + ttl, key)
else
  redis.call('SET', KEYS[1], number .. '|' .. ARGV[4])
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[4], key)
end
redis.call('ZADD', KEYS[3], 0, key)
return version + 1
"""
)

_DELETE = (
    _HEAD
    + """
if not held then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], string.format('%d', version), 'PX', ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
return 1
"""
)

# KEYS: names. ARGV: what v:<key> begins with, the least and the greatest name. Answers name, packed, name, …
_SCAN = """
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3])
local found = {}
for _, name in ipairs(names) do
  local held = redis.call('GET', ARGV[1] .. name)
  if held then
    found[#found + 1] = name
    found[#found + 1] = held
  end
end
return found
"""


def open_state(target: Config, *, clock: Clock) -> State:
    """The state on this connection, which is made on first use.

    Times to live pass by the server's own clock, which all processes share; `clock` has no part in them.
    """
    return RedisState(target)


def open_buckets(target: Config, *, clock: Clock) -> Buckets:
    """Token buckets on this connection; as with `open_state`, the server's clock is the one that counts."""
    return _redis_buckets.open_buckets(target)


class RedisState:
    """A client for any number of threads.

    A key that comes back within an hour of its end goes on with its version, so that a version read in its
    former life never matches. StoreError when the server refuses our user or our commands.
    """

    def __init__(self, config: Config) -> None:
        self._client = config.connect()
        self._base = f"{{{config.prefix}:state}}:".encode()
        self._put = self._client.register_script(_PUT)
        self._delete = self._client.register_script(_DELETE)
        self._scan = self._client.register_script(_SCAN)

    def get(self, key: str) -> Entry | None:
        """See `State.get`."""
        with guard():
            held = self._client.get(self._base + b"v:" + key.encode())
        return _entry(held) if isinstance(held, bytes) else None

    def put(self, key: str, value: bytes, *, expect: int | None = None, ttl_ms: int | None = None) -> int:
        """See `State.put`."""
        if ttl_ms is not None and ttl_ms <= 0:
            raise ValueError("a time to live is positive")
        arguments = [*_common(key, expect), value, "" if ttl_ms is None else ttl_ms]
        with guard():
            answer = self._put(keys=self._keys(key), args=arguments)
        return _unless_conflict(answer)

    def delete(self, key: str, *, expect: int | None = None) -> bool:
        """See `State.delete`."""
        with guard():
            answer = self._delete(keys=self._keys(key), args=_common(key, expect))
        return _unless_conflict(answer) == 1

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        """See `State.scan`. One script, and so one moment."""
        least = b"[" + prefix.encode()
        arguments = [self._base + b"v:", least, least + b"\xff"]  # a byte that no UTF-8 has
        with guard():
            flat = self._scan(keys=[self._base + b"names"], args=arguments)
        return {name.decode(): _entry(held) for name, held in zip(flat[::2], flat[1::2], strict=True)}

    def close(self) -> None:
        """See `State.close`."""
        try:
            with guard():
                self._client.close()
        except HeadgateError:
            pass  # the server forgets a connection that broke by itself

    def _keys(self, key: str) -> list[bytes]:
        name = key.encode()
        return [self._base + b"v:" + name, self._base + b"n:" + name, self._base + b"names", self._base + b"ends"]


def _common(key: str, expect: int | None) -> list[str | int | bytes]:
    return [key, "" if expect is None else expect, NUMBERS_KEPT_MS]


def _unless_conflict(answer: int) -> int:
    if answer == _CONFLICT:
        raise StateConflict("another process wrote this entry first: read it again and repeat")
    return answer


def _entry(held: bytes) -> Entry:
    version, _, value = held.partition(b"|")
    return Entry(value, int(version))
