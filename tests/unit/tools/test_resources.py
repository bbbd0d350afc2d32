"""Texts that explain, and rows under URIs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import get_args

import pytest

from headgate import plugins
from headgate.errors import HeadgateError, SnapshotPending, UnknownResource
from headgate.model.pipeline import PipelineState
from headgate.model.position import FreshnessState
from headgate.testing import NOW_MS, grant_of
from headgate.tools._resources import read_resource, resources, scopes_of, templates
from tests.unit.tools.shop import progress, reader, shop_view


def every_error(root: type[HeadgateError] = HeadgateError) -> Iterator[type[HeadgateError]]:
    """The tree of errors."""
    yield root
    for each in root.__subclasses__():
        yield from every_error(each)


async def test_every_error_code_has_a_section() -> None:
    text = (await read_resource(shop_view(), "docs://troubleshooting")).text
    sections = dict(re.findall(r"^### (\w+)\n((?:(?!#).+\n)+)", text, re.MULTILINE))
    codes = {error.code for error in every_error() if error.__module__ == "headgate.errors"}
    assert codes == set(sections)
    assert all(len(said) > 40 for said in sections.values())


async def test_every_state_and_kind_is_explained() -> None:
    troubleshooting = (await read_resource(shop_view(), "docs://troubleshooting")).text
    types = (await read_resource(shop_view(), "docs://pipeline-types")).text
    assert all(f"| `{state}` |" in troubleshooting for state in get_args(FreshnessState))
    assert all(f"| `{state}` |" in types for state in get_args(PipelineState))
    families: tuple[plugins.Family, ...] = ("sources", "log", "stores")
    kinds = {kind for family in families for kind in plugins.kinds(family) if not kind.startswith("_")}
    assert all(f"| `{kind}` |" in types for kind in kinds)


async def test_all_that_is_listed_can_be_read_and_needs_the_scopes_it_names() -> None:
    assert [each.uri for each in resources()] == ["docs://pipeline-types", "docs://troubleshooting"]
    for each in resources():
        contents = await read_resource(shop_view(), each.uri)
        assert (contents.uri, contents.mime_type) == (each.uri, each.mime_type)
        assert contents.text.startswith(f"# {each.title}\n") and contents.freshness is None
        assert scopes_of(each.uri) == each.scopes == frozenset()
    [template] = templates()
    assert template.uri_template == "headgate://entity/{entity}/{key}"
    assert scopes_of("headgate://entity/customer/7") == template.scopes == {"data:read"}


async def test_a_row_under_its_uri() -> None:
    contents = await read_resource(shop_view(), "headgate://entity/customer/8")
    assert json.loads(contents.text) == {
        "entity": "customer",
        "uri": "headgate://entity/customer/8",
        "values": {"id": 8, "email": "bob@shop.example", "plan": "free", "profile": None},
    }
    assert contents.mime_type == "application/json"
    assert contents.freshness is not None and contents.freshness.state == "fresh"
    assert [mark.entity for mark in contents.watermarks] == ["customer"]


@pytest.mark.parametrize("key", ["1,a%2Cb", "1,a%2cb", "%31,a%2Cb"])
async def test_a_composite_key_in_any_encoding(key: str) -> None:
    contents = await read_resource(shop_view(), f"headgate://entity/order_line/{key}")
    assert json.loads(contents.text)["uri"] == "headgate://entity/order_line/1,a%2Cb"


async def test_a_row_that_is_stale_or_flawed_says_so() -> None:
    store = reader()
    partition = store.put("customer", {"id": 7}, flaw="schema_mismatch").partition
    store.set_progress("customer", partition, progress(NOW_MS - 75_000))
    contents = await read_resource(shop_view(store), "headgate://entity/customer/7")
    stale, flawed = json.loads(contents.text)["notes"]
    assert "75 s ago (bound 30 s)" in stale and "Do not trust headgate://entity/customer/7" in flawed


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("headgate://entity/customer/1234", "There is no 'customer' row with key '1234'."),
        ("headgate://entity/nothing/1", "There is no entity 'nothing'. Entities you can read: customer, order"),
        ("headgate://entity/customer/", "a key of 'customer' is id"),
        ("headgate://entity/customer", "a key of 'customer' is id"),
        ("headgate://entity/order_line/1", "a key of 'order_line' is order_id,sku"),
        ("docs://nothing", "docs://pipeline-types, docs://troubleshooting, headgate://entity/{entity}/{key}"),
        ("docs://../base", "There is no resource 'docs://../base'"),
    ],
)
async def test_what_is_not_there_is_said(uri: str, said: str) -> None:
    with pytest.raises(UnknownResource) as raised:
        await read_resource(shop_view(), uri)
    assert said in raised.value.message


async def test_an_absent_row_of_stale_data_says_so() -> None:
    with pytest.raises(UnknownResource, match=r"There is no .* Note: this data may be out of date"):
        await read_resource(shop_view(reader(as_of_ms=NOW_MS - 75_000)), "headgate://entity/customer/1234")


async def test_rows_need_the_scope_and_a_snapshot() -> None:
    with pytest.raises(UnknownResource, match="none yet"):
        await read_resource(shop_view(grant=grant_of("audit:read")), "headgate://entity/customer/7")
    store = reader()
    store.mark_pending("customer")
    with pytest.raises(SnapshotPending):
        await read_resource(shop_view(store), "headgate://entity/customer/7")
