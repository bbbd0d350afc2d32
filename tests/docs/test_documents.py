"""YAML, diff and JSON blocks hold by the checks that the software itself makes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from mcp import Client
from ruamel.yaml import YAML

from headgate.access.document import parse_document
from headgate.audit.event import decode_cloudevent
from headgate.config import Config, parse
from headgate.model.position import Freshness
from headgate.tools.base import approvable
from tests.docs.blocks import Block, all_blocks
from tests.docs.conftest import Demo

ENVIRONMENT = {
    "REDIS_URL": "redis://localhost:6379/0",
    "SHOP_DSN": "postgresql://shop@localhost/shop",
    "KAFKA_PASSWORD": "not a real one",
    "SHOP_PASSWORD": "not a real one",
    "TOKEN_SECRET": "not a real one, and longer than 32 bytes",
    "POLICY_KEY": "not a real one, and longer than 32 bytes",
}
BASE = """
pipelines:
  shop:
    source: {kind: sqlite, path: shop.db}
"""
YAMLS, DIFFS, JSONS = all_blocks("yaml"), all_blocks("diff"), all_blocks("json")
OF_TOOLS = [block for block in JSONS if " of " in block.words]


@pytest.mark.parametrize("block", YAMLS, ids=str)
def test_yaml(block: Block) -> None:
    """A config holds; a part of one holds beside a pipeline. So does a policy."""
    text = block.text
    if block.words.startswith("setup ") and block.words.endswith("policy.yaml"):
        assert parse_document(text, changing=approvable()).tests
        return
    if "pipelines" not in _yaml(text):
        text = _merged(_yaml(BASE), _yaml(text))
    assert _config(text).pipelines


@pytest.mark.parametrize("block", DIFFS, ids=str)
def test_diff(block: Block) -> None:
    """Before and after are both configs, and not the same one."""
    lines = block.text.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert _config(before) != _config(after)


@pytest.mark.parametrize("block", JSONS, ids=str)
def test_json(block: Block) -> None:
    value = json.loads(block.text)
    if block.words == "call event":
        assert decode_cloudevent(block.text.encode()).id == value["id"]
    elif block.words == "freshness":
        shown = msgspec.convert(value, Freshness, strict=True)
        assert set(value) == {field.name for field in msgspec.structs.fields(shown)}


@pytest.mark.parametrize("block", [block for block in OF_TOOLS if not block.words.startswith("arguments")], ids=str)
async def test_answers_fit_their_tools(block: Block, demo: Demo) -> None:
    kind, tool = block.words.split(" of ")
    value = json.loads(block.text)
    async with Client(demo.url) as client:
        schemas = {each.name: each.output_schema or {} for each in (await client.list_tools()).tools}
    jsonschema.validate(value, schemas[tool], cls=jsonschema.Draft202012Validator)
    if kind == "answer":
        arguments = next(each for each in OF_TOOLS if each.page == block.page and each.words == f"arguments of {tool}")
        assert _shape(value) <= _shape(await _call(demo, tool, json.loads(arguments.text)))


@pytest.mark.parametrize("block", [block for block in OF_TOOLS if block.words.startswith("arguments")], ids=str)
async def test_arguments_are_answered(block: Block, demo: Demo) -> None:
    _, tool = block.words.split(" of ")
    assert await _call(demo, tool, json.loads(block.text))


async def test_every_tool_is_on_its_page(demo: Demo) -> None:
    """Each tool has a heading, and each argument a word; the entities' own tools share one."""
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    async with Client(demo.url) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        if tool.name.startswith("lookup_"):
            continue
        missing = [name for name in tool.input_schema["properties"] if f"`{name}`" not in sections[tool.name]]
        assert not missing, f"{tool.name}: {missing}"


async def _call(demo: Demo, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    async with Client(demo.url) as client:
        answer = await client.call_tool(tool, dict(arguments))
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return dict(answer.structured_content)


def _shape(value: Any, path: str = "") -> set[str]:
    """The paths of a value's keys, whatever place in a list they stand at."""
    if isinstance(value, dict):
        return {path} | {each for key, part in value.items() for each in _shape(part, f"{path}.{key}")}
    if isinstance(value, list):
        return {path} | {each for part in value for each in _shape(part, f"{path}[]")}
    return {path}


def _config(text: str) -> Config:
    return parse(text, None, ENVIRONMENT)


def _yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _merged(base: dict[str, Any], more: dict[str, Any]) -> str:
    out = io.StringIO()
    YAML(typ="safe").dump({**base, **more}, out)
    return out.getvalue()
