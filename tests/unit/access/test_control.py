"""What may be asked of a pipeline, and by whom."""

from __future__ import annotations

import msgspec
import pytest

from headgate.access.control import Control
from headgate.errors import Forbidden, InvalidArguments, UnknownPipeline
from headgate.model.pipeline import Fault, LetterRequest, letter_requests, resnapshot_requests
from headgate.testing import NOW_MS, MemoryState, fixed_clock, grant_of
from tests.unit.tools.shop import report, shop_view


@pytest.fixture
def state() -> MemoryState:
    return MemoryState()


@pytest.fixture
def control(state: MemoryState) -> Control:
    return Control(state, "shop", fixed_clock())


def requests(state: MemoryState) -> list[LetterRequest]:
    entries = state.scan(letter_requests("shop")).values()
    return [msgspec.json.decode(entry.value, type=LetterRequest) for entry in entries]


def test_pausing_and_resuming_say_whether_they_are_news(control: Control) -> None:
    assert not control.desired().paused
    assert (control.resume(), control.pause(), control.pause()) == (False, True, False)
    assert control.desired().paused
    assert (control.resume(), control.resume()) == (True, False)


def test_every_restart_is_one_more_and_a_paused_pipeline_stays_paused(control: Control) -> None:
    control.pause()
    control.restart()
    control.restart()
    assert (control.desired().restarts, control.desired().paused) == (2, True)


def test_pipelines_are_asked_apart(state: MemoryState, control: Control) -> None:
    control.pause()
    assert not Control(state, "other", fixed_clock()).desired().paused


def test_a_table_is_read_again_by_its_name_with_or_without_its_schema(state: MemoryState, control: Control) -> None:
    for name in ("main.orders", "main.Items"):
        state.put(f"table/shop/{name}", b"{}")
    assert (control.resnapshot("orders"), control.resnapshot("main.orders"), control.resnapshot("MAIN.items")) == (
        True, False, True,
    )  # fmt: skip
    assert sorted(state.scan(resnapshot_requests("shop"))) == [
        "resnapshot/shop/main.Items",
        "resnapshot/shop/main.orders",
    ]


def test_an_unknown_table_names_those_there_are(state: MemoryState, control: Control) -> None:
    with pytest.raises(InvalidArguments, match="none so far"):
        control.resnapshot("orders")
    state.put("table/shop/main.orders", b"{}")
    with pytest.raises(InvalidArguments, match=r"Tables: main\.orders"):
        control.resnapshot("main.order")


def test_letters_are_asked_for_by_their_ids_or_all_at_once(state: MemoryState, control: Control) -> None:
    control.letters("retry", ["a", "b"])
    control.letters("retry", ["c"])  # in the same millisecond
    assert sorted(request.ids for request in requests(state)) == [("a", "b"), ("c",)]
    assert not any(request.every for request in requests(state))
    assert {request.asked_ms for request in requests(state)} == {NOW_MS}


def test_all_letters_count_the_changes_before_which_entities_stand_still(state: MemoryState, control: Control) -> None:
    fault = Fault(code="schema_mismatch", message="x", since_ms=1, entity="order", letter="order/t/0/7")
    state.report(report("materialize", tables=(fault,)))
    control.letters("drop", None)
    (request,) = requests(state)
    assert (request.action, request.every, request.ids) == ("drop", True, ("order/t/0/7",))


def test_only_a_grant_with_the_scope_may_ask(state: MemoryState) -> None:
    assert shop_view(state=state).control("shop").pause()
    with pytest.raises(Forbidden) as refused:
        shop_view(state=state, grant=grant_of("pipelines:read", "data:read")).control("shop")
    assert refused.value.scopes == ("pipelines:write",)
    with pytest.raises(UnknownPipeline):
        shop_view(state=state).control("nowhere")
    with pytest.raises(UnknownPipeline):
        shop_view(state=state, grant=grant_of("pipelines:write")).control("shop")
