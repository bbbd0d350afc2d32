"""One JSON-RPC message, as a door reads it before anyone acts on it.

Format: JSON-RPC 2.0 and MCP revision 2026-07-28, basic/index ("Messages"); batches ended with 2025-06-18.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from headgate.access.idempotency import LONGEST_KEY
from headgate.errors import InvalidRequest
from headgate.model.depth import check_depth

PARSE_ERROR = -32700
INVALID_REQUEST = -32600

_META_PREFIX = "io.modelcontextprotocol/"
VERSION_KEY = _META_PREFIX + "protocolVersion"
CLIENT_KEY = _META_PREFIX + "clientInfo"
CAPABILITIES_KEY = _META_PREFIX + "clientCapabilities"
LOG_LEVEL_KEY = _META_PREFIX + "logLevel"
RELATED_TASK_KEY = _META_PREFIX + "related-task"
IDEMPOTENCY_KEY = "headgate/idempotency-key"
TASK_KEY = "headgate/task"
MODEL_KEY = "headgate/model"
PROMPT_KEY = "headgate/prompt"

_NAMED_BY: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_ARGUMENTS_OF: Mapping[str, str] = {"completion/complete": "argument", "subscriptions/listen": "notifications"}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asks. `name` is the tool, the prompt or the resource's URI; empty where the method has none."""

    method: str
    name: str = ""
    arguments: Mapping[str, Any] = {}
    rpc_id: str | int | None = None
    """None on a notification."""
    protocol_version: str = ""
    client_name: str = ""
    client_version: str = ""
    capabilities: Mapping[str, Any] = {}
    """What the client says it can be asked for; nothing of a client of earlier revisions."""
    log_level: str = ""
    """The least severe notices that it wants; empty where it does not say."""
    answers: Mapping[str, Any] = {}
    """To what it was asked in the round before (`inputResponses`)."""
    request_state: str = ""
    traceparent: str = ""
    tracestate: str = ""
    idempotency_key: str = ""
    """Empty where there is none."""
    task: str = ""
    """What the client says of its work, for the record alone: its task, the model that asks, and the prompt."""
    model: str = ""
    prompt: str = ""


class Message(msgspec.Struct, frozen=True):
    """A request, or a notification when it has no `id`."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Any] | None = None

    @property
    def meta(self) -> Mapping[str, Any]:
        """`params._meta`, or nothing where it is absent or no object."""
        meta = (self.params or {}).get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def rpc_id(self) -> str | int | None:
        """The id to answer with; None for a notification."""
        return None if isinstance(self.id, msgspec.UnsetType) else self.id


_decode_message = msgspec.json.Decoder(Message).decode
_decode_any = msgspec.json.Decoder().decode


def parse(body: bytes) -> Message:
    """The one message of a body. InvalidRequest, with the JSON-RPC code and what is wrong, otherwise."""
    try:
        message = _decode_message(body)
        check_depth(body)  # of JSON alone: what is none is refused at the decoder's speed
        return message
    except msgspec.ValidationError as error:
        raise _not_a_message(body, error) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not JSON.", jsonrpc_code=PARSE_ERROR) from error


def _not_a_message(body: bytes, error: msgspec.ValidationError) -> InvalidRequest:
    try:
        return InvalidRequest(_what_is_wrong(_decode_any(body), error), jsonrpc_code=INVALID_REQUEST)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return InvalidRequest("The body is not JSON.", jsonrpc_code=PARSE_ERROR)


def _what_is_wrong(whole: Any, error: msgspec.ValidationError) -> str:
    if isinstance(whole, list):
        return "Batches are not taken: send each JSON-RPC message in a request of its own."
    if not isinstance(whole, dict):
        return "The body must be one JSON-RPC message, an object."
    if "method" not in whole and ("result" in whole or "error" in whole):
        return "This server asks its clients nothing, and so takes no JSON-RPC responses."
    return f"The body is no JSON-RPC 2.0 request or notification: {error}."


def asked_of(message: Message, *, protocol_version: str = "", traceparent: str = "", tracestate: str = "") -> Asked:
    """What the message asks. Its `_meta` says who asks by which revision; the arguments here stand in for it.

    The handshake's `initialize` carries both in its params.
    """
    params = message.params or {}
    meta = message.meta
    client = _object(meta, CLIENT_KEY) or _object(params, "clientInfo")
    return Asked(
        method=message.method,
        name=_name_of(message.method, params),
        arguments=_object(params, _ARGUMENTS_OF.get(message.method, "arguments")),
        rpc_id=message.rpc_id,
        protocol_version=_text(meta.get(VERSION_KEY) or params.get("protocolVersion") or protocol_version),
        client_name=_text(client.get("name")),
        client_version=_text(client.get("version")),
        capabilities=_object(meta, CAPABILITIES_KEY),
        log_level=_text(meta.get(LOG_LEVEL_KEY)),
        answers=_object(params, "inputResponses"),
        request_state=_text(params.get("requestState")),
        traceparent=_text(meta.get("traceparent") or traceparent),
        tracestate=_text(meta.get("tracestate") or ("" if "traceparent" in meta else tracestate)),
        idempotency_key=_idempotency_key(meta),
        task=_text(meta.get(TASK_KEY) or _object(meta, RELATED_TASK_KEY).get("taskId")),
        model=_text(meta.get(MODEL_KEY)),
        prompt=_text(meta.get(PROMPT_KEY)),
    )


def _name_of(method: str, params: Mapping[str, Any]) -> str:
    if method == "completion/complete":
        reference = _object(params, "ref")
        return _text(reference.get("name") or reference.get("uri"))
    return _text(params.get(_NAMED_BY.get(method, "")))


def _idempotency_key(meta: Mapping[str, Any]) -> str:
    """InvalidRequest for one that is none: a call that must not run twice is not run as if it had no key."""
    if IDEMPOTENCY_KEY not in meta:
        return ""
    key = meta[IDEMPOTENCY_KEY]
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"_meta.{IDEMPOTENCY_KEY} must be 1 to {LONGEST_KEY} printable ASCII characters, such as a UUID."
        )
    return key


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _object(within: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = within.get(name)
    return value if isinstance(value, dict) else {}
