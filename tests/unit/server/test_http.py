"""The HTTP door: what it refuses, how it says so, and that each is recorded or counted and leaks nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headgate.errors import Unavailable
from headgate.server.headers import LOOPBACK_NAMES, Reach
from headgate.server.http import HttpSettings
from headgate.server.request import BODY_LIMIT
from headgate.testing import MemoryReader
from headgate.tools._offer import Offer
from tests.conformance.tools import tools as suite_tools
from tests.unit.server.house import CUSTOMER, House, open_house
from tests.unit.server.visiting import (
    JSON_HEADERS,
    OLD,
    VERSION,
    Broken,
    bearer,
    call_of,
    legacy,
    modern,
    modern_headers,
    said,
    visit,
)

# --- what is answered ------------------------------------------------------------------------------


async def test_a_modern_call_is_answered_with_data_freshness_and_the_id_of_its_event(house: House) -> None:
    async with visit(house) as client:
        response = await client.post("/mcp", **call_of("lookup_customer", {"customer_id": 2}, house.token("data:read")))
    assert response.status_code == 200
    result = said(response)["result"]
    assert result["structuredContent"]["rows"][0]["values"]["email"] == "c2@shop.example"
    assert "c2@shop.example" in result["content"][0]["text"]
    assert result["_meta"]["headgate/freshness"]["staleness_ms"] == 1_000
    [event] = house.events()
    assert result["_meta"]["headgate/request_id"] == event.id
    assert (event.status, event.client_name, event.protocol_version) == ("answered", "probe", VERSION)


@pytest.mark.parametrize("version", [OLD, "2025-06-18", "2025-03-26", "2024-11-05"])
async def test_earlier_revisions_are_answered_without_a_session(house: House, version: str) -> None:
    call = {"name": "lookup_customer", "arguments": {"customer_id": 2}}
    async with visit(house) as client:
        token = house.token("data:read")
        response = await client.post("/mcp", **legacy("tools/call", call, token=token, version=version))
    assert "mcp-session-id" not in response.headers
    assert "c2@shop.example" in said(response)["result"]["content"][0]["text"]
    assert [event.status for event in house.events()] == ["answered"]


@pytest.mark.parametrize(
    ("scopes", "some", "none"),
    [
        ((), set(), {"lookup", "lookup_customer", "list_pipelines"}),
        (("data:read",), {"lookup", "lookup_customer", "find"}, {"list_pipelines"}),
        (("pipelines:read",), {"list_pipelines"}, {"lookup", "lookup_customer"}),
        (("admin",), {"lookup_customer", "list_pipelines"}, set()),
    ],
)
async def test_what_is_listed_can_be_called_and_nothing_else(
    house: House, scopes: tuple[str, ...], some: set[str], none: set[str]
) -> None:
    token = house.token(*scopes)
    async with visit(house) as client:
        listing = await client.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", "", token))
        result = said(listing)["result"]
        names = [tool["name"] for tool in result["tools"]]
        listed = set(names)
        everything = set(await house.rooms.toolbox.tools())
        answers = {name: await client.post("/mcp", **call_of(name, {}, token)) for name in everything}
    assert some <= listed
    assert not none & listed
    assert names == sorted(names)
    assert {name for name, answer in answers.items() if answer.status_code == 200} == listed
    assert {answer.status_code for name, answer in answers.items() if name not in listed} <= {403}
    assert (result["ttlMs"], result["cacheScope"]) == (5_000, "private")


async def test_a_listed_tool_says_all_that_a_model_needs(house: House) -> None:
    token = house.token("data:read")
    async with visit(house) as client:
        listing = await client.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", "", token))
    tool = next(tool for tool in said(listing)["result"]["tools"] if tool["name"] == "lookup_customer")
    assert set(tool["inputSchema"]["properties"]) >= {"customer_id", "email"}
    assert tool["outputSchema"]["type"] == "object"
    assert tool["annotations"]["readOnlyHint"] is True
    assert tool["annotations"]["destructiveHint"] is False


async def test_rows_and_texts_are_resources(house: House) -> None:
    async with visit(house) as client:
        token = house.token("data:read")

        async def ask(method: str, **params: str) -> dict[str, Any]:
            headers = modern_headers(method, params.get("uri", ""), token)
            return said(await client.post("/mcp", json=modern(method, params), headers=headers))

        listed = (await ask("resources/list"))["result"]["resources"]
        forms = (await ask("resources/templates/list"))["result"]["resourceTemplates"]
        row = (await ask("resources/read", uri="headgate://entity/customer/5"))["result"]
        text = (await ask("resources/read", uri="docs://troubleshooting"))["result"]
        absent = (await ask("resources/read", uri="headgate://entity/customer/99"))["error"]
    assert [each["uri"] for each in listed] == ["docs://pipeline-types", "docs://troubleshooting"]
    assert [each["uriTemplate"] for each in forms] == ["headgate://entity/{entity}/{key}"]
    assert json.loads(row["contents"][0]["text"])["values"]["id"] == 5
    assert row["_meta"]["headgate/freshness"]["staleness_ms"] == 1_000
    assert text["contents"][0]["mimeType"] == "text/markdown"
    assert (absent["code"], absent["data"]["code"]) == (-32602, "unknown_resource")
    assert [event.status for event in house.events()] == ["answered"] * 4 + ["refused"]


async def test_an_unknown_resource_keeps_its_old_code_for_old_clients(house: House) -> None:
    async with visit(house) as client:
        read = legacy("resources/read", {"uri": "docs://none"}, token=house.token())
        assert said(await client.post("/mcp", **read))["error"]["code"] == -32002


async def test_what_the_sdk_answers_alone_is_recorded_too(house: House) -> None:
    token = house.token()
    hello = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "old", "version": "9"}}
    async with visit(house) as client:
        discovered = await client.post(
            "/mcp", json=modern("server/discover"), headers=modern_headers("server/discover", "", token)
        )
        greeted = await client.post("/mcp", **legacy("initialize", hello, token=token))
        notice = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        noticed = await client.post("/mcp", json=notice, headers={**JSON_HEADERS, **bearer(token)})
        pinged = await client.post("/mcp", **legacy("ping", token=token))
        unknown = await client.post("/mcp", json=modern("no/such"), headers=modern_headers("no/such", "", token))
        old_unknown = await client.post("/mcp", **legacy("no/such", token=token))
    assert VERSION in said(discovered)["result"]["supportedVersions"]
    assert said(greeted)["result"]["serverInfo"]["name"] == "headgate"
    assert said(pinged)["result"] == {}
    assert noticed.status_code == 202
    assert (unknown.status_code, said(unknown)["error"]["code"]) == (404, -32601)
    assert said(old_unknown)["error"]["code"] == -32601
    assert [(event.method, event.status, event.error_code) for event in house.events()] == [
        ("server/discover", "answered", ""),
        ("initialize", "answered", ""),
        ("notifications/initialized", "answered", ""),
        ("ping", "answered", ""),
        ("no/such", "refused", "invalid_request"),
        ("no/such", "refused", "invalid_request"),
    ]
    assert house.events()[1].client_name == "old"


async def test_a_tools_own_error_is_an_answer_that_a_model_can_mend(house: House) -> None:
    async with visit(house) as client:
        response = await client.post(
            "/mcp", **call_of("lookup", {"entity": "order", "key": 1}, house.token("data:read"))
        )
    result = said(response)["result"]
    assert (response.status_code, result["isError"]) == (200, True)
    assert "customer" in result["content"][0]["text"]
    assert result["_meta"]["headgate/error"]["code"] == "unknown_entity"
    assert [(event.status, event.error_code) for event in house.events()] == [("refused", "unknown_entity")]


async def test_an_unknown_tool_is_an_error_of_the_protocol(house: House) -> None:
    async with visit(house) as client:
        new = await client.post("/mcp", **call_of("no_such_tool", {}, house.token("data:read")))
        old = await client.post("/mcp", **legacy("tools/call", {"name": "no_such"}, token=house.token("data:read")))
    for response in (new, old):
        assert said(response)["error"]["code"] == -32602
        assert said(response)["error"]["data"]["code"] == "unknown_tool"
    assert [event.error_code for event in house.events()] == ["unknown_tool", "unknown_tool"]


# --- what is refused -------------------------------------------------------------------------------


async def test_without_a_credential_every_method_is_told_where_to_get_one(house: House) -> None:
    async with visit(house) as client:
        for method in ("server/discover", "tools/list", "tools/call", "no/such"):
            response = await client.post("/mcp", json=modern(method), headers=modern_headers(method))
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == (
                'Bearer resource_metadata="http://localhost:8765/.well-known/oauth-protected-resource/mcp"'
            )
        where = "/.well-known/oauth-protected-resource/mcp"
        metadata = (await client.get(where)).json()
    assert metadata["resource"] == "http://localhost:8765/mcp"
    assert metadata["bearer_methods_supported"] == ["header"]
    assert house.events() == []


async def test_an_under_scoped_call_is_told_all_the_scopes_it_needs(house: House) -> None:
    async with visit(house) as client:
        answers = [
            await client.post("/mcp", **call_of(name, {"customer_id": 2}, house.token("pipelines:read")))
            for name in ("lookup_customer", "lookup_nothing")
        ]
        read = modern("resources/read", {"uri": "headgate://entity/customer/2"})
        headers = modern_headers("resources/read", "headgate://entity/customer/2", house.token())
        answers.append(await client.post("/mcp", json=read, headers=headers))
    for response in answers:
        assert response.status_code == 403
        challenge = response.headers["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_scope", scope="data:read"')
        assert said(response)["error"]["data"]["scopes"] == ["data:read"]
        assert said(response)["id"] == 1
    messages = [said(response)["error"]["message"] for response in answers]
    assert messages[0] == messages[1]
    assert [event.status for event in house.events()] == ["refused"] * 3


async def test_a_body_of_the_stateless_revision_needs_its_header(house: House) -> None:
    token = house.token("data:read")
    async with visit(house) as client:
        bare = await client.post("/mcp", json=modern("tools/list"), headers={**JSON_HEADERS, **bearer(token)})
        headers = {**modern_headers("tools/list", "", token), "mcp-protocol-version": OLD}
        other = await client.post("/mcp", json=modern("tools/list"), headers=headers)
    for response in (bare, other):
        assert (response.status_code, said(response)["error"]["code"]) == (400, -32020)
    assert [(event.status, event.method) for event in house.events()] == [("refused", ""), ("refused", "")]


async def test_blanks_that_the_server_leaves_in_headers_do_no_harm(house: House) -> None:
    headers = {**modern_headers("tools/list", "", house.token()), "mcp-method": "tools/list \t"}
    async with visit(house) as client:
        assert (await client.post("/mcp", json=modern("tools/list"), headers=headers)).status_code == 200


async def test_headers_that_tell_of_another_call_are_refused(house: House) -> None:
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    async with visit(house) as client:
        for name, value in (("mcp-method", "tools/list"), ("mcp-name", "find"), ("mcp-protocol-version", "2030-01-01")):
            response = await client.post("/mcp", json=call["json"], headers={**call["headers"], name: value})
            assert response.status_code == 400
            assert "c2@" not in response.text
    assert {(event.status, event.error_code) for event in house.events()} == {("refused", "invalid_request")}


async def test_a_body_larger_than_the_limit_is_refused_declared_or_not(house: House) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 1_048_576 + 1):
            yield b" " * 1_048_576

    headers = {**JSON_HEADERS, **bearer(house.token())}
    async with visit(house) as client:
        declared = await client.post("/mcp", content=b" " * (BODY_LIMIT + 1), headers=headers)
        streamed = await client.post("/mcp", content=chunks(), headers=headers)
    assert (declared.status_code, streamed.status_code) == (413, 413)
    assert [event.error_code for event in house.events()] == ["invalid_request"] * 2


async def test_no_stream_is_opened_by_get_and_each_try_is_recorded(house: House) -> None:
    async with visit(house) as client:
        for method in ("GET", "DELETE", "OPTIONS"):
            response = await client.request(method, "/mcp", headers=bearer(house.token()))
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
            assert said(response)["error"]["data"]["request_id"] == response.headers["x-request-id"]
        stranger = await client.get("/mcp")
    assert (stranger.status_code, "resource_metadata" in stranger.headers["www-authenticate"]) == (401, True)
    assert [(event.method, event.name, event.status) for event in house.events()] == [
        (method, "/mcp", "refused") for method in ("GET", "DELETE", "OPTIONS")
    ]


async def test_a_body_of_the_stateless_revision_without_its_header_is_refused(house: House) -> None:
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    bare = {name: value for name, value in call["headers"].items() if not name.startswith("mcp-")}
    async with visit(house) as client:
        for headers in (bare, {**bare, "mcp-protocol-version": OLD}):
            answer = await client.post("/mcp", json=call["json"], headers=headers)
            assert (answer.status_code, said(answer)["error"]["code"]) == (400, -32020)
    assert [event.status for event in house.events()] == ["refused"] * 2


async def test_lists_come_whole_and_say_how_long_they_hold(house: House) -> None:
    lists = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    async with visit(house) as client:
        token = house.token("data:read")
        for method in lists:
            whole = said(await client.post("/mcp", json=modern(method), headers=modern_headers(method, "", token)))
            assert (whole["result"]["ttlMs"], whole["result"]["cacheScope"]) == (5_000, "private")
            paged = modern(method, {"cursor": "2"})
            refused = await client.post("/mcp", json=paged, headers=modern_headers(method, "", token))
            assert (refused.status_code, said(refused)["error"]["code"]) == (400, -32602)
        read = modern("resources/read", {"uri": "docs://troubleshooting"})
        headers = modern_headers("resources/read", "docs://troubleshooting", token)
        text = said(await client.post("/mcp", json=read, headers=headers))["result"]
        about = said(
            await client.post(
                "/mcp", json=modern("server/discover"), headers=modern_headers("server/discover", "", token)
            )
        )["result"]
    assert (text["ttlMs"], text["cacheScope"]) == (3_600_000, "public")
    assert (about["ttlMs"], about["cacheScope"]) == (3_600_000, "public")


async def test_a_trace_is_taken_from_the_meta_and_else_from_the_headers(house: House) -> None:
    inner, outer = (f"00-{digit * 32}-{digit * 16}-01" for digit in "ab")
    call = call_of("lookup_customer", {"customer_id": 2}, house.token("data:read"))
    call["headers"]["traceparent"] = outer
    async with visit(house) as client:
        await client.post("/mcp", **call)
        call["json"]["params"]["_meta"]["traceparent"] = inner
        await client.post("/mcp", **call)
    assert [event.traceparent for event in house.events()] == [outer, inner]


async def test_what_a_header_says_of_an_argument_must_be_so(house: House) -> None:
    offered = replace(house, rooms=replace(house.rooms, offer=Offer(tools=suite_tools)))
    call = call_of("test_x_mcp_header", {"region": "north"}, house.token())
    encoded = {"mcp-param-region": "=?base64?bm9ydGg=?="}
    async with visit(offered) as client:
        for headers, status in (
            ({"mcp-param-region": "north"}, 200), (encoded, 200), ({}, 400), ({"mcp-param-region": "south"}, 400),
            ({"mcp-param-region": "=?base64?x?="}, 400),
        ):  # fmt: skip
            answer = await client.post("/mcp", json=call["json"], headers={**call["headers"], **headers})
            assert answer.status_code == status, headers
        twice = [*call["headers"].items(), ("mcp-param-region", "north"), ("Mcp-Param-Region", "south")]
        assert (await client.post("/mcp", json=call["json"], headers=twice)).status_code == 400
        old = legacy("tools/call", call["json"]["params"] | {"_meta": {}}, token=house.token())
        assert "region=north" in (await client.post("/mcp", **old)).text
    statuses = [event.status for event in house.events()]
    assert statuses == ["answered", "answered", "refused", "refused", "refused", "refused", "answered"]


async def test_the_local_user_is_one_of_this_machine_only(tmp_path: Path) -> None:
    with open_house(tmp_path, local=True) as house:
        body = {"json": modern("tools/list"), "headers": modern_headers("tools/list")}
        async with visit(house, peer="127.0.0.1") as client:
            assert (await client.post("/mcp", **body)).status_code == 200
            forwarded = {**body["headers"], "x-forwarded-for": "192.0.2.1"}
            assert (await client.post("/mcp", json=body["json"], headers=forwarded)).status_code == 401
            other = {**body["headers"], "authorization": "Basic YTpi"}
            assert (await client.post("/mcp", json=body["json"], headers=other)).status_code == 401
        async with visit(house, peer="192.0.2.1") as client:
            assert (await client.post("/mcp", **body)).status_code == 401


async def test_a_named_server_says_where_it_is_and_who_issues_tokens(house: House) -> None:
    settings = HttpSettings(
        reach=Reach((*LOOPBACK_NAMES, "gate.example")),
        public_url="https://gate.example/mcp",
        authorization_servers=("https://login.example",),
    )
    async with visit(house, settings) as client:
        where = "/.well-known/oauth-protected-resource"
        metadata = (await client.get(where, headers={"host": "gate.example"})).json()
        refused = await client.post("/mcp", json=modern("tools/list"), headers=modern_headers("tools/list"))
    assert metadata["resource"] == "https://gate.example/mcp"
    assert metadata["authorization_servers"] == ["https://login.example"]
    assert "https://gate.example/.well-known/oauth-protected-resource/mcp" in refused.headers["www-authenticate"]


# --- plain pages -----------------------------------------------------------------------------------


async def test_health_and_readiness(house: House) -> None:
    async with visit(house) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {
            "status": "ready",
            "entities": {"ready": 1, "snapshotting": 0, "missing": 0},
        }
        assert (await client.head("/readyz")).content == b""
        assert (await client.post("/readyz")).status_code == 405
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/healthz", headers={"host": "evil.example"})).status_code == 421


async def test_not_ready_until_every_entity_is_whole(house: House) -> None:
    pending = MemoryReader([CUSTOMER])
    pending.mark_pending(CUSTOMER.name)
    away = Broken(Unavailable("the store does not answer"))
    for reader, status in (
        (pending, "snapshotting"),
        (MemoryReader([]), "no entities yet"),
        (away, "store unavailable"),
    ):
        async with visit(house.with_reader(reader)) as client:
            response = await client.get("/readyz")
        assert (response.status_code, response.json()["status"]) == (503, status)
