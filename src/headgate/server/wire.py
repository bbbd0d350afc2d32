"""Our values in the protocol's words: tools, results and errors, as JSON-RPC and as HTTP."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mcp_types as types
import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from headgate.access.budget import Allowance
from headgate.errors import (
    ApprovalRequired,
    BudgetSpent,
    CallInProgress,
    CapabilityMissing,
    Forbidden,
    HeadgateError,
    InputRequired,
    InvalidRequest,
    OriginRefused,
    OutboxError,
    Unauthenticated,
    Unavailable,
    UnknownResource,
    UnknownTool,
)
from headgate.tools._completions import Completion
from headgate.tools._prompts import PromptAnswer, PromptInfo
from headgate.tools._resources import ResourceContents, ResourceInfo, TemplateInfo
from headgate.tools.base import Result, Tool

HEADER_MISMATCH = types.HEADER_MISMATCH
FRESHNESS = "headgate/freshness"
REQUEST_ID = "headgate/request_id"
BUDGET = "headgate/budget"
ANSWER_OF = "headgate/answer_of"
ERROR = "headgate/error"

_PROTOCOL_ERRORS = (
    UnknownTool, UnknownResource, InvalidRequest, OriginRefused, Unauthenticated, Forbidden, OutboxError,
)  # fmt: skip

_RETIRED_RESOURCE_NOT_FOUND = -32002
"""Up to 2025-11-25 an unknown resource had a code of its own; 2026-07-28 retired it for -32602."""
_FOR_US_ALONE = frozenset({"http_status", "jsonrpc_code", "reason"})


Noted = Mapping[str, Any]
"""What the `_meta` of every answer to a call begins with."""


def noted(request_id: str, allowance: Allowance | None, answer_of: str = "") -> Noted:
    """The call's id, what is left of the budget that it was paid from, and whose answer it gets again."""
    meta: dict[str, Any] = {REQUEST_ID: request_id}
    if allowance is not None:
        meta[BUDGET] = msgspec.to_builtins(allowance)
    if answer_of:
        meta[ANSWER_OF] = answer_of
    return meta


def is_of_the_protocol(error: HeadgateError, protocol_version: str) -> bool:
    """Whether it is an error of the call as such; every other one of a tool's call is the tool's own answer.

    A missing capability is one where revisions know of it; a model of an older client can still read of it.
    """
    if isinstance(error, CapabilityMissing):
        return protocol_version in MODERN_PROTOCOL_VERSIONS
    return isinstance(error, _PROTOCOL_ERRORS)


def tool_on_wire(tool: Tool) -> types.Tool:
    """A tool as `tools/list` shows it."""
    hints = tool.annotations
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )


def resource_on_wire(info: ResourceInfo) -> types.Resource:
    """A resource as `resources/list` shows it."""
    return types.Resource(
        uri=info.uri, name=info.name, title=info.title, description=info.description, mime_type=info.mime_type
    )


def template_on_wire(info: TemplateInfo) -> types.ResourceTemplate:
    """A form of resources as `resources/templates/list` shows it."""
    return types.ResourceTemplate(
        uri_template=info.uri_template,
        name=info.name,
        title=info.title,
        description=info.description,
        mime_type=info.mime_type,
    )


def prompt_on_wire(info: PromptInfo) -> types.Prompt:
    """A prompt as `prompts/list` shows it."""
    arguments = [
        types.PromptArgument(name=each.name, description=each.description, required=each.required)
        for each in info.arguments
    ]
    return types.Prompt(name=info.name, title=info.title, description=info.description, arguments=arguments)


def list_of_tools(tools: Sequence[Tool], noted: Noted) -> types.ListToolsResult:
    """What `tools/list` answers."""
    return types.ListToolsResult(tools=[tool_on_wire(tool) for tool in tools], meta=dict(noted))


def list_of_resources(found: Sequence[ResourceInfo], noted: Noted) -> types.ListResourcesResult:
    """What `resources/list` answers."""
    return types.ListResourcesResult(resources=[resource_on_wire(each) for each in found], meta=dict(noted))


def list_of_templates(found: Sequence[TemplateInfo], noted: Noted) -> types.ListResourceTemplatesResult:
    """What `resources/templates/list` answers."""
    shown = [template_on_wire(each) for each in found]
    return types.ListResourceTemplatesResult(resource_templates=shown, meta=dict(noted))


def list_of_prompts(found: Sequence[PromptInfo], noted: Noted) -> types.ListPromptsResult:
    """What `prompts/list` answers."""
    return types.ListPromptsResult(prompts=[prompt_on_wire(each) for each in found], meta=dict(noted))


def prompt_answer(said: PromptAnswer, noted: Noted) -> dict[str, Any]:
    """What `prompts/get` answers, with the freshness of what it shows."""
    return {
        "description": said.description,
        "messages": list(said.messages),
        "resultType": "complete",
        "_meta": _meta(said, noted),
    }


def completion(found: Completion, noted: Noted) -> types.CompleteResult:
    """What `completion/complete` answers."""
    values = list(found.values)
    shown = types.Completion(values=values, total=found.total, has_more=found.total > len(values))
    return types.CompleteResult(completion=shown, meta=dict(noted))


def nothing(_: None, noted: Noted) -> types.EmptyResult:
    """What a method answers that only takes note."""
    return types.EmptyResult(meta=dict(noted))


def resource_answer(contents: ResourceContents, noted: Noted) -> types.ReadResourceResult:
    """What `resources/read` answers, with its freshness. Rows change, and so are not to be cached."""
    form: types.TextResourceContents | types.BlobResourceContents
    if contents.blob is None:
        form = types.TextResourceContents(uri=contents.uri, mime_type=contents.mime_type, text=contents.text)
    else:
        blob = base64.b64encode(contents.blob).decode()
        form = types.BlobResourceContents(uri=contents.uri, mime_type=contents.mime_type, blob=blob)
    return types.ReadResourceResult(
        contents=[form],
        ttl_ms=contents.ttl_ms,
        cache_scope="public" if contents.ttl_ms else "private",
        meta=_meta(contents, noted),
    )


def input_required(error: InputRequired, noted: Noted) -> dict[str, Any]:
    """What ends a round of a call that goes on with the client's answers (MCP 2026-07-28, InputRequiredResult)."""
    return {
        "resultType": "input_required",
        "inputRequests": dict(error.questions),
        "requestState": error.request_state,
        "_meta": dict(noted),
    }


def answer(result: Result, noted: Noted) -> dict[str, Any]:
    """A tool's result as a CallToolResult, with its freshness. Plain, as the SDK validates it once anyway."""
    text = [{"type": "text", "text": result.text}] if result.text or not result.content else []
    return {
        "content": [*text, *result.content],
        "structuredContent": msgspec.to_builtins(result.structured),
        "isError": False,
        "resultType": "complete",
        "_meta": _meta(result, noted),
    }


def _meta(answer: Result | ResourceContents | PromptAnswer, noted: Noted) -> dict[str, Any]:
    meta = dict(noted)
    if answer.freshness is not None:
        meta[FRESHNESS] = msgspec.to_builtins(answer.freshness)
    return meta


def tool_error(error: HeadgateError, noted: Noted) -> dict[str, Any]:
    """An error that a model can act on, as the tool's own answer (spec: tools, "Error Handling")."""
    return {
        "content": [{"type": "text", "text": error.message}],
        "isError": True,
        "resultType": "complete",
        "_meta": {**noted, ERROR: {"code": error.code, **_shown(error)}},
    }


def failure(request_id: str) -> MCPError:
    """What a caller is told of a failure inside."""
    error = internal_error(request_id)
    return MCPError(error["code"], error["message"], error["data"])


def protocol_error(error: HeadgateError, noted: Noted, protocol_version: str) -> MCPError:
    """An error of the protocol: the thing asked for is not there, or must not be."""
    data = error_data(error, noted.get(REQUEST_ID, ""))
    if BUDGET in noted:
        data["data"]["budget"] = noted[BUDGET]
    if isinstance(error, UnknownResource) and protocol_version not in MODERN_PROTOCOL_VERSIONS:
        data["code"] = _RETIRED_RESOURCE_NOT_FOUND
    return MCPError(data["code"], data["message"], data["data"])


def error_data(error: HeadgateError, request_id: str = "") -> dict[str, Any]:
    """The JSON-RPC `error` object. What it shows is what `errors` calls safe, and no reasons of a refused login."""
    data: dict[str, Any] = {"code": error.code, **_shown(error)}
    if request_id:
        data["request_id"] = request_id
    return {"code": _rpc_code(error), "message": error.message, "data": data}


def internal_error(request_id: str) -> dict[str, Any]:
    """For what nobody foresaw: nothing of it leaves but the id under which our own log has it."""
    about = f" The operator finds it under the request id {request_id}." if request_id else ""
    return {
        "code": types.INTERNAL_ERROR,
        "message": f"Headgate failed inside; the call was not answered.{about}",
        "data": {"code": "internal", "request_id": request_id},
    }


def rpc_error(rpc_id: str | int | None, error: Mapping[str, Any]) -> dict[str, Any]:
    """A whole JSON-RPC error response; the id is null when the request's could not be told."""
    return {"jsonrpc": "2.0", "id": rpc_id, "error": error}


def sse_frame(message: Mapping[str, Any]) -> bytes:
    """One event of an event stream."""
    return b"event: message\r\ndata: " + msgspec.json.encode(message) + b"\r\n\r\n"


def http_refusal(
    error: HeadgateError, *, metadata_url: str = "", had_token: bool = False, scopes: Iterable[str] = ()
) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The HTTP status of a refusal, and the headers that tell a client what to do about it.

    `WWW-Authenticate` as in RFC 6750 §3 and RFC 9728 §5.1; 401 (by `scopes`) and 403 name all the scopes that the
    call needs.
    """
    match error:
        case Unauthenticated():
            reason = 'error="invalid_token", ' if had_token else ""
            needed = f'scope="{" ".join(sorted(scopes))}", ' if scopes else ""
            return 401, [_challenge(f'{reason}{needed}resource_metadata="{metadata_url}"')]
        case Forbidden():
            needed = f'error="insufficient_scope", scope="{" ".join(error.scopes)}"'
            return 403, [_challenge(f'{needed}, resource_metadata="{metadata_url}"')]
        case Unavailable():
            return 503, when_to_come_back(error)
        case BudgetSpent():
            return 429, when_to_come_back(error)
        case OutboxError():
            return 503, [(b"retry-after", b"1")]
    if error.details.get("http_status") == 405:
        return 405, [(b"allow", b"POST")]
    status = int(error.details.get("http_status", 400 if isinstance(error, InvalidRequest | OriginRefused) else 500))
    return status, []


def when_to_come_back(error: HeadgateError | None) -> list[tuple[bytes, bytes]]:
    """The header Retry-After (RFC 9110 §10.2.3), of an error that says when."""
    if isinstance(error, (Unavailable, BudgetSpent, CallInProgress, ApprovalRequired)):
        return [(b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode())]
    return []


def request_id_header(request_id: str) -> tuple[bytes, bytes]:
    """The call's id as a header, for those who read no body."""
    return b"x-request-id", request_id.encode()


def _challenge(parameters: str) -> tuple[bytes, bytes]:
    return b"www-authenticate", f"Bearer {parameters}".encode("latin-1", "replace")


def _rpc_code(error: HeadgateError) -> int:
    if "jsonrpc_code" in error.details:
        return int(error.details["jsonrpc_code"])
    match error.code:
        case "unknown_tool" | "unknown_resource" | "unknown_prompt" | "unknown_entity" | "unknown_pipeline":
            return types.INVALID_PARAMS
        case "invalid_arguments" | "unknown_task":
            return types.INVALID_PARAMS
        case "client_capability_missing":
            return types.MISSING_REQUIRED_CLIENT_CAPABILITY
        case "invalid_request" | "unauthenticated" | "insufficient_scope" | "origin_refused":
            return types.INVALID_REQUEST
    return types.INTERNAL_ERROR


def _shown(error: HeadgateError) -> dict[str, Any]:
    return {name: value for name, value in error.details.items() if name not in _FOR_US_ALONE}
