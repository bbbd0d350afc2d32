"""The contract: a valid AsyncAPI document, whose schemas take every event that is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest

from headgate.audit.chain import Chain
from headgate.audit.contract import PipelineTopics, contract
from headgate.audit.event import CallerNote, CallEvent, cloudevent, encode_cloudevent, payload_of, schema_uri
from headgate.audit.journal import CatalogChange, Journal
from headgate.audit.kinds import INTENT_TYPE, IntentEvent
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile
from headgate.audit.publisher import CALLS_TOPIC
from headgate.audit.refusals import Refusals
from headgate.audit.schemas import TYPES, schema_of
from headgate.audit.stub import stub_of
from headgate.connections.kafka import Config
from headgate.flow.heartbeat import control_topic
from headgate.log.base import Topic
from headgate.log.kafka.admin import _new_topic
from headgate.model.approval import Approval, ApprovalChange, ApprovalKind, AskedArguments, Wish
from headgate.model.caller import Caller
from headgate.model.pipeline import dead_letter_topic
from tests.unit.audit.trails import body_of, checkpoints

ASYNCAPI_SCHEMA = Path(__file__).parent / "asyncapi-3.0.0.json"
"""Of the npm package @asyncapi/specs 6.11.1 (Apache-2.0), without descriptions and examples."""
SHOP = PipelineTopics(pipeline="shop", partitions=4, retention_ms=7, tables=("public.orders", "public.customers"))
OTHERS = PipelineTopics(
    pipeline="crm", partitions=1, retention_ms=7, fed_by=("crm.public.leads", "__debezium-heartbeat.crm")
)
CALLER = CallerNote(subject="ada", method="jwt", issuer="i", scopes=("data:read",))


def document(**more: Any) -> dict[str, Any]:
    return contract("1.2.3", [SHOP, OTHERS], calls_retention_ms=30, **more)


@pytest.fixture(scope="module")
def asyncapi() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(ASYNCAPI_SCHEMA.read_text()))


@pytest.mark.parametrize("servers", [(), ("kafka-1:9092", "kafka-2:9092")])
def test_it_is_an_asyncapi_document(asyncapi: jsonschema.Draft7Validator, servers: tuple[str, ...]) -> None:
    asyncapi.validate(document(servers=servers))
    asyncapi.validate(contract("1.2.3", [], calls_retention_ms=1))


def test_the_schema_of_asyncapi_refuses_what_is_none(asyncapi: jsonschema.Draft7Validator) -> None:
    """What was left out of it makes no difference."""
    for place, wrong in (("asyncapi", "4.0.0"), ("channels", {"calls": {"address": 5}}), ("operations", {"a": {}})):
        assert not asyncapi.is_valid({**document(), place: wrong})


def test_every_reference_leads_somewhere() -> None:
    whole = document()
    for reference in _references(whole):
        found: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_it_names_every_topic_with_what_is_kept_and_who_may_what() -> None:
    whole = document()
    addresses = {channel["address"] for channel in whole["channels"].values()}
    assert addresses == {
        "headgate.calls",
        "shop.{schema}.{table}",
        "headgate.heartbeats.shop",
        "headgate.dead-letters.shop",
        "headgate.dead-letters.crm",
        "crm.public.leads",
        "__debezium-heartbeat.crm",
    }
    tables = whole["channels"]["shop_tables"]
    assert tables["bindings"]["kafka"]["topicConfiguration"] == {
        "cleanup.policy": ["compact"],
        "delete.retention.ms": 7,
        "min.compaction.lag.ms": 7,
        "message.timestamp.type": "LogAppendTime",
    }
    assert tables["parameters"]["table"]["examples"] == ["customers", "orders"]
    assert whole["channels"]["calls"]["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] == 30
    (ours, readers) = whole["operations"]["write_shop_tables"]["x-acls"]
    assert (ours["who"], ours["name"], ours["pattern"]) == ("headgate", "shop.", "prefixed")
    assert readers["operations"] == ["Describe", "Read"]
    reading = whole["operations"]["read_shop_tables"]
    assert reading["bindings"]["kafka"]["groupId"]["const"] == "headgate.shop"
    assert [(each["resource"], each["name"], each["operations"]) for each in reading["x-acls"]] == [
        ("topic", "shop.", ["Describe", "DescribeConfigs", "Read"]), ("group", "headgate.shop", ["Describe", "Read"]),
    ]  # fmt: skip
    assert not any("Write" in each["operations"] for name in ("read_crm_source_1", "read_crm_source_2")
                   for each in whole["operations"][name]["x-acls"])  # fmt: skip


def test_topics_are_described_as_they_are_created() -> None:
    """By the very function that makes them, so that whoever makes them beforehand makes the same."""
    config = Config(bootstrap_servers="k:9092", message_max_bytes=5_000)
    shop = msgspec.structs.replace(SHOP, message_max_bytes=5_000)
    whole = contract("1", [shop], calls_retention_ms=30, message_max_bytes=5_000)
    made = {
        "calls": Topic(name=CALLS_TOPIC.name, partitions=CALLS_TOPIC.partitions, retention_ms=30),
        "shop_tables": Topic(name="shop.a.b", partitions=4, retention_ms=7, compacted=True),
        "shop_heartbeats": control_topic("shop"),
        "shop_dead_letters": Topic(name=dead_letter_topic("shop"), retention_ms=7),
    }
    for name, topic in made.items():
        said = whole["channels"][name]["bindings"]["kafka"]
        settings = {key: ",".join(value) if isinstance(value, list) else str(value)
                    for key, value in said["topicConfiguration"].items()}  # fmt: skip
        new = _new_topic(topic, config)
        assert (settings, said["partitions"]) == (new.config, new.num_partitions), name


@pytest.mark.parametrize("type_", sorted(TYPES))
def test_each_schema_is_one(type_: str) -> None:
    schema = schema_of(type_)
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["properties"]["dataschema"] == {"const": schema_uri(type_)}
    assert next(iter(_references(schema))).startswith("#/definitions/")


def approval_changes() -> Iterator[ApprovalChange]:
    """Of every kind."""
    ada, grace = (Caller(subject=name, method="jwt", issuer="i", scopes=frozenset({"admin"})) for name in ("a", "g"))
    wish = Wish(caller=ada, tool="drop", arguments_sha256="sha256:1", policy_version="sha256:2")
    asked = Approval(
        id="0a1b", wish=wish, arguments=AskedArguments(sha256="sha256:1", size=2, json=b"{}"), rules=("four eyes",),
        asked_by_call="1", asked_ms=0, ends_ms=7,
    )  # fmt: skip
    decided = msgspec.structs.replace(asked, decided_by=grace, decided_ms=1, reason="as agreed")
    for kind in get_args(ApprovalKind):
        yield ApprovalChange(kind, asked if kind in ("asked", "expired") else decided, "1" if kind == "used" else "")


def written(folder: Path) -> dict[str, list[bytes]]:
    """Events of every type, as the software writes them."""
    bare = CallEvent(id="1", time_ms=0, duration_us=0, writer="w", door="stdio", method="", status="refused")
    whole = CallEvent(
        id="1", time_ms=0, duration_us=0, writer="w", door="http", method="tools/call", name="find", caller=CALLER,
        request_id=7, arguments=payload_of({"a": 1}, keep=100), result=payload_of({}), positions={"customer": {"0": 7}},
        claims=payload_of({"tenant": "acme"}, keep=100),
        tracestate="a=b", task="t", model="m", prompt="p", admitted_us=7, approval="0a1b", status="answered",
    )  # fmt: skip
    intent = IntentEvent(call="1", time_ms=0, writer="w", caller=CALLER, name="x", arguments=payload_of({}))
    bodies = [
        encode_cloudevent(bare, "/shop"),
        encode_cloudevent(whole, "/shop"),
        cloudevent(intent, id="2", type=INTENT_TYPE, source="/shop", time_ms=0),
        stub_of("w-1", Chain("w-1").add(*body_of(1))),
    ]

    async def others(outbox: Outbox) -> None:
        journal = Journal(outbox, "/shop", clock=lambda: 0)
        await journal.policy("adopted", "sha256:b", "sha256:a")
        await journal.config("refused", "sha256:d", "sha256:c", "headgate.yaml:1: is no YAML")
        await journal.pipeline("shop", "pause", "root")
        for change in approval_changes():
            await journal.approval(change)
        entity = payload_of({"name": "customer"}, keep=100)
        changes = [CatalogChange("shop", "customer", "defined", entity, "b1")]
        changes += [CatalogChange("shop", "customer", "switched", payload_of({}), "b1", generation=7)]
        await asyncio.to_thread(journal.catalog, changes)
        refusals = Refusals(outbox, "/shop", clock=lambda: 0)
        refusals.count("expired", "http", "10.0.0.0/24")
        await refusals.record()
        assert (journal.written, outbox.recorded) == (10, 11)

    with closing(Outbox(folder / "outbox", "w-1", clock=lambda: 0, checkpoints=checkpoints(folder))) as outbox:
        asyncio.run(others(outbox))
    with closing(OutboxFile(folder / "outbox", "w-1")) as file:
        bodies += [event.body for event in file.events(0, 100)]
    found: dict[str, list[bytes]] = {}
    for body in bodies:
        found.setdefault(msgspec.json.decode(body)["type"], []).append(body)
    return found


def test_every_event_that_is_written_fits_its_schema(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found.keys() == TYPES.keys()
    for type_, bodies in found.items():
        validator = jsonschema.Draft7Validator(schema_of(type_))
        for body in bodies:
            validator.validate(json.loads(body))
            assert not validator.is_valid({**json.loads(body), "data": {}}), "and nothing else does"
