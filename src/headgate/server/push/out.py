"""How notices leave: as frames of an event stream, or by the SDK where a connection carries several things.

Over HTTP the SDK opens the stream, keeps it alive and closes it; notices, which are many, are written beside it as
whole frames, many at once, without its cost for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

import mcp_types as types
import msgspec
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from starlette.types import Message, Send

from headgate.server.client import Context
from headgate.server.push.wanted import List
from headgate.server.wire import sse_frame

STREAM = "headgate.stream"
"""Where the HTTP door leaves the `Frames` of a request, in its scope."""

_LISTS: Final[Mapping[List, str]] = {
    name: f"notifications/{name}/list_changed" for name in ("tools", "prompts", "resources")
}
_TASKS: Final = "notifications/tasks"
_OfTask: TypeAlias = types.Notification[dict[str, Any], str]
_encode = msgspec.json.Encoder().encode


class Out(Protocol):
    """One stream, towards its client. Each returns once the client's connection takes more."""

    async def acknowledge(self, honoured: Mapping[str, Any]) -> None:
        """The first message: what is listened to."""

    async def tell(self, lists: Sequence[List], uris: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> None:
        """Notices, in one go; of tasks how they stand."""


class Frames:
    """The answer to one request as it leaves: what the SDK says, and frames of our own once it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = asyncio.Event()

    async def send(self, message: Message) -> None:
        """What the SDK says."""
        await self._send(message)
        if message["type"] == "http.response.body":
            self._has_begun.set()

    async def write(self, frames: bytes) -> None:
        """Whole frames, once the first message is out."""
        await self._has_begun.wait()
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})


class OverHttp:
    """An `Out`."""

    def __init__(self, context: Context, frames: Frames) -> None:
        self._said = Said(context)
        self._frames = frames
        meta = b'"_meta":' + _encode(self._said.meta)
        head = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"'
        self._lists = {name: head + f'{method}","params":{{'.encode() + meta + b"}}\r\n\r\n"
                       for name, method in _LISTS.items()}  # fmt: skip
        self._updated = head + b'notifications/resources/updated","params":{' + meta + b',"uri":'

    async def acknowledge(self, honoured: Mapping[str, Any]) -> None:
        """See `Out`."""
        await self._said.acknowledge(honoured)

    async def tell(self, lists: Sequence[List], uris: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> None:
        """See `Out`."""
        frames = [self._lists[name] for name in lists]
        frames += [self._updated + _encode(uri) + b"}}\r\n\r\n" for uri in uris]
        frames += [sse_frame(self._said.of_task(task)) for task in tasks]
        if frames:
            await self._frames.write(b"".join(frames))


class Said:
    """An `Out` by the SDK's own messages."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: context.request_id}

    async def acknowledge(self, honoured: Mapping[str, Any]) -> None:
        """See `Out`."""
        params = types.SubscriptionsAcknowledgedNotificationParams(
            notifications=types.SubscriptionFilter.model_validate(honoured), _meta=self.meta
        )
        await self._send(types.SubscriptionsAcknowledgedNotification(params=params))

    def of_task(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The notice of a task (TaskStatusNotification)."""
        return {"jsonrpc": "2.0", "method": _TASKS, "params": {**task, "_meta": self.meta}}

    async def tell(self, lists: Sequence[List], uris: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> None:
        """See `Out`."""
        for name in lists:
            await self._send(_LIST_NOTICES[name](params=types.NotificationParams(_meta=self.meta)))
        for uri in uris:
            params = types.ResourceUpdatedNotificationParams(uri=uri, _meta=self.meta)
            await self._send(types.ResourceUpdatedNotification(params=params))
        for task in tasks:
            await self._send(_OfTask(method=_TASKS, params=self.of_task(task)["params"]))

    async def _send(self, notification: types.ServerNotification | _OfTask) -> None:
        to_send = cast("types.ServerNotification", notification)  # an extension's is none of the SDK's own
        await self._context.session.send_notification(to_send, related_request_id=self._context.request_id)


_LIST_NOTICES: Final[Mapping[List, Any]] = {
    "tools": types.ToolListChangedNotification,
    "prompts": types.PromptListChangedNotification,
    "resources": types.ResourceListChangedNotification,
}


def out_of(context: Context) -> Out:
    """The way out of the request's stream."""
    frames = context.request.scope.get(STREAM) if context.request is not None else None
    return OverHttp(context, frames) if isinstance(frames, Frames) else Said(context)
