"""What holds for every tool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headgate import tools as folder
from headgate.model.caller import SCOPES
from headgate.tools.base import Annotations, Tool, discover
from tests.unit.tools.shop import ENTITIES, Draft202012Validator

TOOLS = discover({entity.name: entity for entity in ENTITIES})

every_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)


def test_all_tools_are_found_in_the_order_of_their_names() -> None:
    assert list(TOOLS) == [
        "check_data_freshness",
        "decide_approval",
        "describe_data",
        "drop_dead_letters",
        "find",
        "get_pipeline_detail",
        "get_pipeline_errors",
        "list_approvals",
        "list_pipelines",
        "lookup",
        "lookup_customer",
        "lookup_order",
        "lookup_order_line",
        "pause_pipeline",
        "resnapshot_table",
        "restart_pipeline",
        "resume_pipeline",
        "retry_dead_letters",
        "scan",
        "wait_for_change",
    ]


def test_without_entities_no_entity_has_a_tool() -> None:
    assert not [name for name in discover({}) if name.startswith("lookup_")]


@every_tool
def test_schemas_are_json_schema_and_refuse_what_they_do_not_name(tool: Tool) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["type"] == "object" and schema["additionalProperties"] is False
    assert "$ref" not in json.dumps(tool.input_schema) and '"title"' not in json.dumps(tool.input_schema)


@every_tool
def test_every_tool_needs_a_scope_and_reads_only_unless_that_is_for_writing(tool: Tool) -> None:
    assert tool.scopes and tool.scopes <= set(SCOPES)
    if any(scope.endswith(":write") for scope in tool.scopes) or tool.name == "decide_approval":
        assert not tool.annotations.read_only and not tool.annotations.open_world
        return
    assert tool.annotations == Annotations(read_only=True, destructive=False, idempotent=True, open_world=False)
    scope = {"pipeline": "pipelines:read", "approvals": "approvals:decide"}
    assert tool.scopes == {next((scope[word] for word in scope if word in tool.name), "data:read")}


@every_tool
def test_every_tool_and_argument_is_described(tool: Tool) -> None:
    assert tool.title and len(tool.description) > 30
    assert all(argument.get("description") for argument in tool.input_schema["properties"].values())


def test_two_discoveries_give_the_same_schemas() -> None:
    again = discover({entity.name: entity for entity in reversed(ENTITIES)})
    said = [json.dumps([tool.input_schema, tool.output_schema]) for tool in again.values()]
    assert said == [json.dumps([tool.input_schema, tool.output_schema]) for tool in TOOLS.values()]


def test_texts_are_in_the_package() -> None:
    assert (Path(folder.__path__[0]) / "docs" / "troubleshooting.md").is_file()
