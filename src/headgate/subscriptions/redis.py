"""Hints by publish and subscribe of Redis or Valkey (https://redis.io/docs/latest/develop/pubsub/).

Channels know no database numbers: installations of one server that share a prefix hear each other, which costs them a
look for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from headgate.connections.redis import Config, guard
from headgate.errors import HeadgateError, Unavailable
from headgate.subscriptions.base import Hearer, Sender, Touch, decode

_ASK_EVERY_S = 2.0
"""After so long a silence the server is asked whether it is still there, and has as long to say so."""


def open_sender(target: Config) -> Sender:
    """Publishes by a connection of its own."""
    return RedisSender(target)


def open_hearer(target: Config) -> Hearer:
    """Subscribes by a connection of its own, as long as it hears."""
    return RedisHearer(target)


def _channel(config: Config) -> str:
    return f"{{{config.prefix}}}:touched"


class RedisSender:
    """One round trip a message."""

    most_bytes = 64 * 1024

    def __init__(self, config: Config) -> None:
        self._client = config.connect()
        self._channel = _channel(config)

    def send(self, message: bytes) -> None:
        """See `Sender.send`."""
        with guard():
            self._client.publish(self._channel, message)

    def close(self) -> None:
        """See `Sender.close`."""
        try:
            with guard():
                self._client.close()
        except HeadgateError:
            pass  # the server forgets a connection that broke by itself


class _PubSub(Protocol):
    """What is used of the client library's PubSub, which is untyped."""

    async def subscribe(self, channel: str) -> None: ...
    async def ping(self) -> None: ...
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...
    async def aclose(self) -> None: ...


class RedisHearer:
    """A connection for as long as it hears. A server that says nothing for four seconds is taken for lost."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def hear(self, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
        """See `Hearer.hear`."""
        client = self._config.connect_async()
        try:
            with guard():
                pubsub = cast("_PubSub", client.pubsub())
                try:
                    await pubsub.subscribe(_channel(self._config))
                    await _hear(pubsub, told, listening)
                finally:
                    await pubsub.aclose()
        finally:
            await client.aclose()


async def _hear(pubsub: _PubSub, told: Callable[[Sequence[Touch]], None], listening: Callable[[], None]) -> None:
    is_asked = False
    while True:
        message = await pubsub.get_message(timeout=_ASK_EVERY_S)
        if message is None:
            if is_asked:
                raise Unavailable("Redis does not answer in time: try again", retry_after_s=1.0)
            await pubsub.ping()
        elif message["type"] == "subscribe":  # also after the library has connected again by itself
            listening()
        elif message["type"] == "message":
            told(decode(message["data"]))
        is_asked = message is None
