"""What the HTTP doors say themselves: refusals, and plain JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Scope, Send

from headgate.errors import HeadgateError, Unauthenticated
from headgate.server import headers as rules
from headgate.server import wire
from headgate.server.call import Rooms, scopes_needed
from headgate.server.message import Asked
from headgate.server.request import HttpRequest, HttpSettings
from headgate.telemetry import logger

METADATA = "/.well-known/oauth-protected-resource"
_log = logger("server.http")


class Refusals:
    """Says why a request is not answered, and what its client can do about that."""

    def __init__(self, rooms: Rooms, settings: HttpSettings, resource: str) -> None:
        self._rooms = rooms
        self._settings = settings
        self._resource = resource

    async def say(self, request: HttpRequest, error: HeadgateError, scope: Scope, send: Send) -> None:
        """The refusal as the JSON-RPC answer and as HTTP."""
        base = rules.base_url(request.headers, scope.get("scheme", "http"), self._settings.public_url)
        status, extra = wire.http_refusal(
            error,
            metadata_url=f"{base}{METADATA}{self._resource}",
            had_token=request.had_token,
            scopes=await self._scopes_to_ask_for(request) if isinstance(error, Unauthenticated) else (),
        )
        body = wire.rpc_error(request.rpc_id, wire.error_data(error, request.id))
        await send_json(send, status, body, [wire.request_id_header(request.id), *extra])

    async def say_failure(self, request: HttpRequest, send: Send) -> None:
        """That something nobody foresaw went wrong; to be called while that is handled."""
        _log.exception("a request failed before it was admitted")
        body = wire.rpc_error(request.rpc_id, wire.internal_error(request.id))
        await send_json(send, 500, body, [wire.request_id_header(request.id)])

    async def _scopes_to_ask_for(self, request: HttpRequest) -> frozenset[str]:
        """What a stranger's call needs, by its headers: the body of one whom nobody knows is not read."""
        headers = request.headers
        asked = Asked(method=headers.get("mcp-method", ""), name=headers.get("mcp-name", ""))
        try:
            return await scopes_needed(asked, self._rooms)
        except HeadgateError:
            return frozenset()


async def send_json(
    send: Send, status: int, document: Any, headers: list[tuple[bytes, bytes]] | None = None, *, head: bool = False
) -> None:
    """A whole answer."""
    body = msgspec.json.encode(document)
    plain = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": plain + (headers or [])})
    await send({"type": "http.response.body", "body": b"" if head else body})
