"""What is said of records without a schema. The records are a real connector's, as they were recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from headgate.connections.registry import Config as RegistryConfig
from headgate.model.derive import DOUBTS, derive
from headgate.model.entity import Declared, DeclaredField
from headgate.model.finding import Finding
from headgate.model.table import Table
from headgate.sources._wire.samples import grown
from headgate.sources.base import Sample, Surroundings
from headgate.sources.debezium import Config, open_feed
from headgate.sources.debezium.unread import Modes, doubt_of, examine_unread, modes_of
from tests.unit.sources.recorded import recorded

TABLE = "public.kinds"
ALL = Modes(decimals=True, times=True)


def found(form: str, modes: Modes = ALL, declared: Sequence[str] = ()) -> list[Finding]:
    values = [record.value for record in recorded(form) if record.topic == TABLE]
    assert values
    return examine_unread("source", TABLE, values, declared, modes)


def named(finding: Finding, what: str) -> set[str]:
    return set(finding.message.partition(f"{what}: ")[2].partition(", or ")[0].split(", "))


def test_fields_that_may_be_decimals_or_times_are_named_and_what_to_do() -> None:
    (finding,) = found("plain")
    assert finding.level == "warning"
    assert {"n", "n2", "n0"} <= named(finding, "bytes of decimals")
    assert {"da", "ti"} <= named(finding, "numbers of times")
    assert not {"t", "b", "u", "tsz"} & (named(finding, "bytes of decimals") | named(finding, "numbers of times"))
    assert "decimal.handling.mode=string" in finding.mend


@pytest.mark.parametrize("form", ["inline", "avro"])
def test_with_a_schema_nothing_is_unclear(form: str) -> None:
    assert found(form) == []


def test_what_the_config_or_the_connector_says_is_not_said_again() -> None:
    (finding,) = found("plain", declared=["n", "da"])
    assert not {"n"} & named(finding, "bytes of decimals")
    assert not {"da"} & named(finding, "numbers of times")
    (times,) = found("plain", Modes(decimals=False, times=True))
    assert "decimals" not in times.message and {"da", "ti"} <= named(times, "numbers of times")
    assert found("plain", Modes(decimals=False, times=False)) == []


@pytest.mark.parametrize(
    ("source", "connector", "modes"),
    [
        ({}, {}, (True, True)),
        ({"decimals": "string"}, {}, (False, True)),
        ({}, {"decimal.handling.mode": "double", "time.precision.mode": "connect"}, (False, True)),
        ({}, {"decimal.handling.mode": "precise", "time.precision.mode": "isostring"}, (True, False)),
    ],
)
def test_what_a_connector_may_write_is_by_all_that_is_known_of_it(
    source: dict[str, Any], connector: Mapping[str, str], modes: tuple[bool, bool]
) -> None:
    assert modes_of(Config(topic_prefix="shop", tables=[TABLE], **source), connector) == modes


@pytest.mark.parametrize("value", [None, b"", b"no JSON", b"{}", b'{"after": 1}', b'{"after": null}', b"\x00\x01"])
def test_a_record_that_is_none_of_a_row_says_nothing(value: bytes | None) -> None:
    assert examine_unread("source", "t", [value], (), ALL) == []


def test_check_says_it_of_a_feed_s_topics() -> None:
    row = {"id": 1, "total": "MDk=", "note": "leave it at the door", "placed": 20_000}
    value = json.dumps({"op": "c", "source": {"version": "3.6.3"}, "after": row}).encode()
    surroundings = Surroundings(
        connections={},
        declared=[
            Declared(name="order", pipeline="shop", table="public.orders", fields={"id": DeclaredField(type="integer")})
        ],
        sample=lambda topic: [Sample(1, b'{"id": 1}', value)] if topic == "shop.public.orders" else [],
    )
    feed = open_feed(Config(topic_prefix="shop", tables=["public.orders"]), "shop", surroundings)
    (finding,) = [each for each in feed.diagnose() if "carry no schema" in each.message]
    assert finding.message.endswith("may be bytes of decimals: total, or numbers of times: placed")


def described(form: str, fields: Mapping[str, DeclaredField], **source: Any) -> dict[str, str]:
    """What an agent is told of each field of the recorded table."""
    declared = Declared(name="kind", pipeline="shop", table=TABLE, fields=dict(fields))
    samples = [Sample(0, each.key, each.value) for each in recorded(form) if each.topic == TABLE]
    surroundings = Surroundings(
        connections={"registry": RegistryConfig(url="http://127.0.0.1:9")},
        declared=[declared],
        sample=lambda topic: samples,
    )
    (table,) = open_feed(Config(topic_prefix="shop", tables=[TABLE], **source), "shop", surroundings).tables()
    (entity,) = derive([declared], {TABLE: table}, {})
    return {field.name: field.description for field in entity.fields}


def test_an_agent_is_told_of_fields_that_may_be_decimals_or_times() -> None:
    told = described("plain", {"n": DeclaredField(description="What it costs."), "n2": DeclaredField(type="string")})
    assert told["n"] == f"What it costs. {DOUBTS['decimal']}"
    assert told["n2"] == ""
    assert (told["n0"], told["da"], told["ti"]) == (DOUBTS["decimal"], DOUBTS["time"], DOUBTS["time"])
    assert [told[name] for name in ("t", "b", "u", "tsz")] == [""] * 4


def test_an_agent_is_told_nothing_of_fields_that_are_what_they_seem() -> None:
    assert set(described("inline", {}).values()) == {""}
    assert DOUBTS["decimal"] not in described("plain", {}, decimals="string").values()


def test_a_doubt_is_over_once_a_value_contradicts_it() -> None:
    table = Table(name="t", columns=(), key=("id",))
    rows = (b'{"name":"Anna","at":1}', b'{"name":null,"at":2}', b'{"name":"Grace","at":3}', b'{"name":"Anna","at":4}')
    seen = []
    for row in rows:
        table = grown(table, row, lambda value: doubt_of(value, ALL))
        seen.append([column.doubt for column in table.columns])
    assert seen == [["decimal", "time"], ["decimal", "time"], ["", "time"], ["", "time"]]
