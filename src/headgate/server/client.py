"""The client of a call, as tools talk with it: by what the SDK's request can send back on its own stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from headgate.errors import CapabilityMissing, InputRequired
from headgate.server.call import Call
from headgate.server.once import intend
from headgate.server.rounds import seal, unseal
from headgate.tools._client import LEVELS, Level, Question, missing

Context = ServerRequestContext[Any, Any]

_LEVEL_OF_OLD_CLIENTS: Level = "info"
"""Of those that did not say what they want, as revisions before 2026-07-28 leave it to the server."""


class McpClient:
    """A `tools._client.Client`. Revisions before 2026-07-28 can be told things, but asked for nothing."""

    def __init__(self, call: Call, context: Context, kept: Any) -> None:
        self._call = call
        self._context = context
        self._is_modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        self.capabilities: Mapping[str, Any] = call.asked.capabilities if self._is_modern else {}
        self.answers: Mapping[str, Any] = call.asked.answers
        self.kept = kept

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Sent if the request brought a progress token."""
        await self._context.session.report_progress(done, total, message or None)

    async def notice(self, level: Level, data: Any) -> None:
        """Sent if the request, or for older clients the connection, wants that level."""
        if self.hears(level):
            said = types.LoggingMessageNotificationParams(level=level, data=data, logger="headgate")
            notification = types.LoggingMessageNotification(params=said)
            await self._context.session.send_notification(notification, related_request_id=self._context.request_id)

    async def opening(self) -> None:
        """An event of its own, durable before anything leaves; the call's own follows at its end."""
        await intend(self._call, opens="stream")

    async def ask(self, questions: Mapping[str, Question], keep: Any = None) -> NoReturn:
        """Raises InputRequired; CapabilityMissing where it can't be asked."""
        lacking = missing(questions, self.capabilities)
        if lacking:
            raise CapabilityMissing(lacking)
        raise InputRequired(questions, await seal(self._call, keep), keep)

    def hears(self, level: Level) -> bool:
        """Whether it wants notices of that level."""
        least = self._call.asked.log_level or ("" if self._is_modern else _LEVEL_OF_OLD_CLIENTS)
        return least in LEVELS and LEVELS.index(level) >= LEVELS.index(least)


async def client_of(call: Call, context: Context) -> McpClient:
    """The client, with what was kept for it in the round before. InvalidRequest when that is not as it was sealed."""
    return McpClient(call, context, await unseal(call))
