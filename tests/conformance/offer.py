"""What the fixture server offers: the tools, resources and prompts that the suite asks for by name."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headgate.access.view import View
from headgate.errors import UnknownResource
from headgate.tools._client import Client, elicitation
from headgate.tools._offer import Offer
from headgate.tools._prompts import Desk, PromptAnswer, PromptArgument, PromptInfo
from headgate.tools._resources import ResourceContents, ResourceInfo, TemplateInfo
from tests.conformance.tools import IMAGE, PNG, tools

_CONTEXT = {"type": "object", "properties": {"context": {"type": "string"}}, "required": ["context"]}


def _resource(name: str, mime_type: str) -> ResourceInfo:
    return ResourceInfo(
        uri=f"test://{name}", name=name, title=name, description=name, mime_type=mime_type, scopes=frozenset()
    )


class TestShelf:
    """The suite's resources."""

    listed: Sequence[ResourceInfo] = (
        _resource("static-binary", "image/png"),
        _resource("static-text", "text/plain"),
        _resource("watched-resource", "text/plain"),
    )
    templates: Sequence[TemplateInfo] = (
        TemplateInfo(
            uri_template="test://template/{id}/data", name="template", title="template", description="template",
            mime_type="application/json", scopes=frozenset(),
        ),
    )  # fmt: skip

    def holds(self, uri: str) -> bool:
        """Whether it is one of the suite's."""
        return uri.startswith("test://")

    async def read(self, view: View, uri: str) -> ResourceContents:
        """What it holds."""
        if uri == "test://static-binary":
            return ResourceContents(uri=uri, mime_type="image/png", blob=base64.b64decode(PNG))
        if uri.startswith("test://template/") and uri.endswith("/data"):
            id_ = uri.split("/")[3]
            text = msgspec.json.encode({"id": id_, "templateTest": True, "data": f"Data for ID: {id_}"}).decode()
            return ResourceContents(uri=uri, mime_type="application/json", text=text)
        if any(each.uri == uri for each in self.listed):
            return ResourceContents(uri=uri, mime_type="text/plain", text="This is the content of the resource.")
        raise UnknownResource("There is no such resource.", uri=uri)


@dataclass(frozen=True)
class TestPrompt:
    """A prompt that says what it is told to, or asks for it first."""

    info: PromptInfo

    async def get(self, desk: Desk, given: Mapping[str, str], client: Client) -> PromptAnswer:
        """Its messages."""
        return PromptAnswer(description=self.info.description, messages=await _messages(self.info.name, given, client))


async def _messages(name: str, given: Mapping[str, str], client: Client) -> list[dict[str, Any]]:
    match name:
        case "test_prompt_with_arguments":
            return [_user(_text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))]
        case "test_prompt_with_embedded_resource":
            resource = {"uri": given["resourceUri"], "mimeType": "text/plain", "text": "Embedded for testing."}
            return [_user({"type": "resource", "resource": resource}), _user(_text("Process the resource above."))]
        case "test_prompt_with_image":
            return [_user(IMAGE), _user(_text("Please analyze the image above."))]
        case "test_input_required_result_prompt":
            if "user_context" not in client.answers:
                await client.ask({"user_context": elicitation("What context should the prompt use?", _CONTEXT)})
            return [_user(_text(f"Use the following context: {client.answers['user_context']['content']['context']}"))]
    return [_user(_text("This is a simple prompt for testing."))]


def _user(content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _prompt(name: str, *arguments: str) -> TestPrompt:
    listed = tuple(PromptArgument(name=each, description=each) for each in arguments)
    return TestPrompt(PromptInfo(name=name, title=name, description=name, arguments=listed))


OFFER = Offer(
    tools=tools,
    shelves=(TestShelf(),),
    prompts=(
        _prompt("test_input_required_result_prompt"),
        _prompt("test_prompt_with_arguments", "arg1", "arg2"),
        _prompt("test_prompt_with_embedded_resource", "resourceUri"),
        _prompt("test_prompt_with_image"),
        _prompt("test_simple_prompt"),
    ),
)
