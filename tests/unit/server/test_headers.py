"""Which requests are let as far as the question of who asks."""

from __future__ import annotations

import pytest

from headgate.errors import InvalidRequest, OriginRefused
from headgate.server.headers import (
    LOOPBACK_NAMES,
    Reach,
    base_url,
    bearer_of,
    check_types,
    has_token_in_query,
    is_from_this_machine,
    is_loopback,
    single_valued,
    stripped,
)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765", "[::1]"])
def test_loopback_names_reach_the_server_at_any_port(host: str) -> None:
    Reach().check({"host": host})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.", "127.0.0.1@evil.example"],
)
def test_another_host_name_is_refused_as_misdirected(host: str) -> None:
    with pytest.raises(OriginRefused) as refused:
        Reach().check({"host": host})
    assert refused.value.details["http_status"] == 421
    assert "evil" not in refused.value.message


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://evil.example", "http://localhost.evil.example", "file://localhost", "localhost:8765"],
)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(OriginRefused) as refused:
        Reach().check({"host": "localhost", "origin": origin})
    assert refused.value.details["http_status"] == 403


def test_configured_names_and_origins_are_let_in() -> None:
    reach = Reach((*LOOPBACK_NAMES, "Gate.Example", "one.example:443"), ("https://app.example",))
    reach.check({"host": "gate.example:8443", "origin": "https://gate.example"})
    reach.check({"host": "one.example:443", "origin": "https://app.example"})
    with pytest.raises(OriginRefused):
        reach.check({"host": "one.example:444"})


@pytest.mark.parametrize("name", [b"host", b"origin", b"authorization", b"mcp-protocol-version", b"mcp-name"])
def test_a_header_that_decides_comes_once(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match=name.decode()):
        single_valued([(name, b"a"), (b"accept", b"x"), (name, b"a")])


def test_others_may_come_twice() -> None:
    assert single_valued([(b"accept", b"a"), (b"accept", b"b")]) == {"accept": "b"}


def test_blanks_around_values_are_no_part_of_them() -> None:
    assert stripped([(b"MCP-Method", b" tools/call\t ")]) == [(b"mcp-method", b"tools/call")]


@pytest.mark.parametrize(
    ("headers", "bearer"),
    [
        ({}, None),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": "Basic dXNlcjpwYXNz"}, ""),
        ({"authorization": ""}, ""),
    ],
)
def test_a_credential_of_any_scheme_counts_as_given(headers: dict[str, str], bearer: str | None) -> None:
    assert bearer_of(headers) == bearer


@pytest.mark.parametrize("query", [b"access_token=x", b"a=1&TOKEN=", b"api%5Fkey=x", b"key=hg_1"])
def test_tokens_in_the_url_are_seen(query: bytes) -> None:
    assert has_token_in_query(query)


def test_other_parameters_are_no_tokens() -> None:
    assert not has_token_in_query(b"page=2&tokens=3")


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [
        ("127.0.0.1", {"host": "localhost:1"}, True),
        ("::1", {"host": "[::1]:1"}, True),
        ("127.9.9.9", {"host": "127.0.0.1"}, True),
        ("10.0.0.1", {"host": "localhost"}, False),
        ("", {"host": "localhost"}, False),
        ("127.0.0.1", {"host": "gate.example"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "10.0.0.1"}, False),
        ("127.0.0.1", {"host": "localhost", "forwarded": "for=10.0.0.1"}, False),
    ],
)
def test_the_local_user_comes_from_this_machine_by_its_own_name(
    peer: str, headers: dict[str, str], local: bool
) -> None:
    assert is_from_this_machine(peer, headers) is local


@pytest.mark.parametrize(("address", "ours"), [("127.0.0.1", True), ("[::1]", True), ("0.0.0.0", False), ("x", False)])
def test_loopback_addresses(address: str, ours: bool) -> None:
    assert is_loopback(address) is ours


@pytest.mark.parametrize(
    ("content_type", "accept", "status"),
    [
        ("text/plain", "*/*", 415),
        ("", "*/*", 415),
        ("application/jsonx", "*/*", 415),
        ("application/json", "application/json", 406),
        ("application/json", "text/event-stream", 406),
        ("application/json", "", 406),
    ],
)
def test_types_that_can_not_be_served_are_named(content_type: str, accept: str, status: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_types({"content-type": content_type, "accept": accept})
    assert refused.value.details["http_status"] == status


@pytest.mark.parametrize("accept", ["*/*", "application/json, text/event-stream", "text/*;q=0.5,application/*"])
def test_types_that_can_be_served_pass(accept: str) -> None:
    check_types({"content-type": "application/json; charset=utf-8", "accept": accept})


def test_the_public_url_stands_before_the_host() -> None:
    assert base_url({"host": "localhost:1"}, "http", "") == "http://localhost:1"
    assert base_url({"host": "localhost:1"}, "http", "https://gate.example/mcp") == "https://gate.example"
