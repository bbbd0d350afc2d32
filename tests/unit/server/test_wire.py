"""Errors in the protocol's words."""

from __future__ import annotations

import pytest

from headgate.errors import (
    BudgetSpent,
    Forbidden,
    HeadgateError,
    InvalidRequest,
    OriginRefused,
    OutboxError,
    Unauthenticated,
    Unavailable,
    UnknownEntity,
    UnknownResource,
    UnknownTool,
)
from headgate.server import wire


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated("who?"), 401),
        (Forbidden("no", ["data:read", "sql:read"]), 403),
        (InvalidRequest("bad"), 400),
        (InvalidRequest("large", http_status=413), 413),
        (OriginRefused("elsewhere", http_status=421), 421),
        (Unavailable("away", retry_after_s=2.4), 503),
        (OutboxError("full"), 503),
        (HeadgateError("?"), 500),
    ],
)
def test_each_refusal_has_its_status(error: HeadgateError, status: int) -> None:
    assert wire.http_refusal(error)[0] == status


def test_challenges_name_the_metadata_and_all_scopes() -> None:
    url = "http://h/m"
    assert wire.http_refusal(Unauthenticated("x"), metadata_url=url, had_token=True)[1] == [
        (b"www-authenticate", b'Bearer error="invalid_token", resource_metadata="http://h/m"')
    ]
    assert wire.http_refusal(Forbidden("x", ["a:read", "b:read"]), metadata_url=url)[1] == [
        (
            b"www-authenticate",
            b'Bearer error="insufficient_scope", scope="a:read b:read", resource_metadata="http://h/m"',
        )
    ]
    assert wire.http_refusal(Unavailable("x", retry_after_s=2.4))[1] == [(b"retry-after", b"3")]
    assert wire.http_refusal(BudgetSpent("x", retry_after_s=12)) == (429, [(b"retry-after", b"12")])
    assert wire.http_refusal(Unauthenticated("x"), metadata_url=url, scopes={"b:read", "a:read"})[1] == [
        (b"www-authenticate", b'Bearer scope="a:read b:read", resource_metadata="http://h/m"')
    ]


@pytest.mark.parametrize(
    ("error", "version", "code"),
    [
        (UnknownTool("x"), "2026-07-28", -32602),
        (UnknownResource("x"), "2026-07-28", -32602),
        (UnknownResource("x"), "2025-11-25", -32002),
        (Forbidden("x", []), "2025-11-25", -32600),
        (InvalidRequest("x", jsonrpc_code=-32700), "2026-07-28", -32700),
        (OutboxError("x"), "2026-07-28", -32603),
    ],
)
def test_each_error_has_its_code_at_its_revision(error: HeadgateError, version: str, code: int) -> None:
    assert wire.protocol_error(error, wire.noted("id", None), version).code == code


def test_why_a_credential_was_refused_is_for_the_record_alone() -> None:
    shown = wire.error_data(Unauthenticated("no", reason="bad_signature"), "id-1")
    assert shown == {"code": -32600, "message": "no", "data": {"code": "unauthenticated", "request_id": "id-1"}}


def test_a_tools_error_tells_what_helps_to_mend_it() -> None:
    answer = wire.tool_error(UnknownEntity("ordr", ["customer", "order"]), wire.noted("id-1", None))
    assert answer["isError"] is True
    assert answer["_meta"] == {
        "headgate/request_id": "id-1",
        "headgate/error": {"code": "unknown_entity", "known": ["customer", "order"]},
    }


def test_a_failure_inside_names_nothing_but_its_id() -> None:
    assert "id-1" in wire.failure("id-1").message
    assert wire.failure("id-1").code == -32603
