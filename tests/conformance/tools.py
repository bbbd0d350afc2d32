"""The tools that the conformance suite asks for by name, as tools of Headgate's own kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from headgate.access.view import View
from headgate.errors import InvalidArguments
from headgate.model.entity import Entity
from headgate.tools._arguments import Arguments
from headgate.tools._client import ROOTS, Client, elicitation, sampling
from headgate.tools.base import READ_ONLY, Annotations, Result, TalkingTool, Tool, TypedTool
from tests.conformance.long import LONG

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
_ANY: dict[str, Any] = {"type": "object"}
_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
_COLOR = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}

Talk = Callable[[View, Any, Client], Awaitable[Result]]


class Nothing(Arguments):
    """A tool that takes nothing."""


class Prompted(Arguments):
    """What a model or a person is asked."""

    prompt: str = "Hello"
    message: str = "Please answer"


class Region(Arguments):
    """An argument that clients mirror in a header."""

    region: str | None = Field(default=None, json_schema_extra={"x-mcp-header": "Region"})


def _said(text: str) -> Result:
    return Result(structured={}, text=text)


def _shown(*content: dict[str, Any]) -> Result:
    return Result(structured={}, text="", content=content)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _embedded(uri: str, mime_type: str, text: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}

PLAIN: Mapping[str, Result] = {
    # The suite calls whichever comes first in the list without arguments, and means it to answer.
    "a_simple_text": _said("This is a simple text response for testing."),
    "test_simple_text": _said("This is a simple text response for testing."),
    "test_image_content": _shown(IMAGE),
    "test_audio_content": _shown({"type": "audio", "data": WAV, "mimeType": "audio/wav"}),
    "test_embedded_resource": _shown(
        _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ),
    "test_multiple_content_types": _shown(
        _text("Multiple content types test:"),
        IMAGE,
        _embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
    ),
}


async def _fail(_: View, __: Nothing) -> Result:
    raise InvalidArguments("This tool intentionally returns an error for testing")


async def _mirror(_: View, given: Region) -> Result:
    return _said(f"region={given.region}")


# --- what talks ----------------------------------------------------------------------------------


async def _progress(_: View, __: Nothing, client: Client) -> Result:
    for done in (0, 50, 100):
        await client.progress(done, 100, f"Completed step {done} of 100")
    return _said("Progress told")


async def _logging(_: View, __: Nothing, client: Client) -> Result:
    for step in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await client.notice("info", step)
    return _said("Tool with logging executed successfully")


async def _missing_capability(_: View, __: Nothing, client: Client) -> Result:
    if "ask" not in client.answers:
        await client.ask({"ask": sampling("Say hello", 50)})
    return _said("Client declared sampling capability; proceeding.")


async def _streaming_elicitation(_: View, __: Nothing, client: Client) -> Result:
    await client.progress(1, 2)
    return await _elicitation(_, __, client)


def _content_of(answer: Any, name: str) -> Any:
    content = answer.get("content") if isinstance(answer, dict) else None
    return content.get(name) if isinstance(content, dict) else None


async def _elicitation(_: View, __: Nothing, client: Client) -> Result:
    name = _content_of(client.answers.get("user_name"), "name")
    if not isinstance(name, str):
        await client.ask({"user_name": elicitation("What is your name?", _NAME)})
    return _said(f"Hello, {name}!")


async def _sampling(_: View, __: Nothing, client: Client) -> Result:
    if "capital_question" not in client.answers:
        await client.ask({"capital_question": sampling("What is the capital of France?", 100)})
    return _said(f"Model said: {_content_of(client.answers['capital_question'], 'text')}")


async def _roots(_: View, __: Nothing, client: Client) -> Result:
    if "client_roots" not in client.answers:
        await client.ask({"client_roots": ROOTS})
    return _said(f"Client exposed {len(client.answers['client_roots'].get('roots', []))} root(s).")


async def _request_state(_: View, __: Nothing, client: Client) -> Result:
    if client.kept != "nonce" or "confirm" not in client.answers:
        await client.ask({"confirm": elicitation("Please confirm", _OK)}, keep="nonce")
    return _said("state-ok: confirmation received")


async def _several(_: View, __: Nothing, client: Client) -> Result:
    questions = {
        "user_name": elicitation("What is your name?", _NAME),
        "greeting": sampling("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if not questions.keys() <= client.answers.keys():
        await client.ask(questions, keep="several")
    return _said("All inputs received.")


async def _rounds(_: View, __: Nothing, client: Client) -> Result:
    kept = client.kept or {"round": 0}
    if kept["round"] == 1 and "step1" in client.answers:
        name = _content_of(client.answers["step1"], "name")
        question = elicitation("Step 2: What is your favorite color?", _COLOR)
        await client.ask({"step2": question}, keep={"round": 2, "name": name})
    if kept["round"] == 2 and "step2" in client.answers:
        return _said(f"{kept['name']} likes {_content_of(client.answers['step2'], 'color')}.")
    return await client.ask({"step1": elicitation("Step 1: What is your name?", _NAME)}, keep={"round": 1})


async def _capabilities(_: View, __: Nothing, client: Client) -> Result:
    every = {"sampling": sampling("Say hello", 50), "elicitation": elicitation("What is your name?", _NAME)}
    return await client.ask({name: every[name] for name in every if name in client.capabilities}, keep="gated")


async def _old_sampling(_: View, given: Prompted, client: Client) -> Result:
    if "sampled" not in client.answers:
        await client.ask({"sampled": sampling(given.prompt, 100)})
    return _said(f"LLM response: {_content_of(client.answers['sampled'], 'text')}")


async def _old_elicitation(_: View, given: Prompted, client: Client) -> Result:
    if "given" not in client.answers:
        await client.ask({"given": elicitation(given.message, _NAME)})
    return _said(f"User response: action={client.answers['given'].get('action')}")


TALKING: Mapping[str, Talk] = {
    "test_tool_with_progress": _progress,
    "test_tool_with_logging": _logging,
    "test_logging_tool": _logging,
    "test_missing_capability": _missing_capability,
    "test_streaming_elicitation": _streaming_elicitation,
    "test_input_required_result_elicitation": _elicitation,
    "test_input_required_result_sampling": _sampling,
    "test_input_required_result_list_roots": _roots,
    "test_input_required_result_request_state": _request_state,
    "test_input_required_result_tampered_state": _request_state,
    "test_input_required_result_multiple_inputs": _several,
    "test_input_required_result_multi_round": _rounds,
    "test_input_required_result_capabilities": _capabilities,
}
OLD: Mapping[str, Talk] = {
    "test_sampling": _old_sampling,
    "test_elicitation": _old_elicitation,
    "test_elicitation_sep1034_defaults": _old_elicitation,
    "test_elicitation_sep1330_enums": _old_elicitation,
}

SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@dataclass(frozen=True)
class SchemaTool:
    """A tool whose schema uses what JSON Schema 2020-12 has."""

    name: str = "json_schema_2020_12_tool"
    title: str = "JSON Schema 2020-12"
    description: str = "Keeps the words of its schema."
    scopes: frozenset[str] = frozenset()
    annotations: Annotations = READ_ONLY
    input_schema: dict[str, Any] = field(default_factory=lambda: SCHEMA_2020_12)
    output_schema: dict[str, Any] = field(default_factory=lambda: _ANY)

    async def run(self, view: View, arguments: Mapping[str, Any]) -> Result:
        """Says its name."""
        return _said(self.name)


def tools(_: Mapping[str, Entity]) -> dict[str, Tool]:
    """All of them by name."""
    every: list[Tool] = [
        SchemaTool(),
        _typed("test_error_handling", Nothing, _fail),
        _typed("test_x_mcp_header", Region, _mirror),
        *(_typed(name, Nothing, _answering(result)) for name, result in PLAIN.items()),
        *(_talking(name, Nothing, talk) for name, talk in TALKING.items()),
        *(_talking(name, Prompted, talk) for name, talk in OLD.items()),
        *LONG,
    ]
    return {tool.name: tool for tool in sorted(every, key=lambda tool: tool.name)}


def _answering(result: Result) -> Callable[[View, Any], Awaitable[Result]]:
    async def answer(_: View, __: Any) -> Result:
        return result

    return answer


def _typed(name: str, arguments: type[Arguments], answer: Callable[[View, Any], Awaitable[Result]]) -> Tool:
    return TypedTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=arguments, output_schema=_ANY,
        answer=answer,
    )  # fmt: skip


def _talking(name: str, arguments: type[Arguments], answer: Talk) -> Tool:
    return TalkingTool(
        name=name, title=name, description=name, scopes=frozenset(), arguments=arguments, output_schema=_ANY,
        answer=answer,
    )  # fmt: skip
