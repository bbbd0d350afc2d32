"""What tools answer under a policy's document: the same for what is hidden as for what is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from headgate.errors import HeadgateError, InvalidArguments, NotIndexed, UnknownEntity, UnknownPipeline
from headgate.model.caller import Caller
from headgate.stores.base import Count, Join, JoinQuery, Query, Reader
from tests.unit.access.governed import ROWS, Governed, caller, filled_reader

ACME = caller("ann", claims={"tenant": "acme"})
BIRCH = caller("ben", claims={"tenant": "birch"})
OWN: Mapping[str, Any] = {
    "customer": {"rows": "tenant = claims.tenant", "fields": {"pin": "hide", "fresh": "hide"}},
    "order": {"rows": "tenant = claims.tenant"},
}


class Counting:
    """Counts what a reader is asked."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._reader, name)  # first: a reader is asked whether it has more than it must

        def counted(*given: Any, **named: Any) -> Any:
            self.asked.append(name)
            return found(*given, **named)

        return found if name in ("entities", "entities_now") else counted


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    file: Path = tmp_path_factory.mktemp("governed") / "store.db"
    with filled_reader(file) as reader:
        yield reader


def house(reader: Reader, entities: Any = OWN, *more: Any, tools: Any = "*", pipelines: Any = ()) -> Governed:
    rules = [
        {"name": f"r{number}", "to": "everyone", "tools": tools, "entities": said, "pipelines": list(pipelines)}
        for number, said in enumerate([entities, *more])
    ]
    return Governed(reader, json.dumps({"rules": rules}))


async def said(house: Governed, who: Caller, tool: str, **arguments: Any) -> Any:
    """A tool's whole answer, or its refusal."""
    try:
        answer = await house.call(who, tool, **arguments)
    except HeadgateError as error:
        return type(error), error.message, error.details
    return answer.text, answer.structured


# --- hidden is absent -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "hidden", "absent"),
    [
        ("lookup", {"entity": "customer", "key": 4}, {"entity": "customer", "key": 40}),
        ("lookup_customer", {"customer_id": 4}, {"customer_id": 40}),
        ("lookup", {"entity": "order", "by": {"customer_id": 4}}, {"entity": "order", "by": {"customer_id": 40}}),
        ("find", {"entity": "customer", "where": {"plan": "vip", "region": "south", "tenant": "birch"}},
         {"entity": "customer", "where": {"plan": "vip", "region": "south", "tenant": "oak40"}}),
        ("find", {"entity": "note"}, {"entity": "nota"}),
        ("lookup", {"entity": "note", "key": "x"}, {"entity": "nota", "key": "x"}),
        ("describe_data", {"entity": "note"}, {"entity": "nota"}),
        ("check_data_freshness", {"entity": "note"}, {"entity": "nota"}),
        ("find", {"entity": "customer", "where": {"pin": "1"}}, {"entity": "customer", "where": {"pim": "1"}}),
        ("find", {"entity": "customer", "order_by": "pin"}, {"entity": "customer", "order_by": "pim"}),
        ("lookup", {"entity": "customer", "by": {"pin": "1"}}, {"entity": "customer", "by": {"pim": "1"}}),
        ("lookup", {"entity": "customer", "key": 3, "include": ["notes"]},
         {"entity": "customer", "key": 3, "include": ["notez"]}),
    ],
)  # fmt: skip
async def test_hidden_and_absent_look_the_same(
    reader: Reader, tool: str, hidden: dict[str, Any], absent: dict[str, Any]
) -> None:
    counting: Any = Counting(reader)
    governed = house(counting)
    first = await said(governed, ACME, tool, **hidden)
    asked, counting.asked = counting.asked, []
    second = await said(governed, ACME, tool, **absent)
    assert asked == counting.asked, "at the same number of round trips"
    assert _without_names(first, hidden) == _without_names(second, absent)


def _without_names(answer: Any, arguments: Mapping[str, Any]) -> str:
    """The answer without what was asked for, which it may repeat."""
    text = repr(answer)
    for name in ("notes", "notez", "note", "nota", "'pin'", "'pim'", "40", "4"):
        text = text.replace(name, "_")
    return text


async def test_what_is_hidden_stands_nowhere(reader: Reader) -> None:
    """Not in schemas, lists, descriptions, errors, counts."""
    governed = house(reader)
    tools = await governed.toolbox.tools(governed.grant(ACME))
    answers = [await said(governed, ACME, "describe_data"), await said(governed, ACME, "find", entity="x"),
               await said(governed, ACME, "find", entity="customer", where={"x": 1}),
               await said(governed, ACME, "find", entity="customer"),
               await said(governed, ACME, "lookup_customer", customer_id=3, include=["orders", "peers"]),
               await said(governed, ACME, "lookup_customer", include=["x"])]  # fmt: skip
    everything = repr([(tool.name, tool.description, tool.input_schema, tool.output_schema) for tool in tools.values()])
    everything += repr(answers)
    for word in ("birch", "cedar", "note", "pin", "new-", "user3@"):
        assert word not in everything


async def test_pages_stay_full_and_counts_are_the_callers(reader: Reader) -> None:
    governed = house(reader)
    mine = [row["id"] for row in ROWS["customer"] if row["tenant"] == "acme"]
    found = await governed.pages(ACME, 2, entity="customer", order_by="score", descending=True)
    assert sorted(int(key) for key, _ in found) == mine
    assert await governed.view(ACME, "find").count("customer") == Count(rows=len(mine))
    assert await governed.view(ACME, "find").count("customer", most=2) == Count(rows=2, more=True)


async def test_overlapping_rules_count_each_row_once(reader: Reader) -> None:
    governed = house(reader, OWN, {"customer": {"rows": 'plan = "vip"'}}, {"customer": {"rows": "id in [4, 6, 99]"}})
    mine = [row for row in ROWS["customer"] if row["tenant"] == "acme" or row["plan"] == "vip" or row["id"] in (4, 6)]
    view = governed.view(ACME, "find")
    assert await view.count("customer") == Count(rows=len(mine))
    assert await view.count("customer", most=3) == Count(rows=3, more=True)
    assert len((await view.find("customer", Query(limit=100))).rows) == len(mine)


# --- a rule's tools -------------------------------------------------------------------------------


async def test_a_rule_gives_its_tools_over_its_entities_alone(reader: Reader) -> None:
    rules = [
        {"name": "a", "to": "everyone", "tools": ["find"], "entities": ["customer"]},
        {"name": "b", "to": "everyone", "tools": ["lookup*"], "entities": ["order"]},
    ]
    governed = Governed(reader, json.dumps({"rules": rules}))
    assert list(await governed.toolbox.allowed(governed.grant(ACME))) == ["find", "lookup", "lookup_order"]
    assert await governed.rows(ACME, "find", entity="customer", limit=1)
    with pytest.raises(UnknownEntity, match="Entities you can read: customer"):
        await governed.call(ACME, "find", entity="order")
    with pytest.raises(UnknownEntity, match="Entities you can read: order"):
        await governed.call(ACME, "lookup", entity="customer", key=3)
    assert await governed.read(ACME, "order", "1") and await governed.read(ACME, "customer", "3") is None


async def test_a_tool_that_lacks_only_a_scope_is_told_apart_from_one_that_is_hidden(reader: Reader) -> None:
    governed = house(reader, tools=["find", "lookup_*"])
    poor = caller("poor", claims={"tenant": "acme"}, scopes=frozenset({"pipelines:read"}))
    grant, needs = governed.grant(poor), governed.toolbox.scopes_of_tool
    assert await governed.toolbox.allowed(grant) == {}
    assert await needs("find", grant) == {"data:read"}
    assert await needs("list_pipelines", grant) == await needs("no_such_tool", grant) == frozenset()
    assert await needs("lookup_note", grant) == await needs("lookup_customer", grant) == {"data:read"}


async def test_callers_who_see_alike_share_their_tools(reader: Reader) -> None:
    governed = house(reader)
    one, other = [await governed.toolbox.tools(governed.grant(who)) for who in (ACME, BIRCH)]
    assert one["lookup_customer"] is other["lookup_customer"]
    assert governed.toolbox.schema_digest(one["find"]) == governed.toolbox.schema_digest(other["find"])


# --- cursors --------------------------------------------------------------------------------------


async def cursor_of(governed: Governed, who: Caller, **arguments: Any) -> str:
    answer = await governed.call(who, "find", entity="customer", limit=2, **arguments)
    return str(answer.structured["truncated"]["cursor"])


async def test_a_cursor_is_of_no_use_to_another_grant_or_query(reader: Reader) -> None:
    governed = house(reader)
    cursor = await cursor_of(governed, ACME)
    assert await governed.rows(ACME, "find", entity="customer", limit=2, cursor=cursor)
    for who, more in ((BIRCH, {}), (caller("eve", claims={"tenant": "acme"}), {}), (ACME, {"where": {"plan": "vip"}}),
                      (ACME, {"order_by": "score"}), (ACME, {"entity": "order"})):  # fmt: skip
        arguments: dict[str, Any] = {"entity": "customer", **more}
        with pytest.raises(InvalidArguments, match="repeat the query without it"):
            await governed.call(who, "find", cursor=cursor, **arguments)


async def test_a_changed_policy_ends_its_cursors(reader: Reader) -> None:
    governed = house(reader)
    cursor = await cursor_of(governed, ACME)
    governed.policy.adopt(house(reader, OWN, {"note": None}).edition)
    with pytest.raises(InvalidArguments):
        await governed.call(ACME, "find", entity="customer", cursor=cursor)


@pytest.mark.parametrize("bad", ["", "x", "AAAA", "é", "=" * 40, "A" * 5_000])
async def test_what_is_no_cursor_is_refused(reader: Reader, bad: str) -> None:
    with pytest.raises(InvalidArguments):
        await house(reader).view(ACME, "find").find("customer", Query(after=bad or "."))


async def test_a_cursor_is_the_same_each_time_and_tells_nothing(reader: Reader) -> None:
    governed = house(reader)
    cursor = await cursor_of(governed, ACME, order_by="score")
    assert cursor == await cursor_of(house(reader), ACME, order_by="score"), "a call that is run again answers the same"
    assert "acme" not in cursor and len(cursor) < 120


# --- the view holds where a tool would not ----------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [Query(equals={"pin": "1"}), Query(order="email"), Query(ranges={"email": None}), Query(equals={"email": "x"})],  # type: ignore[dict-item]  # the view must not even look at it
)
async def test_hidden_and_masked_fields_decide_nothing(reader: Reader, query: Query) -> None:
    with pytest.raises(NotIndexed) as refused:
        await house(reader).view(ACME, "find").find("customer", query)
    assert refused.value.details["indexed"] == ["born", "plan", "region", "score", "tenant"]


async def test_a_masked_field_is_not_looked_up_by(reader: Reader) -> None:
    view = house(reader).view(ACME, "lookup")
    with pytest.raises(NotIndexed):
        await view.lookup("customer", "email", ["user3@acme.example"], 5)
    with pytest.raises(InvalidArguments):
        await view.joined("customer", JoinQuery(keys=["3"], joins=[Join(relation="nope")]))


async def test_rows_are_seen_through_every_way(reader: Reader) -> None:
    view = house(reader).view(ACME, "lookup")
    found = [
        *(await view.get("customer", [str(number) for number in range(20)])).rows,
        *(await view.lookup("customer", "plan", ["vip", "free"], 50)).rows,
        *(await view.find("customer", Query(ranges={}))).rows,
        *(await view.joined("customer", JoinQuery(field="plan", values=["vip", "free"]))).rows,
    ]
    values = [json.loads(row.json) for row in found]
    assert len(values) == 4 * sum(row["tenant"] == "acme" for row in ROWS["customer"])
    assert {each["tenant"] for each in values} == {"acme"} and not any("pin" in each for each in values)
    assert {each["email"] for each in values} == {"u***@acme.example"}


async def test_pipelines_are_those_that_a_rule_names(reader: Reader) -> None:
    shown = house(reader, pipelines=["sh*"]).view(ACME, "list_pipelines")
    [status] = await shown.pipelines()
    assert status.info.entities == ("customer", "order") and status.info.tables == ("main.customers", "main.orders")
    assert [mark.entity for mark in await shown.pipeline_watermarks("shop")] == ["customer", "order"]
    hidden = house(reader).view(ACME, "list_pipelines")
    assert list(await hidden.pipelines()) == []
    with pytest.raises(UnknownPipeline, match="none yet"):
        await hidden.dead_letters("shop", 1)
