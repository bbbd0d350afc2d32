"""Where an HTTP answer waits until the event of its call is durable."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Message, Send

from headgate.errors import HeadgateError, InvalidRequest
from headgate.server import wire
from headgate.server.call import Call
from headgate.server.record import Outcome

_ANSWERED = Outcome("answered")
_REFUSED = Outcome("refused", InvalidRequest.code)


class Gate:
    """Lets the SDK's answer out only once the call's event is durable.

    Tools and resources close their events themselves. What the SDK answers alone (the handshake, `ping`,
    notifications, and every message it refuses) is closed here, by what it is about to say.
    """

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send
        self._start: Message | None = None
        self._is_stream = False
        self.begun = False
        """Whether any of the answer has left."""
        self.failure: HeadgateError | None = None
        """Why the event could not be made durable: then nothing else leaves."""

    async def send(self, message: Message) -> None:
        if self.failure is not None:
            return
        if message["type"] == "http.response.start":
            await self._hold_start(message)
        else:
            await self._pass_body(message)

    async def _hold_start(self, message: Message) -> None:
        self._start = message
        types = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
        self._is_stream = any(value.startswith(b"text/event-stream") for value in types)
        if self._is_stream or self._call.closed:
            await self._release_start()

    async def _pass_body(self, message: Message) -> None:
        body = message.get("body", b"")
        if not self._call.closed and (not self._is_stream or _answers(body)):
            try:
                await self._call.close(_ANSWERED if self._is_success(body) else _REFUSED)
            except HeadgateError as error:
                self.failure = error
                if not self.begun:
                    return
                error_frame = wire.sse_frame(wire.rpc_error(self._call.asked.rpc_id, wire.error_data(error)))
                message = {"type": "http.response.body", "body": error_frame, "more_body": False}
        await self._release_start()
        await self._send(message)

    async def _release_start(self) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            self.begun = True
            more = [wire.request_id_header(self._call.id), *wire.when_to_come_back(self._call.error)]
            await self._send({**start, "headers": [*start.get("headers", ()), *more]})

    def _is_success(self, body: bytes) -> bool:
        status = self._start["status"] if self._start is not None else 200
        return status < 400 and "error" not in _message_in(body)


def _answers(body: bytes) -> bool:
    """Whether a frame of an event stream answers the request, rather than notify or keep the line open."""
    message = _message_in(body)
    return "result" in message or "error" in message


def _message_in(body: bytes) -> dict[str, Any]:
    _, found, data = body.partition(b"data: ")
    try:
        message = msgspec.json.decode(data.partition(b"\r\n")[0] if found else body)
    except msgspec.DecodeError:
        return {}
    return message if isinstance(message, dict) else {}
