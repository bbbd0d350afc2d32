"""The client of a schema registry, on a real one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from headgate.connections.registry import Config, Registry, diagnose, framed, split
from headgate.errors import LogError, Unavailable
from headgate.stack import Registry as Server

_AVRO: dict[str, Any] = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}


@pytest.fixture
def client(registry: Server) -> Iterator[Registry]:
    opened = Registry(Config(url=registry.url))
    yield opened
    opened.close()


def test_a_schema_is_registered_once_and_found_by_id_and_by_subject(client: Registry) -> None:
    subject = f"s/{uuid.uuid4()} ü"
    number = client.register(subject, json.dumps(_AVRO))
    assert client.register(subject, json.dumps(_AVRO)) == number
    found, latest = client.by_id(number), client.latest(subject)
    assert found is not None and latest is not None
    assert (found.id, found.kind, json.loads(found.text)) == (number, "AVRO", _AVRO)
    assert (latest.id, latest.text) == (number, found.text)
    assert client.at(subject, 1) == latest
    assert subject in client.subjects()


def test_a_json_schema_keeps_its_kind(client: Registry) -> None:
    subject = f"calls-{uuid.uuid4()}"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    found = client.by_id(client.register(subject, json.dumps(schema), kind="JSON"))
    assert found is not None and (found.kind, json.loads(found.text)) == ("JSON", schema)


def test_what_is_not_there_is_none(client: Registry) -> None:
    assert client.by_id(2_000_000_000) is None
    assert client.latest("no such subject") is None
    assert client.is_compatible("no such subject", json.dumps(_AVRO))


def test_versions_are_judged_by_the_subjects_rule(client: Registry) -> None:
    subject = f"s-{uuid.uuid4()}"
    client.register(subject, json.dumps(_AVRO))
    client.set_compatibility(subject, "BACKWARD")
    assert client.compatibility(subject) == "BACKWARD"
    other = json.dumps({**_AVRO, "fields": [{"name": "b", "type": "string"}]})
    assert not client.is_compatible(subject, other)
    with pytest.raises(LogError, match="not compatible"):
        client.register(subject, other)
    with pytest.raises(LogError, match="malformed"):
        client.register(subject, '{"type":"nothing"}')
    wider = {**_AVRO, "fields": [*_AVRO["fields"], {"name": "b", "type": "string", "default": ""}]}
    assert client.is_compatible(subject, json.dumps(wider))


def test_an_id_is_asked_for_once(registry: Server) -> None:
    with_server = Registry(Config(url=registry.url))
    number = with_server.register(f"s-{uuid.uuid4()}", json.dumps(_AVRO))
    found = with_server.by_id(number)
    with_server._config = Config(url="http://127.0.0.1:9")
    assert with_server.by_id(number) is found
    with pytest.raises(Unavailable):
        with_server.by_id(number + 1_000_000)
    with_server.close()


def test_doctor_says_whether_it_answers(registry: Server) -> None:
    assert [finding.level for finding in diagnose("r", Config(url=registry.url))] == ["ok"]
    assert [finding.level for finding in diagnose("r", Config(url="http://127.0.0.1:9"))] == ["error"]


def test_the_wire_format() -> None:
    assert framed(7, b"data") == b"\x00\x00\x00\x00\x07data"
    assert split(framed(2**32 - 1, b"")) == (2**32 - 1, b"")
    for data in (b"", b"\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01x"):
        with pytest.raises(ValueError, match="registry"):
            split(data)


@pytest.mark.parametrize("url", ["registry:8081", "http://user:secret@registry:8081", "ftp://registry"])
def test_a_url_is_checked_and_no_secret_is_shown(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config(url=url)
    assert "secret" not in str(caught.value)
