"""The list of tools as it is on the wire: encoded once for all who see the same tools, and put where it belongs.

A thousand entities make a list of megabytes. The SDK speaks the protocol around it, and is given an empty list: its
models would look at every schema again for each answer. The door fills the gap in what the SDK has written.

The list is one page, as many clients never ask for a second one and would miss what stands there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from mcp_types import methods as surface
from starlette.types import Message, Send

from headgate.server import wire
from headgate.tools.base import Tool

LIST_TOOLS: Final = "tools/list"
GAP: Final = "headgate.gap"
"""Where a door leaves the `Gap` of an answer, in the scope of its request."""

_MOST_BYTES: Final = 64 * 1024 * 1024
_AT_ONCE: Final = 4
"""So many tools are encoded in one turn of the loop. An entity's own becomes a model then, a millisecond each."""
_EMPTY: Final = b'"tools":[]'
"""Within a text its quotes would be escaped, so that it stands once in an answer."""
_ENVELOPE: Final = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[dict[str, Any]]).decode


class ToolLists:
    """Encoded lists, the ones used last, up to so many bytes in all. For one event loop."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lists: OrderedDict[tuple[object, ...], tuple[Sequence[Tool], bytes]] = OrderedDict()
        self._making = asyncio.Lock()
        self.size = 0
        """Bytes of all of them."""

    async def encoded(self, tools: Sequence[Tool], version: str) -> bytes:
        """These tools as a JSON array, as clients of that revision read them. Others go on while it is made."""
        place = (version, *map(id, tools))
        found = self._lists.get(place)
        if found is None:
            async with self._making:  # whoever waited finds it made
                found = self._lists.get(place) or self._keep(place, tools, await _made(tools, version))
        else:
            self._lists.move_to_end(place)
        return found[1]

    def _keep(self, place: tuple[object, ...], tools: Sequence[Tool], made: bytes) -> tuple[Sequence[Tool], bytes]:
        self._lists[place] = kept = (tuple(tools), made)  # with the tools, whose ids it is found by
        self.size += len(made)
        while self.size > self._most_bytes:
            _, (_, oldest) = self._lists.popitem(last=False)
            self.size -= len(oldest)
        return kept


async def _made(tools: Sequence[Tool], version: str) -> bytes:
    parts = []
    for start in range(0, len(tools), _AT_ONCE):
        shown = wire.list_of_tools(tools[start : start + _AT_ONCE], {}).model_dump(
            by_alias=True, mode="json", exclude_none=True
        )
        parts.append(_encode(surface.serialize_server_result(LIST_TOOLS, version, {**shown, **_ENVELOPE})["tools"]))
        await asyncio.sleep(0)
    return b"[" + b",".join(part[1:-1] for part in parts) + b"]"


class Gap:
    """Where a list belongs in an answer that the SDK writes without it."""

    def __init__(self) -> None:
        self.encoded = b""
        """The array; empty while there is nothing to fill in."""

    def filled(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with the list."""
        return {**result, "tools": _decode(self.encoded)} if self.encoded and "tools" in result else result

    def filled_in(self, body: bytes) -> bytes:
        """The body of an answer, or a frame of one, with the list."""
        before, gap, after = body.partition(_EMPTY) if self.encoded else (body, b"", b"")
        return b"".join((before, b'"tools":', self.encoded, after)) if gap else body


class Spliced:
    """An HTTP answer whose gap is filled as it leaves."""

    def __init__(self, send: Send) -> None:
        self.gap = Gap()
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Holds the head back until the length of what follows is known."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = self.gap.filled_in(message.get("body", b""))
        if self._start is not None:
            start, self._start = self._start, None
            await self._send({**start, "headers": _with_length(start.get("headers", ()), len(body))})
        await self._send({**message, "body": body})


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """The headers, and in them the length, if they name one."""
    return [(name, b"%d" % length) if name.lower() == b"content-length" else (name, value) for name, value in headers]
