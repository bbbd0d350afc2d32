"""Debezium's own records, from a real connector, through to an agent's answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headgate.app import App
from headgate.config import load
from headgate.stack import Connect, Kafka, Registry
from headgate.telemetry import wall_clock_ms
from tests.ways.debezium import FORMATS, Format, config_of, connector, converters
from tests.ways.deployment import all_rows, caught_up, client, headgate, reader_of, ready, until

_TABLE = """
create type mood as enum ('sad', 'ok');
create table things (
    id bigint primary key, name varchar(20), price numeric(10, 2), any_size numeric, weight real, size double precision,
    active boolean, day date, at time, at_zone timetz, made timestamp, seen timestamptz, took interval, mark uuid,
    doc jsonb, feeling mood, flags bit(5), raw bytea, numbers int[], prices numeric[], note text
);
alter table things alter note set storage external;
insert into things values (
    1, 'tëxt', 10.50, 123.45, 1.1, 0.1, true, '2024-02-29', '13:14:15.123456', '13:14:15.5Z', '2026-11-21 02:01:15.5',
    '2026-11-21 02:01:15.5+01', '1 day 2 hours 3.5 seconds', '7f000000-0000-4000-8000-000000000001', '{"b": [1, 2]}',
    'ok', B'10101', '\\x00ff10', '{1,2,null}', '{1.5,2}', repeat('long', 2000)
), (2, null, null, null, 'NaN', 'Infinity', null, null, null, null, 'infinity', '-infinity', null, null, null, null,
    null, null, null, null, null), (3, 'goes', -0.01, 1e20, null, null, false, null, '24:00', null, null, null, null,
    null, null, null, null, null, null, null, null);
"""
_CHANGES = (
    "update things set price = 20.5 where id = 1",  # leaves `note` out
    "insert into things (id, name) values (4, 'new'), (5, 'moves')",
    "update things set id = 6 where id = 5",
    "delete from things where id = 3",
    "select pg_logical_emit_message(true, 'theirs', 'hello')",
)
_ONE: dict[str, Any] = {
    "id": 1, "name": "tëxt", "price": "20.50", "any_size": "123.45", "weight": 1.1, "size": 0.1, "active": True,
    "day": "2024-02-29", "at": "13:14:15.123456", "at_zone": "13:14:15.5Z", "made": "2026-11-21T02:01:15.5",
    "seen": "2026-11-21T01:01:15.5Z", "took": "PT26H3.5S", "mark": "7f000000-0000-4000-8000-000000000001",
    "doc": {"b": [1, 2]}, "feeling": "ok", "flags": "10101", "raw": "AP8Q", "numbers": [1, 2, None],
    "prices": ["1.5", "2"], "note": "long" * 2000,
}  # fmt: skip
_UNTURNED: dict[str, Any] = {
    "price": "20.50", "any_size": "123.45", "at": "13:14:15.123456Z", "made": "2026-11-21T02:01:15.5Z",
    "day": "2024-02-29Z", "seen": "2026-11-21T01:01:15.500000Z", "took": "P0Y0M1DT2H0M3.5S", "doc": '{"b": [1, 2]}',
    "flags": "FQ==", "prices": ["1.5", "2"],
}  # fmt: skip
"""What stays as the connector spells it where no schema says what it is."""


def doctored(config: Path, pipeline: str) -> list[str]:
    """What `doctor` finds of the source, in a thread of its own as it asks over HTTP."""
    with App(load(config)) as app:
        feed = app.feed(app.config.pipelines[pipeline])
        assert feed is not None
        with ThreadPoolExecutor(1) as aside:
            return [finding.message for finding in aside.submit(feed.diagnose).result()]


@pytest.mark.parametrize("form", FORMATS)
async def test_rows_reach_an_agent_as_a_person_reads_them(
    form: Format, tmp_path: Path, kafka: Kafka, connect: Connect, registry: Registry, database: str, redis_url: str
) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(_TABLE)
    readable = {"decimal.handling.mode": "string", "time.precision.mode": "isostring",
                "interval.handling.mode": "string"} if form == "plain" else {}  # fmt: skip
    with connector(connect, database, "public.things", **converters(form, registry.url), **readable) as made:
        config = config_of(
            tmp_path, made, kafka, redis_url, "public.things", registry_url=registry.url,
            entities=f"entities: {{thing: {{from: {made.name}.public.things, lookups: [name]}}}}",
        )  # fmt: skip
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            with psycopg.connect(database, autocommit=True) as owner:
                for change in _CHANGES:
                    owner.execute(change)
            reader, app = reader_of(config)
            try:
                await caught_up(reader, "thing", wall_clock_ms())
                rows = {row["id"]: row for row in await all_rows(reader, "thing")}
            finally:
                await reader.close()
                app.close()
            expected = _ONE | (_UNTURNED if form == "plain" else {})
            assert rows[1] == expected
            assert sorted(rows) == [1, 2, 4, 6]
            assert (rows[2]["weight"], rows[2]["size"], rows[2]["seen"]) == ("NaN", "Infinity", "-infinity")
            async with client(process.url()) as agent:
                answer = await agent.call_tool("lookup_thing", {"name": "tëxt"})
                listed = await agent.call_tool("get_pipeline_detail", {"pipeline_id": made.name})
            assert answer.structured_content is not None and answer.meta is not None
            (found,) = answer.structured_content["rows"]
            assert found["values"]["price"] == "20.50"
            assert answer.meta["headgate/freshness"]["state"] == "fresh"
            assert listed.structured_content is not None
            assert listed.structured_content["status"] == "running"
            findings = doctored(config, made.name)
            assert f"the connector {made.name} runs" in findings
            assert any("heartbeats are there" in finding for finding in findings)
            assert "public.things: 21 columns" in " ".join(findings)
            # without schemas the connector's own settings say that nothing is unclear
            assert not any("carry no schema" in finding for finding in findings)
